"""A checkpoint knows the data, the code and the number of ranks of its run, and what has changed since is said."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from nlnet.data.modules.fingerprint import Fingerprint, class_differences, differences
from nlnet.distributed import print_once, world_size
from nlnet.errors import UserError
from nlnet.runs.identity.code import code

KEY = "identity"
"""Under which a checkpoint holds it: `data` and `digest` (`nlnet.data.modules.fingerprint`), `code`, `world_size`."""

_PLACE = ("shards", "val_shards", "dataset", "val_split")


class Identity(Callback):
    """Writes the identity of the run into its checkpoints."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self._identity: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if not self._identity:
            data = {"data": self.data.fingerprint(), "digest": self.data.digest()}
            self._identity = data | {"code": code(), "world_size": world_size()}
        checkpoint[KEY] = self._identity


def check_continued(checkpoint: Mapping[str, Any], data: Any, ranks: int, cfg: DictConfig, where: str) -> None:
    """Say what has changed since a checkpoint was written. Raises UserError where that are the data, unless allowed."""
    saved = checkpoint.get(KEY)
    if not saved:
        print_once(f"{where} does not say which data it was trained on (an earlier version's); nothing is compared")
        return
    try:
        found = [] if _same_data(saved, data) else _differences(saved["data"], data)
        was, were = dict(saved["code"]), saved["world_size"]
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(f"{where}: what it says of its data is none of a run's: {error}; restore the file") from error
    _stop_or_say(found, "to continue", cfg, where)
    if was != code():
        changed = [f"{name} {_since(was.get(name), now)}" for name, now in code().items() if was.get(name) != now]
        print_once(f"continuing with other code than the checkpoint's: {', '.join(changed)}")
    if were != ranks:
        print_once(f"continuing with another number of ranks: it {_since(were, ranks)}")


def _same_data(saved: Mapping[str, Any], data: Any) -> bool:
    """Whether one look says so; without a digest, as in checkpoints of earlier versions, it says nothing."""
    digest = data.digest() if saved.get("digest") else ""
    return bool(digest) and saved.get("digest") == digest


def _differences(saved: Fingerprint, data: Any) -> list[str]:
    return differences(saved, data.fingerprint(), _since, [*data.train_keys, *data.val_keys])


def check_evaluated(checkpoint: Mapping[str, Any], data: Any, cfg: DictConfig, where: str) -> None:
    """The same before an evaluation, of the classes and the validation data.

    Other samples in another place are no mistake: they are what was asked for, and said.
    """
    saved = (checkpoint.get(KEY) or {}).get("data")
    if saved is None:  # a converted file, or a run of an earlier version
        for line in class_differences(checkpoint.get("classes", data.classes), data.classes, _since):
            print_once(f"{where}: {line}")
        return
    found = differences(saved, data.fingerprint(), _since, data.val_keys, ["val"])
    classes = class_differences(saved["classes"], data.classes, _since)
    _stop_or_say(found if _same_place(checkpoint, cfg) else classes, "to evaluate", cfg, where)
    if not classes and found and not _same_place(checkpoint, cfg):
        print_once(f"evaluated on other data than in training: {'; '.join(found)}")


def _stop_or_say(changed: list[str], purpose: str, cfg: DictConfig, where: str) -> None:
    if not changed:
        return
    if not cfg.extras.get("allow_changed_data", False):
        raise UserError(
            f"{where}: the data have changed since: {'; '.join(changed)}. Give the data that it was trained on, or"
            f" {purpose} all the same set extras.allow_changed_data=true"
        )
    for line in changed:
        print_once(f"the data have changed (extras.allow_changed_data=true): {line}")


def _same_place(checkpoint: Mapping[str, Any], cfg: DictConfig) -> bool:
    was = checkpoint.get("hyper_parameters", {}).get("data", {})
    now = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(now, dict)
    return all(was.get(name) == now.get(name) for name in _PLACE)


def _pair(words: tuple[str, str], old: Any, new: Any) -> str:
    return f"{words[0]} {old}, {words[1]} {new}"


_since = partial(_pair, ("was", "is now"))
