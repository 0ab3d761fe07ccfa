"""The configuration of an evaluation: that of the checkpoint's run, with a command line on top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from nlnet.checkpoints.files import read_file
from nlnet.config.check import check
from nlnet.config.compose import compose, groups, keys
from nlnet.config.protocol import is_protocol, protocol_config
from nlnet.config.resolve import changed, load
from nlnet.config.saved import saved_settings
from nlnet.config.words import is_open, read_words
from nlnet.errors import UserError, nearest
from nlnet.text import is_masked
from nlnet.trust.settings import plain_arguments


def load_run_config(overrides: Sequence[str]) -> DictConfig:
    """The `config.yaml` of the checkpoint's run with `overrides` on top; `group=option` replaces a whole group.

    A file of nlnet-convert has no run: it gets the configuration of a training with these `overrides`, and its own
    network. Raises UserError for a checkpoint that is not there, for unknown keys, and for a mixture of demo and real.
    """
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(read_words(overrides))}
    if "ckpt_path" not in parsed:
        raise UserError("ckpt_path is missing: give ckpt_path=RUN/checkpoints/best.ckpt")
    path = Path(str(parsed["ckpt_path"].value())).absolute()
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: there is no such file")
    protocol = protocol_config([o.input_line or "" for key, o in parsed.items() if is_protocol(key)])
    weights = parsed["weights"].value() if "weights" in parsed else None
    others = {key: o for key, o in parsed.items() if key not in ("ckpt_path", "weights") and not is_protocol(key)}
    saved = path.parents[1] / "config.yaml"
    if saved.is_file():
        cfg = _with_overrides(saved, others)
    elif found := _of_converted(path, [o.input_line or "" for o in others.values()]):
        cfg = found
    else:
        raise UserError(f"ckpt_path={path}: its run's {saved} is missing; evaluate the checkpoint in its run folder")
    _refuse_masked(cfg, path)
    demo = bool(cfg.demo) and not ((parsed.keys() & {"data.shards", "data"}) and cfg.data.shards)
    _refuse_missing_shards(cfg, path)
    new = {"ckpt_path": str(path), "task_name": "eval", "protocol": protocol, "paths.run_dir": None, "demo": demo}
    cfg = changed(cfg, new | {"weights": weights})
    check(cfg)
    return cfg


def _with_overrides(saved: Path, overrides: Mapping[str, Override]) -> DictConfig:
    """A run's configuration with `overrides` on top."""
    values = {key: override.value() for key, override in overrides.items()}
    allow: Any = values.get("extras.allow_targets") or []
    trust = values.get("extras.trust") is True
    cfg = OmegaConf.create(saved_settings(saved, trust=trust, allow=list(map(str, allow)), typed=values))
    OmegaConf.set_struct(cfg, True)
    known_groups = set(groups())
    for key, override in overrides.items():
        if key in known_groups:
            _replace_group(cfg, key, override.input_line or "")
        else:
            _set(cfg, key, override.value())
    return cfg


_ABSENT = object()


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    own = is_open(key) and OmegaConf.select(cfg, ".".join(key.split(".")[:2])) is not None
    if not own and OmegaConf.select(cfg, key, default=_ABSENT) is _ABSENT:
        raise UserError(f"{key}: there is no such key; {nearest(key, [*keys(), *keys('eval')])}")
    OmegaConf.update(cfg, key, value, force_add=own)


def _replace_group(cfg: DictConfig, group: str, override: str) -> None:
    node = OmegaConf.select(compose([override]), group.replace("/", "."))
    with open_dict(cfg):
        OmegaConf.update(cfg, group.replace("/", "."), node, merge=False)


def _of_converted(path: Path, overrides: Sequence[str]) -> DictConfig | None:
    """What a training with `overrides` would run with, but with the network of a file that `nlnet-convert` wrote.

    None for other files. Raises UserError where no shards are set.
    """
    model = read_file(path, "ckpt_path=").get("model")
    if not isinstance(model, Mapping):
        return None
    cfg = load(overrides)
    if cfg.demo:
        raise UserError(
            f"ckpt_path={path} is converted, and built-in clips would tell nothing about it; give the data it is for,"
            " such as experiment=kinetics_i3d_nl_8x8 data.shards=FOLDER_OR_URL"
        )
    network = {key: value for key, value in plain_arguments(model, f"ckpt_path={path}").items() if key != "num_classes"}
    return changed(cfg, {"model": {"_target_": "nlnet.build_model"} | network})


def _refuse_masked(cfg: DictConfig, path: Path) -> None:
    """A run's record says *** for a password or a signature, which nobody but the user has."""
    data: Any = OmegaConf.to_container(cfg.data)
    for key, value in data.items():
        if isinstance(value, str) and is_masked(value):
            raise UserError(
                f"ckpt_path={path}: its run was given data.{key}={value}, whose secret is not kept; give it again:"
                f" data.{key}=..."
            )


def _refuse_missing_shards(cfg: DictConfig, path: Path) -> None:
    if not cfg.demo and "shards" in cfg.data and not cfg.data.shards:
        raise UserError(
            f"ckpt_path={path} is of a real run, and data.shards is not set; its metrics on built-in clips"
            " would mean nothing. Set data.shards=FOLDER_OR_URL"
        )
