"""The configuration of a run: composed, sized, named, and from then on read only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override, open_dict

from nlnet.config.check import check
from nlnet.config.compose import compose
from nlnet.config.demo import runs_demo, stand_in
from nlnet.config.words import read_words
from nlnet.data.synthetic.make import folder_of
from nlnet.errors import UserError
from nlnet.trust.schema import NETWORKS

_FINEST = {"mask_rcnn": "mask", "keypoint_rcnn": "keypoint"}
"""What the average precision of a detector is of that decides, where task.monitor is null; of boxes for all others."""
_FILLED_IN = ("demo", "experiment_name", "typed")


def load(overrides: Sequence[str] = ()) -> DictConfig:
    """What `python src/train.py OVERRIDES` would run with, for notebooks and tests."""
    words = read_words(overrides)
    return resolve(compose(words), words)


def resolve(cfg: DictConfig, overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """The configuration that a run really uses, from the composed one: at the demo's size where the demo rule says so.

    A demo's shards are the built-in ones, made when the run starts. The result is read only; what is decided later
    makes a copy (`changed`). Raises UserError where shards are missing, and for values that cannot be (`check`).
    """
    values = _names(cfg, overrides)
    check(changed(cfg, values | _monitor(cfg)))
    demo = runs_demo(cfg, overrides)
    if demo or "size=demo" in overrides:
        # The size is composed after the trainer's group, and says which device the demo is for.
        if chosen("trainer", overrides) and "trainer.accelerator" not in values["typed"]:
            values["trainer.accelerator"] = _full(cfg, overrides, config_name).trainer.accelerator
        cfg = _demo_sized(cfg, overrides, config_name)
    values["demo"] = demo
    if demo:
        values["data.shards"] = str(folder_of(Path(cfg.paths.data_dir), stand_in(cfg)))
    cfg = changed(cfg, values | _monitor(cfg))
    check(cfg)
    return cfg


def _monitor(cfg: DictConfig) -> dict[str, Any]:
    """The metric that decides where the task's configuration leaves it open."""
    if not isinstance(cfg.task, DictConfig) or "monitor" not in cfg.task or cfg.task.monitor is not None:
        return {}
    return {"task.monitor": f"val/{_FINEST.get(cfg.model.get('name'), 'box')}_AP"}


def _names(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """What a run is called, and what was typed; a name that looks like a number is a name."""
    typed = typed_keys(overrides)
    for key in _FILLED_IN:
        if key in typed:
            raise UserError(f"{key}: a run fills this in itself; experiment=NAME and size=demo choose what is run")
    values: dict[str, Any] = {"experiment_name": chosen("experiment", overrides), "typed": typed}
    if isinstance(cfg.task_name, int | float):
        values["task_name"] = chosen("task_name", overrides) or str(cfg.task_name)
    if isinstance(cfg.tags, ListConfig):
        values["tags"] = [str(tag) if isinstance(tag, int | float) else tag for tag in cfg.tags]
    return values


def chosen(group: str, overrides: Sequence[str]) -> str | None:
    """The last option that a command line chooses of a group, without quotes and `.yaml`; None for none."""
    options = [word.partition("=")[2] for word in overrides if word.partition("=")[0].lstrip("+") == group]
    option = options[-1].strip("'\"").removesuffix(".yaml") if options else ""
    return option if option not in ("", "null") else None


def typed_keys(overrides: Sequence[str]) -> list[str]:
    """The keys and groups that a command line sets."""
    return sorted({word.partition("=")[0].lstrip("+~") for word in overrides})


def changed(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A read-only copy with other values under these dotted keys, new keys among them."""
    copy = cfg.copy()
    with flag_override(copy, ["readonly", "struct"], [False, False]), open_dict(copy):
        for key, value in values.items():
            OmegaConf.update(copy, key, value, merge=False, force_add=True)
    OmegaConf.set_readonly(copy, True)
    return copy


def without(node: DictConfig, key: str) -> DictConfig:
    """A copy of a part of a configuration that lacks `key`; interpolations into the rest still hold."""
    copy = node.copy()
    with flag_override(copy, ["readonly", "struct"], [False, False]):
        copy.pop(key, None)
    return copy


def _demo_sized(cfg: DictConfig, overrides: Sequence[str], config_name: str) -> DictConfig:
    """After the experiment and before the debug group and the command line, which is where `size` stands."""
    others = _without_size(overrides)
    full = _full(cfg, overrides, config_name)
    size = cfg.demo_size if full.model.get("_target_") in NETWORKS else "demo_data"
    return cfg if f"size={size}" in overrides else compose([*others, f"size={size}"], config_name)


def _full(cfg: DictConfig, overrides: Sequence[str], config_name: str) -> DictConfig:
    """What is composed at the experiment's own size, without single values, whose keys that size may not have."""
    others = [word for word in _without_size(overrides) if "." not in word.partition("=")[0]]
    return cfg if others == list(overrides) else compose(others, config_name)


def _without_size(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if not word.startswith("size=")]
