"""The ranks of a run agree before they do anything together, and none waits for one that could not start."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nlnet.config.resolve import changed
from nlnet.data.modules.fingerprint import differences
from nlnet.distributed import gather
from nlnet.errors import UserError
from nlnet.runs.build import make_trainer
from nlnet.runs.continuing.differences import HOW_READ, flat
from nlnet.runs.identity.code import code
from nlnet.runs.identity.meeting import check_meeting_point
from nlnet.runs.watching.rank_watch import limit_waiting, rank_timeout_s

# What may differ between ranks: also where files are on each machine.
_FREE = (
    *HOW_READ,
    "data.shards",
    "data.val_shards",
    "extras.print_config",
    "extras.threads",
    "extras.traceback",
    "typed",
)
_SHOWN = 4
Facts = dict[str, Any]


@dataclass
class Agreement:
    """What a rank knows when it starts, compared with the others as soon as they have found each other."""

    facts: Facts
    keys: list[str]
    check: Callable[[], Any]
    set_up: Callable[[], Any]
    done: bool = False

    def __call__(self) -> None:
        """In the place of the strategy's `setup_environment`: before Lightning's first collective, and ours."""
        if self.done:
            self.set_up()
            return
        held = self.check()
        self.set_up()
        del held  # the group has its own by now
        self.done = True
        compare(self.facts, self.keys)


def agree_first(trainer: pl.Trainer, cfg: DictConfig, data: Any) -> None:
    """Let the ranks of `trainer` compare configuration, data and code when it starts. Nothing for a single one."""
    if trainer.world_size == 1:
        return
    facts = {"settings": _settings(cfg), "code": code() | {"torch": torch.__version__}, "data": data.fingerprint()}
    keys = [*data.train_keys, *data.val_keys]
    # There is no earlier hook: callbacks are called after a data module's `setup` and Lightning's first barrier.
    trainer.strategy.setup_environment = Agreement(  # type: ignore[method-assign]
        facts,
        keys,
        partial(check_meeting_point, trainer, rank_timeout_s(cfg)),
        trainer.strategy.setup_environment,
    )


@contextmanager
def failing_together(cfg: DictConfig) -> Iterator[None]:
    """An error of this rank, before the ranks have found each other, ends the other ranks with its words as well."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):
            _tell(cfg, error)
        raise


def compare(facts: Facts, keys: list[str]) -> None:
    """Compare what all ranks know: digests, and where those differ what is behind them. Called on every rank.

    Raises UserError, the same on every rank, for a rank that could not start and for the first rank that differs.
    """
    everyone = gather({"failure": None} | {name: _digest(value) for name, value in facts.items()})
    for other, digests in enumerate(everyone):
        if digests["failure"] is not None:
            raise UserError(f"rank {other} could not start: {digests['failure']}")
    differing = [name for name in facts if any(digests[name] != everyone[0][name] for digests in everyone)]
    if not differing:
        return
    known = gather({name: facts[name] for name in differing})
    others = [r for r in range(len(everyone)) if any(everyone[r][name] != everyone[0][name] for name in differing)]
    lines = _lines(known[0], known[others[0]], others[0], keys)
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    raise UserError(
        f"the ranks do not agree: {'; '.join(lines[:_SHOWN])}{more}. Start all ranks with the same command, data and"
        " code"
    )


def _tell(cfg: DictConfig, error: Exception) -> None:
    """Meet the other ranks, where a launcher has started them, and say why this one is not coming."""
    trainer = make_trainer(changed(cfg, {"callbacks": None, "logger": None}))
    environment = getattr(trainer.strategy, "cluster_environment", None)
    limit_waiting(trainer, rank_timeout_s(cfg))
    if trainer.world_size > 1 and environment is not None and environment.creates_processes_externally:
        trainer.strategy.setup_environment()
        gather({"failure": str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"})


def _settings(cfg: DictConfig) -> dict[str, str]:
    folder = str(cfg.paths.run_dir)  # two ranks may have named it in different seconds; the first one's is used
    settings = flat(OmegaConf.to_container(cfg, resolve=True))
    return {
        key: str(value).replace(folder, "RUN")
        for key, value in settings.items()
        if not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    }


def _lines(first: Facts, other: Facts, number: int, keys: list[str]) -> list[str]:
    pair = partial(_pair, number)
    lines = []
    for name in ("settings", "code"):
        if name in first:
            a, b = first[name], other[name]
            lines += [f"{k} {pair(a.get(k), b.get(k))}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    if "data" in first:
        lines += differences(first["data"], other["data"], pair, keys)
    return lines


def _pair(number: int, old: Any, new: Any) -> str:
    return f"is {old} on rank 0, {new} on rank {number}"


def _digest(value: Any) -> str:
    def plain(node: Any) -> Any:
        if isinstance(node, Tensor):
            return sha256(node.numpy().tobytes()).hexdigest()
        return {key: plain(item) for key, item in node.items()} if isinstance(node, Mapping) else node

    return sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()
