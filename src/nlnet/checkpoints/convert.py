"""From a foreign checkpoint to our state dict and the arguments of the network that gives the same logits."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlnet.checkpoints.infer import Shape, infer, make, shapes
from nlnet.checkpoints.mismatch import filled
from nlnet.checkpoints.report import Report
from nlnet.checkpoints.sources import alexhex7, caffe2, gluoncv, mmaction2, pytorchvideo, slowfast, torchvision
from nlnet.checkpoints.sources.source import Source, rename
from nlnet.errors import UserError, nearest
from nlnet.saving import replacing
from nlnet.sealing import save_sealed

Reader = Callable[..., Source]

SOURCES: Mapping[str, Reader] = {
    "caffe2": caffe2.read,
    "slowfast": slowfast.read,
    "mmaction2": mmaction2.read,
    "pytorchvideo": pytorchvideo.read,
    "gluoncv": gluoncv.read,
    "alexhex7": alexhex7.read,
    "torchvision": torchvision.read,
}
"""What can be converted; each reads a file, with what else of `convert`'s arguments it names."""


@dataclass(frozen=True)
class Converted:
    """A network or a block with somebody's weights: `build()` makes it, `save` writes what `from_pretrained` reads."""

    state_dict: dict[str, Tensor]
    model: dict[str, Any]
    """The arguments of `build_model`; for a block alone, of `NonLocalBlock`, which has `channels`."""
    report: Report
    source: str

    def build(self) -> nn.Module:
        """The network in evaluation mode. Missing keys that were allowed keep their initial values.

        Raises UserError if the weights are not those of the network.
        """
        return filled(make(self.model), self.state_dict, f"the {self.source} checkpoint", self.report.missing)

    def save(self, path: str | Path) -> None:
        """A PyTorch file of tensors and plain values, with a digest of its own. Raises UserError if it cannot be."""
        content = {"model": self.model, "state_dict": self.state_dict, "missing": list(self.report.missing)}
        with replacing(path) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            save_sealed(content | {"source": self.source}, temporary)


def convert(
    path: str | Path,
    source: str,
    *,
    config: str | Path | None = None,
    block: str | None = None,
    allow: Sequence[str] = (),
    **model: Any,
) -> Converted:
    """The weights in `path`, a checkpoint of the program `source`, as ours, and the network they belong to.

    Args:
        path: the file.
        source: a name in `SOURCES`.
        config: the program's own configuration of the network, where what it computes is not in the file (mmaction2,
            slowfast, and caffe2 for SlowFast's files). Every setting of the network is converted or refused.
        block: the one to take where a file has several (alexhex7), by the beginning of its keys, such as "nl_1".
        allow: patterns of left-over and missing keys that are no error, such as "fc.*".
        model: arguments of `build_model` that are known better than from the file; for a 2-D ResNet, the `name` of
            the network to inflate it into. For a block alone, arguments of `NonLocalBlock`.

    Raises UserError if the file cannot be read, if a key has no counterpart, or if something that changes the logits
    is neither in the file nor given.
    """
    if source not in SOURCES:
        raise UserError(f"source {source!r} is unknown; {nearest(source, SOURCES)}")
    beside = {"config": None if config is None else Path(config), "block": block}
    read = _read(source, Path(path), {name: value for name, value in beside.items() if value is not None}, model)
    report = Report(training=[key for key in read.tensors if rename(key, [(p, "") for p in read.training]) is not None])
    weights = [key for key in read.tensors if key not in report.training]
    targets = {key: None if rename(key, read.apart) else rename(key, read.rules) for key in weights}
    ours = {target: read.tensors[key] for key, target in targets.items() if target is not None}
    arguments = {**read.model, **model}
    if "channels" not in arguments:
        arguments = infer(ours, arguments) | arguments
    _check_known(arguments, read.unknown, str(path))
    wanted = shapes(arguments)
    state = _fill(read, targets, wanted, report)
    report.check(allow, f"{path} as {source}")
    return Converted(state, arguments, report, source)


def _read(source: str, path: Path, beside: Mapping[str, Any], model: Mapping[str, Any]) -> Source:
    takes = inspect.signature(SOURCES[source]).parameters
    for name, value in beside.items():
        if name not in takes:
            raise UserError(f"{name}={value}: nothing of {source} is read from a {name}; leave it out")
    where = beside.get("config", path)
    try:
        return SOURCES[source](path, **beside, **{name: value for name, value in model.items() if name in takes})
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error}") from error
    except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: not what {source} writes: {type(error).__name__}: {error}") from error


def _check_known(arguments: Mapping[str, Any], unknown: Mapping[str, str], path: str) -> None:
    for key, where in unknown.items():
        of_blocks = key in ("pairwise", "scale") and not arguments.get("nonlocal_blocks", 1)
        of_softmax = key == "scale" and arguments.get("pairwise") != "embedded_gaussian"
        if key not in arguments and not of_blocks and not of_softmax:
            raise UserError(f"{path}: {key} changes the output and is not in the file. {where}")


def _fill(
    read: Source, targets: Mapping[str, str | None], wanted: Mapping[str, Shape], report: Report
) -> dict[str, Tensor]:
    """Our state dict, in the network's order; what became of every key goes to the report."""
    state: dict[str, Tensor] = {}
    why: dict[str, str] = {}
    for key, target in targets.items():
        if target is None or target not in wanted:
            _leave(read, key, report)
            continue
        value = fit(read.tensors[key], wanted[target])
        if value is None:
            why[target] = f"{key} is {tuple(read.tensors[key].shape)}, here {wanted[target]}"
            report.left_over[key] = f"{target} is {wanted[target]}, here {tuple(read.tensors[key].shape)}"
        elif target in state:
            report.left_over[key] = f"a second tensor for {target}"
        else:
            state[target] = value
            report.mapped[key] = target
    for target, shape in wanted.items():
        if target in state:
            continue
        if (constant := _constant(target, shape, state, read.folded_norms)) is not None:
            state[target], report.made[target] = constant
        else:
            report.missing[target] = why.get(target, "no source key")
    return {target: state[target] for target in wanted if target in state}


def _leave(read: Source, key: str, report: Report) -> None:
    """A key that no rule knows is left over, but for an equal copy of one that a rule does know."""
    original = rename(key, read.copies)
    if (why := rename(key, read.apart)) is not None:
        report.left_over[key] = why
    elif original is None or original not in read.tensors:
        report.left_over[key] = "no rule knows it"
    elif torch.equal(read.tensors[key], read.tensors[original]):
        report.folded[key] = f"a copy of {original}"
    else:
        report.left_over[key] = f"it should be a copy of {original} and differs"


def fit(value: Tensor, shape: Shape) -> Tensor | None:
    """`value` with this shape: as it is, without or with trailing ones, or a 2-D kernel over t frames, divided by t.

    The sum over t equal frames of a kernel / t is the 2-D kernel's answer (paper section 3.4, "inflation"). None where
    it does not fit.
    """
    here = tuple(value.shape)
    if here == shape:
        return value.clone()
    if len(here) == 4 and len(shape) == 5 and here == (*shape[:2], *shape[3:]):
        return (value / shape[2]).unsqueeze(2).expand(shape).contiguous()
    if here + (1,) * (len(shape) - len(here)) == shape + (1,) * (len(here) - len(shape)):
        return value.reshape(shape).clone()
    return None


def _constant(target: str, shape: Shape, state: Mapping[str, Tensor], folded: bool) -> tuple[Tensor, str] | None:
    """The value of what a source need not have: a norm's batch counter, and the statistics of one folded to s x + b."""
    norm, _, name = target.rpartition(".")
    if f"{norm}.weight" not in state:
        return None
    if name == "num_batches_tracked":
        return torch.tensor(0), "0"
    if folded and name == "running_mean":
        return torch.zeros(shape), "0, the norm is folded"
    if folded and name == "running_var":
        # so that weight / sqrt(variance + eps) is the folded scale
        return torch.full(shape, 1 - 1e-5), "1 - eps, the norm is folded"
    return None
