"""A composed configuration, held against types and rules before anything is imported, read or made for it."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nlnet.config.compose import options
from nlnet.errors import UserError, nearest
from nlnet.trust.schema import CLASS_FIELDS, TOP_FIELDS, YES_NO, Field
from nlnet.trust.settings import PARTS
from nlnet.trust.typed import FIELDS, OF_CLASS, OF_OPTIMIZERS, TARGET

_SHORT = 100


def check(cfg: DictConfig) -> None:
    """Raises UserError with the first value that is none for its key, or that does not go with another.

    Keys of classes that are not known here are left to these classes.
    """
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    for part in PARTS:
        if plain.get(part) is None:
            raise UserError(f"{part}=null: a run needs one; {nearest('', options(part))}")
    wrong = [(key, value, field) for key, value, field in _known(plain) if not field.fits(value)]
    if wrong:  # rather what was typed than what is made of it
        typed = plain.get("typed") or ()
        key, value, field = next((found for found in wrong if found[0] in typed), wrong[0])
        raise UserError(f"{key}={_short(value)}: expected {field.expected}")
    _check_rules(plain)


def _known(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any, Field]]:
    """(key, value, what it may be) of everything that is known, parts before what is in them."""
    for key, value in _items(plain, ""):
        name = key.rpartition(".")[2]
        if name == "_target_":
            yield key, value, TARGET
        elif name in ("_partial_", "_recursive_"):
            yield key, value, YES_NO
        elif key in FIELDS:
            yield key, value, FIELDS[key]
        elif key in TOP_FIELDS:
            yield key, value, TOP_FIELDS[key]
        elif (field := _of_class(plain, key)) is not None:
            yield key, value, field
        elif key.count(".") == 1 and key.startswith(("callbacks.", "logger.")):
            yield key, value, Field("settings with a _target_, or null", _is_made)


def _is_made(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and (not value or isinstance(value.get("_target_"), str)))


def _of_class(plain: Mapping[str, Any], key: str) -> Field | None:
    """The field of an argument of a class that is known: the nearest mapping around it that names one."""
    parts = key.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        node: Any = plain
        for part in parts[:depth]:
            node = node[part] if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and isinstance(target := node.get("_target_"), str):
            name = ".".join(parts[depth:])
            shared = OF_OPTIMIZERS if target.startswith("torch.optim.") else {}
            return {**shared, **CLASS_FIELDS.get(target, {}), **OF_CLASS.get(target, {})}.get(name)
    return None


def _items(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _items(value, f"{prefix}{name}.")


def _check_rules(plain: Mapping[str, Any]) -> None:
    """What does not go together, as far as it can be told without the data."""
    trainer = plain["trainer"]
    if plain.get("train", True) and (share := trainer.get("limit_train_batches")) in (0, 0.0):
        raise UserError(
            f"trainer.limit_train_batches={share}: nothing would be trained; for a test alone set train=false"
        )
    if trainer.get("max_epochs") == 0 or trainer.get("max_steps") == 0:
        name = "max_epochs" if trainer.get("max_epochs") == 0 else "max_steps"
        raise UserError(f"trainer.{name}=0: nothing would be trained; for a test alone set train=false")
    devices = trainer.get("devices", "auto")
    if trainer.get("accelerator") == "cpu" and devices != "auto" and not _is_count(devices):
        raise UserError(f"trainer.devices={_short(devices)}: a CPU has a number of processes, from 1")
    if trainer.get("val_check_interval") == 0:
        raise UserError("trainer.val_check_interval=0: for no validation set trainer.limit_val_batches=0")
    schedule = plain["optim"].get("schedule")
    marks = schedule.get("milestones") if isinstance(schedule, Mapping) else None
    if isinstance(marks, list) and marks != sorted(marks):
        raise UserError(f"optim.schedule.milestones={marks}: give them in rising order")
    if str(trainer.get("precision")) in ("16-mixed", "16-true", "16") and trainer.get("accelerator") == "cpu":
        raise UserError(
            f"trainer.precision={trainer['precision']}: float16 needs a GPU; on a CPU bf16-mixed or 32-true"
        )


def _is_count(value: Any) -> bool:
    return (isinstance(value, int) and value > 0) or (isinstance(value, str) and value.isdigit() and int(value) > 0)


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
