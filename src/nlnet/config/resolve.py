"""The configuration of a run: composed, sized, named, and from then on read only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override, open_dict

from nlnet.config.check import check
from nlnet.config.compose import compose, no_key, options
from nlnet.config.demo import runs_demo, stand_in
from nlnet.config.words import is_open, read_words
from nlnet.data.synthetic.make import folder_of
from nlnet.errors import UserError, nearest
from nlnet.trust.schema import NETWORKS

_FINEST = {"mask_rcnn": "mask", "keypoint_rcnn": "keypoint"}
"""What the average precision of a detector is of that decides, where task.monitor is null; of boxes for all others."""
_FILLED_IN = ("demo", "experiment_name", "typed")


def load(overrides: Sequence[str] = ()) -> DictConfig:
    """What `python src/train.py OVERRIDES` would run with, for notebooks and tests."""
    words = with_demo_size(read_words(overrides))
    return resolve(compose(words), words)


def with_demo_size(words: Sequence[str], config_name: str = "train") -> list[str]:
    """The words with `size=demo` as what that is for their experiment, where they set single keys of its network.

    Such a key may be unknown at the size of clips, which `size=demo` names. In a sweep, where the groups are the same
    in all points.
    """
    dotted = [word for word in words if "." in word.partition("=")[0] and not word.startswith("hydra.")]
    if "size=demo" not in words or not dotted or any(map(_is_swept, set(words) - set(dotted))):
        return list(words)
    size = _demo_size(_full(None, words, config_name))
    return [f"size={size}" if word == "size=demo" else word for word in words]


def _is_swept(word: str) -> bool:
    return bool(OverridesParser.create().parse_override(word).is_sweep_override())


def resolve(cfg: DictConfig, overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """The configuration that a run really uses, from the composed one: at the demo's size where the demo rule says so.

    A demo's shards are the built-in ones, made when the run starts. The result is read only; what is decided later
    makes a copy (`changed`). Raises UserError where shards are missing, and for values that cannot be (`check`).
    """
    values = _names(cfg, overrides)
    for key in filter(is_open, values["typed"]):
        name = ".".join(key.split(".")[:2])
        if OmegaConf.select(_full(cfg, overrides, config_name), name) is None:
            raise no_key(name, config_name)
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
    size = _demo_size(_full(cfg, overrides, config_name))
    return cfg if f"size={size}" in overrides else compose([*_without_size(overrides), f"size={size}"], config_name)


def _demo_size(full: DictConfig) -> str:
    """What `size=demo` stands for in a run that is composed without it. Raises UserError for what is no size."""
    if full.demo_size not in (known := options("size")):
        raise UserError(f"demo_size={full.demo_size}: there is no such size; {nearest(str(full.demo_size), known)}")
    return str(full.demo_size) if full.model.get("_target_") in NETWORKS else "demo_data"


def _full(cfg: DictConfig | None, overrides: Sequence[str], config_name: str) -> DictConfig:
    """What is composed at the experiment's own size, without single values, whose keys that size may not have."""
    keys = [(word.partition("=")[0], word) for word in _without_size(overrides)]
    others = [word for key, word in keys if "." not in key or key == "hydra.searchpath"]
    return cfg if cfg is not None and others == list(overrides) else compose(others, config_name)


def _without_size(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if not word.startswith("size=")]
