"""`nlnet.from_pretrained`: a network with its weights, from a run or from a converted file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nlnet.checkpoints.files import BEST, FOREIGN, LAST, PREVIOUS, read_file
from nlnet.checkpoints.infer import make
from nlnet.checkpoints.mismatch import check_outline, filled
from nlnet.errors import UserError, nearest
from nlnet.trust.schema import BUILT_FROM_CLASSES
from nlnet.trust.settings import ALLOW, plain_arguments
from nlnet.trust.targets import accepts, find_target, is_within

WEIGHTS = ("ema", "trained")
"""Which weights of a checkpoint are meant; see `chosen_weights`."""


def from_pretrained(path: str | Path, *, allow_targets: Sequence[str] = (), weights: str | None = None) -> nn.Module:
    """The network saved in `path`, in evaluation mode: clip (B, 3, T, H, W) -> logits (B, classes).

    That of a segmentation takes images (B, 3, H, W) in 0 to 1 and gives logits (B, classes, H, W).

    Args:
        path: a run's folder (its best checkpoint, else its last), a checkpoint of a run, or a file that
            `nlnet-convert` or `Converted.save` wrote. Only tensors and plain values are read; nothing is run.
        allow_targets: packages whose functions and classes may be imported and called to build the network of a run
            that is not one of `build_model`'s, such as ["mine"]. It is called with the settings of the run, and with as
            many `num_classes` as the run had classes.
        weights: of a run with `callbacks=ema`: "ema" or "trained"; see `chosen_weights`.

    Raises UserError if there is no such file, if it does not say which network it is of, if that network's package is
    not allowed, or if the weights are not the network's.
    """
    file = checkpoint_file(Path(path))
    return saved(chosen_weights(read_file(file), weights, str(file)), file, allow_targets).build()


@dataclass(frozen=True)
class Saved:
    """What is in a checkpoint, before the network is made."""

    file: Path
    make: Callable[[], Any]
    state: Mapping[str, Tensor]
    missing: Sequence[str]
    ours: bool

    def build(self) -> nn.Module:
        """The network, in evaluation mode. Raises UserError if it cannot be made, or the weights are not its own."""
        try:
            if self.ours:
                check_outline(self.make, self.state, str(self.file), self.missing)
            net = self.make()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{self.file}: the network it names cannot be built with its settings: {error}") from error
        if not isinstance(net, nn.Module):
            raise UserError(f"{self.file}: the network it names is a {type(net).__name__}, not a torch.nn.Module")
        return filled(net, self.state, str(self.file), self.missing)


def saved(content: Mapping[str, Any], file: Path, allow_targets: Sequence[str] = ()) -> Saved:
    """`content` as a run or `nlnet-convert` wrote it to `file`; see `from_pretrained`. Raises UserError if neither."""
    if not isinstance(content.get("state_dict"), Mapping):
        raise UserError(f"{file}: neither a run's checkpoint nor a converted file; {FOREIGN}")
    state, model = content["state_dict"], content.get("model")
    if isinstance(model, Mapping):
        missing = content.get("missing")
        missing = [key for key in missing if isinstance(key, str)] if isinstance(missing, list) else []
        arguments = plain_arguments(model, str(file))
        return Saved(file, partial(make, arguments), state, missing, True)
    state = {key.removeprefix("net."): value for key, value in state.items() if str(key).startswith("net.")}
    function = _network_of_run(content, state, file, allow_targets)
    ours = function.func is make or content["hyper_parameters"]["model"]["_target_"] in BUILT_FROM_CLASSES
    return Saved(file, function, state, [], ours)


def chosen_weights(content: dict[str, Any], which: str | None, where: str) -> dict[str, Any]:
    """`content` of a checkpoint with the weights that are asked for in its `state_dict`.

    A run with an average of weights (`callbacks=ema`) has both in its checkpoints: the average as `state_dict`, and
    the weights that its optimizer steps as `current_model_state`.

    Args:
        content: what is in the checkpoint.
        which: "ema" for the average, "trained" for what the optimizer steps, None for the average where there is one.
        where: the file, as the messages begin.

    Raises UserError for another word, and for "ema" where there is no average.
    """
    if which not in (*WEIGHTS, None):
        raise UserError(f"weights={which}: there is no such choice; {nearest(str(which), WEIGHTS)}")
    stepped = content.get("current_model_state")
    if isinstance(stepped, Mapping):
        return content | {"state_dict": stepped} if which == "trained" else content
    if which == "ema":
        raise UserError(
            f"{where}: weights=ema: its run kept no average of its weights (callbacks=ema does); leave weights out"
        )
    return content


def run_state(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The weights under the names of a run's task; a converted file has the network's own.

    Raises UserError if there are none.
    """
    state = content.get("state_dict")
    if not isinstance(state, Mapping):
        raise UserError(f"{where}: neither a run's checkpoint nor a converted file; {FOREIGN}")
    return {f"net.{key}": value for key, value in state.items()} if isinstance(content.get("model"), Mapping) else state


def checkpoint_file(path: Path) -> Path:
    """`path`, or the best checkpoint of the run whose folder it is, else its last. Raises UserError."""
    if not path.is_dir():
        return path
    checkpoints = [path / "checkpoints" / name for name in (BEST, LAST, PREVIOUS)]
    found = next((checkpoint for checkpoint in checkpoints if checkpoint.is_file()), None)
    if found is None:
        raise UserError(f"{path}: no checkpoints/best.ckpt or last.ckpt in this folder; give a run's folder or a file")
    return found


def _network_of_run(
    content: Mapping[str, Any], state: Mapping[str, Tensor], file: Path, allow_targets: Sequence[str]
) -> partial[Any]:
    """What makes the network, from the configuration that every checkpoint of a run carries."""
    settings = content.get("hyper_parameters")
    model = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(model.get("_target_"), str):
        raise UserError(f"{file}: its settings do not say which network it is of; build it yourself")
    target, arguments = model["_target_"], plain_arguments(model, str(file))
    if target == "nlnet.build_model":
        return partial(make, arguments | ({"num_classes": len(state["fc.weight"])} if "fc.weight" in state else {}))
    packages = [allow_targets] if isinstance(allow_targets, str) else list(allow_targets)
    packages += ["nlnet"] if target in BUILT_FROM_CLASSES else []
    if not is_within(target, packages):
        raise UserError(
            f"{file}: its network ({target}) is not one of nlnet.build_model's; if you trust that package, allow it"
            f" with {ALLOW.format(package=target.partition('.')[0])}"
        )
    function = find_target(target, packages, f"{file}: its network")
    if isinstance(classes := content.get("classes"), list) and accepts(function, "num_classes"):
        arguments["num_classes"] = len(classes)
    if not accepts(function, "dropout"):
        arguments.pop("dropout", None)  # debug=overfit turns it off in any network
    return partial(function, **arguments)
