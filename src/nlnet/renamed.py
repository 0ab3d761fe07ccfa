"""What earlier versions called things: configurations, checkpoints and command lines of theirs still work.

One version long: what is renamed in a version is dropped in the one after the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlnet.text import say

KEYS = {
    "optim.undecayed": "optim.no_weight_decay",
    "protocol.together": "protocol.clips_per_forward",
    "init.taps": "init.inflation",
    "callbacks.panel": "callbacks.image_grid",
}
"""Configuration keys of 0.1 -> today's. The value of a whole group moves with its key."""

VALUES = {("init.inflation", "centre"): "center", ("protocol.crops", "centre"): "center"}
"""(today's key, its value in 0.1) -> today's value."""

TARGETS = {
    "nlnet.data.detection.DetectionDataModule": "nlnet.data.modules.detection.DetectionDataModule",
    "nlnet.data.module.ClipDataModule": "nlnet.data.modules.clips.ClipDataModule",
    "nlnet.models.build.build_model": "nlnet.build_model",
    "nlnet.models.build_model": "nlnet.build_model",
    "nlnet.models.detection.build_detector": "nlnet.models.detection.build.build_detector",
    "nlnet.runs.loggers.wandb_logger": "nlnet.runs.loggers.wandb_logger",
    "nlnet.runs.precise_bn.PreciseBatchNorm": "nlnet.runs.callbacks.precise_bn.PreciseBatchNorm",
    "nlnet.runs.prediction_panel.PredictionPanel": "nlnet.runs.callbacks.image_grid.ImageGrid",
    "nlnet.runs.schedules.constant": "nlnet.optim.schedules.constant",
    "nlnet.runs.schedules.cosine": "nlnet.optim.schedules.cosine",
    "nlnet.runs.schedules.step": "nlnet.optim.schedules.step",
    "nlnet.runs.schedules.step_epochs": "nlnet.optim.schedules.step_epochs",
    "nlnet.tasks.ClassificationTask": "nlnet.tasks.classification.ClassificationTask",
}
"""`_target_` of 0.1 -> today's."""

CALLBACKS = {"Accounting": "SampleCounter"}
"""The names under which callbacks of 0.1 keep their state in a checkpoint -> today's."""


def current_overrides(overrides: Sequence[str]) -> list[str]:
    """The words of a command line with today's keys and values; a line on standard error for each that is not."""
    return [_override(word) for word in overrides]


def current_config(node: Any) -> Any:
    """A plain configuration as a run of an earlier version saved it, with today's keys, values and targets."""
    result: Any = {}
    for path, value in _leaves(node, ()):
        key = ".".join(path)
        today = _key(key)
        _put(result, path if today == key else today.split("."), _value(today, value))
    return result


def current_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A run's checkpoint with today's names in its configuration and its callbacks' states."""
    renamed = dict(checkpoint)
    if isinstance(checkpoint.get("hyper_parameters"), Mapping) and checkpoint["hyper_parameters"]:
        renamed["hyper_parameters"] = current_config(checkpoint["hyper_parameters"])
    if isinstance(checkpoint.get("callbacks"), Mapping):
        states = checkpoint["callbacks"].items()
        renamed["callbacks"] = {CALLBACKS.get(name, name): state for name, state in states}
    return renamed


def _override(word: str) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    today = _key(name)
    as_said = _value(today, value)
    if (today, as_said) == (name, value):
        return word
    renamed = f"{key.removesuffix(name)}{today}{equals}{as_said}"
    say(f"note: {word} is now {renamed}; the old name works in this version only", error=True)
    return renamed


def _key(key: str) -> str:
    """Today's name of a dotted key, whose beginning may be a group that was renamed."""
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def _value(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key.endswith("_target_"):
        return TARGETS.get(value, value)
    return VALUES.get((key, value), value)


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of everything that is not a mapping, and of empty mappings."""
    if not isinstance(node, Mapping) or not node:
        yield path, node
        return
    for name, value in node.items():
        yield from _leaves(value, (*path, str(name)))


def _put(node: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        node = node.setdefault(name, {})
    node[path[-1]] = value
