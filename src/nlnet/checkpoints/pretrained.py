"""`nlnet.from_pretrained`: a network with its weights, from a run or from a converted file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nlnet.checkpoints.convert import build
from nlnet.checkpoints.source import load
from nlnet.errors import UserError

_BUILD_MODEL = ("nlnet.build_model", "nlnet.models.build_model", "nlnet.models.build.build_model")


def from_pretrained(path: str | Path) -> nn.Module:
    """The network saved in `path`, in evaluation mode: clip (B, 3, T, H, W) -> logits (B, classes).

    Args:
        path: a run's folder (its best checkpoint, else its last), a checkpoint of a run, or a file that
            `nlnet-convert` or `Converted.save` wrote. Only tensors and plain values are read; nothing is run.

    Raises UserError if there is no such file, or if it does not say which network it is of.
    """
    file = checkpoint_file(Path(path))
    return saved(load(file), file).build()


@dataclass(frozen=True)
class Saved:
    """What is in a checkpoint, before the network is made: the arguments of `build_model` and its weights."""

    file: Path
    model: Mapping[str, Any]
    state: Mapping[str, Tensor]
    missing: Sequence[str]

    def build(self) -> nn.Module:
        """The network, in evaluation mode. Raises UserError if the weights are not its own."""
        try:
            return build(self.model, self.state, self.missing)
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{self.file}: its weights are not those of the network it names: {error}") from error


def saved(content: Any, file: Path) -> Saved:
    """`content` as a run or `nlnet-convert` wrote it to `file`. Raises UserError if neither did."""
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise UserError(f"{file}: neither a run's checkpoint nor a converted file; convert others with nlnet-convert")
    state = content["state_dict"]
    if isinstance(content.get("model"), Mapping):
        return Saved(file, dict(content["model"]), state, content.get("missing", []))
    state = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    return Saved(file, _of_run(content.get("hyper_parameters"), state, file), state, [])


def checkpoint_file(path: Path) -> Path:
    """`path`, or the best checkpoint of the run whose folder it is, else its last. Raises UserError."""
    if not path.is_dir():
        return path
    checkpoints = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    found = next((checkpoint for checkpoint in checkpoints if checkpoint.is_file()), None)
    if found is None:
        raise UserError(f"{path}: no checkpoints/best.ckpt or last.ckpt in this folder; give a run's folder or a file")
    return found


def _of_run(settings: Any, state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """The arguments of `build_model` from the configuration that every checkpoint of a run carries."""
    model = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(model, Mapping) or model.get("_target_") not in _BUILD_MODEL:
        target = model.get("_target_") if isinstance(model, Mapping) else None
        raise UserError(f"{file}: its network ({target}) is not one of nlnet.build_model's; build it yourself")
    arguments = {key: value for key, value in model.items() if not key.startswith("_")}
    if "fc.weight" in state:
        arguments["num_classes"] = state["fc.weight"].shape[0]
    return arguments
