"""The configuration of a run: composed, sized, named, and from then on read only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from nlnet.config.compose import compose
from nlnet.config.demo import runs_demo
from nlnet.data.synthetic.make import folder_of
from nlnet.renamed import current_overrides
from nlnet.trust.schema import NETWORKS


def load(overrides: Sequence[str] = ()) -> DictConfig:
    """What `python src/train.py OVERRIDES` would run with, for notebooks and tests."""
    words = current_overrides(overrides)
    return resolve(compose(words), words)


def resolve(cfg: DictConfig, overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """The configuration that a run really uses, from the composed one: at the demo's size where the demo rule says so.

    A demo's shards are the built-in ones, made when the run starts. The result is read only; what is decided later
    makes a copy (`changed`). Raises UserError where shards are missing.
    """
    demo = runs_demo(cfg, overrides)
    if demo or "size=demo" in overrides:
        cfg = _demo_sized(cfg, overrides, config_name)
    values: dict[str, Any] = {"demo": demo}
    if demo:
        values["data.shards"] = str(folder_of(Path(cfg.paths.data_dir), cfg.data.dataset))
    experiments = [word.split("=", 1)[1] for word in overrides if word.startswith("experiment=")]
    return changed(cfg, values | {"experiment_name": experiments[-1] if experiments else None})


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
    others = [word for word in overrides if not word.startswith("size=")]
    full = cfg if others == list(overrides) else compose(others, config_name)
    size = cfg.demo_size if full.model.get("_target_") in NETWORKS else "demo_data"
    return cfg if f"size={size}" in overrides else compose([*others, f"size={size}"], config_name)
