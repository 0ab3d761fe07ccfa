"""The settings of optimizer and schedule of a continued run: those that are typed, else those of its checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nlnet.config.check import check
from nlnet.config.resolve import changed
from nlnet.distributed import print_once
from nlnet.errors import UserError
from nlnet.runs.continuing.differences import LATER, flat
from nlnet.trust.settings import check_plain

_HOW = "to start a new run from its weights set init.checkpoint instead of ckpt_path"


def with_kept_settings(cfg: DictConfig, checkpoint: Mapping[str, Any], where: str) -> DictConfig:
    """`cfg`, with the checkpoint's `optim` settings where the command line does not say otherwise.

    So a run that goes on without a word about its learning rate has the one of before, whatever the files say by now,
    and one that is typed is used. Says what is kept. Raises UserError for another optimizer, for other groups of
    parameters, whose state does not fit, for another schedule that is not asked for, and for a value that cannot be.
    """
    settings = checkpoint.get("hyper_parameters")
    saved = settings.get("optim") if isinstance(settings, Mapping) else None
    if not isinstance(saved, Mapping):  # a checkpoint of something else, which is refused later
        return cfg
    check_plain(saved, "optim", where)
    typed = list(cfg.get("typed") or ())
    before = {key.removeprefix("optim."): value for key, value in LATER.items()}
    old, new = before | flat(saved), flat(OmegaConf.to_container(cfg.optim, resolve=True))
    differing = [f"optim.{key}" for key in old.keys() & new.keys() if old[key] != new[key]]
    _refuse_what_cannot_change(differing, old, new, typed, where)
    if "optim.schedule._target_" in differing:  # asked for, and another one as a whole
        differing = [key for key in differing if not key.startswith("optim.schedule.")]
    kept = {key: old[key.removeprefix("optim.")] for key in sorted(differing) if not is_typed(key, typed)}
    if kept:
        values = [f"{key}={value} (here: {new[key.removeprefix('optim.')]})" for key, value in kept.items()]
        print_once(f"kept from the checkpoint, as the command line does not set them: {', '.join(values)}")
    kept_cfg = changed(cfg, kept)
    try:
        check(kept_cfg)
    except UserError as error:  # the file's values fill the places of ours, and are no others
        raise UserError(f"{where}: {error}; type the setting, or {_HOW}") from None
    return kept_cfg


def is_typed(key: str, typed: Sequence[str]) -> bool:
    """Whether a key is among those of a command line: itself, a part that it is in, or a group."""
    return any(key == word or key.startswith(f"{word.replace('/', '.')}.") for word in typed)


def _refuse_what_cannot_change(
    differing: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any], typed: Sequence[str], where: str
) -> None:
    for name, what in (
        ("optimizer._target_", "another optimizer has no use for the state of this one"),
        ("no_weight_decay", "its optimizer's state is of other groups of parameters"),
        ("bias_lr_factor", "its optimizer's state may be of other groups of parameters"),
    ):
        key = f"optim.{name}"
        if key in differing and (name.endswith("_target_") or is_typed(key, typed)):
            raise UserError(
                f"{key}={new[name]}: {where} was trained with {old[name]}, and {what}; continue it with that"
                f" ({key.removesuffix('._target_').replace('.optimizer', '')}=...), or {_HOW}"
            )
    key = "optim.schedule._target_"
    if key in differing and not is_typed(key, typed):
        raise UserError(
            f"{key}={new['schedule._target_']}: {where} was trained with {old['schedule._target_']}; type the one that"
            f" is meant (optim/schedule=NAME), or {_HOW}"
        )
