"""What a run read: samples, those skipped and why, bytes, repeated requests, and the time spent waiting for data."""

from collections import Counter
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nlnet.distributed import gather, print_once, rank, sum_over_ranks, world_size
from nlnet.errors import UserError

# Within an epoch a fraction of fewer samples says nothing: one bad file of three is not a third of the data.
ENOUGH_SAMPLES = 200

_COUNTS = ("samples_read", "bytes_read", "read_retries", "data_wait_seconds")


class _Sums(NamedTuple):
    """What adds up over batches, ranks and resumes."""

    read: float = 0
    skipped: float = 0
    bytes: float = 0
    retries: float = 0
    seconds: float = 0
    used: float = 0  # with a weight

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(*(a + b for a, b in zip(self, other, strict=True)))


class SampleCounter(Callback):
    """Counts training samples on all ranks; stops the run when too many cannot be read.

    Too many are a fraction of more than `max_skipped`, of a few hundred samples or of all at the end of an epoch and of
    the training; `max_consecutive` one after the other on a rank; or all of an epoch. The ranks decide together, so
    that none waits for one that has stopped. After every batch it logs `data/...`: the counts of all ranks since the
    run began, those before a resume too. The first error of each cause is printed when it comes.
    """

    def __init__(self, max_skipped: float, max_consecutive: int = 100) -> None:
        self.max_skipped, self.max_consecutive = max_skipped, max_consecutive
        self._before, self._mine, self._all = _Sums(), _Sums(), _Sums()  # a resume; this rank since; before + all ranks
        self._causes_before: Counter[str] = Counter()
        self._causes_mine: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._errors: dict[str, str] = {}  # by cause: the first one, on any rank
        self._errors_mine: dict[str, str] = {}
        self._in_a_row = 0
        self._used_before = 0.0  # this epoch
        self._last: list[tuple[str, str]] = []

    def totals(self) -> dict[str, Any]:
        """`samples_read`, `samples_skipped` and `first_errors` by cause, `bytes_read`, `read_retries`, and
        `data_wait_seconds`.

        Of all ranks, as of the last batch; the seconds are the mean of the ranks. Empty if there was no batch.
        """
        if not self._all.read + self._all.skipped:
            return {}
        return {
            "samples_read": int(self._all.read),
            "samples_skipped": dict(self._causes),
            "first_errors": dict(self._errors),
            "bytes_read": int(self._all.bytes),
            "read_retries": int(self._all.retries),
            "data_wait_seconds": round(self._all.seconds, 3),
        }

    def state_dict(self) -> dict[str, Any]:
        epoch = {"samples_used": int(self._all.used), "used_before_epoch": int(self._used_before)}
        return self.totals() | epoch | {"in_a_row": gather(self._in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict.fromkeys(_COUNTS, 0) | state_dict
        self._causes_before = Counter(state.get("samples_skipped", {}))
        numbers = (*(state[name] for name in _COUNTS), *self._causes_before.values(), *state.get("in_a_row", []))
        if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
            raise ValueError("the counts of samples are not numbers")
        self._before = _Sums(
            state["samples_read"],
            self._causes_before.total(),
            state["bytes_read"],
            state["read_retries"],
            state["data_wait_seconds"],
            float(state.get("samples_used", state["samples_read"]) or 0),
        )
        self._used_before = float(state.get("used_before_epoch", -1))  # of an earlier version: not known
        self._errors = dict(state.get("first_errors", {}))
        self._all, self._causes = self._before, self._causes_before
        in_a_row = state.get("in_a_row", [])
        self._in_a_row = in_a_row[rank()] if rank() < len(in_a_row) else 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(batch)
        stuck = self._over_ranks(pl_module.device)
        counts = {
            "data/samples_read": self._all.read,
            "data/samples_skipped": self._all.skipped,
            "data/gigabytes_read": self._all.bytes / 1e9,
            "data/read_retries": self._all.retries,
            "data/wait_seconds": self._all.seconds,
        }
        counts |= {f"data/skipped/{cause.replace(' ', '_')}": float(n) for cause, n in self._causes.items()}
        pl_module.log_dict(counts, on_step=True, on_epoch=False, batch_size=1)
        read, skipped = int(self._all.read), int(self._all.skipped)
        too_many = skipped > self.max_skipped * (read + skipped) and read + skipped >= ENOUGH_SAMPLES
        if too_many or stuck:
            raise UserError(self._reason(read, skipped, stuck))
        if trainer.is_last_batch:  # before the epoch's validation, and before a checkpoint
            self._judge("this epoch", self._used_before)
            self._used_before = self._all.used

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge("the whole training", 0)

    def _judge(self, what: str, used_before: float) -> None:
        """At an end, whatever the number of samples."""
        read, skipped = int(self._all.read), int(self._all.skipped)
        if skipped > self.max_skipped * (read + skipped):
            raise UserError(self._reason(read, skipped, stuck=False))
        if read + skipped and self._all.used == used_before:
            causes = f" ({self._by_cause()})" if skipped else ""
            raise UserError(
                f"no sample of {what} has a weight, so nothing was learned in it{causes}; repair the shards, or look at"
                " the weights that your data hand out"
            )

    def _count(self, batch: Any) -> None:
        failures, reading = batch["failures"], batch["reading"]
        read = int((~batch["padding"]).sum()) - len(failures)
        used = int((batch["weights"] > 0).sum())
        new = _Sums(read, len(failures), reading["bytes"], reading["retries"], reading["seconds"], used)
        self._errors_mine = batch.get("errors", {}) | self._errors_mine
        self._mine = self._mine.plus(new)
        self._causes_mine.update(cause for _, cause in failures)
        for good in (batch["weights"] > 0).tolist():
            self._in_a_row = 0 if good else min(self._in_a_row + 1, self.max_consecutive)
            if self._in_a_row == self.max_consecutive:
                break  # enough, whatever follows
        self._last = failures[-3:] or self._last

    def _over_ranks(self, device: torch.device) -> bool:
        """Add up the ranks' counts; whether on any of them too many in a row failed."""
        mine, stuck = self._mine, float(self._in_a_row >= self.max_consecutive)
        if world_size() > 1:
            *sums, stuck = sum_over_ranks(torch.tensor((*mine, stuck), dtype=torch.float64, device=device)).tolist()
            mine = _Sums(*sums)
        known = self._all.skipped
        self._all = self._before.plus(mine._replace(seconds=mine.seconds / world_size()))
        if self._all.skipped > known:  # on every rank alike
            of_ranks = gather((self._causes_mine, self._errors_mine))
            self._causes = sum((causes for causes, _ in of_ranks), self._causes_before)
            for cause, error in ((cause, e) for _, errors in of_ranks for cause, e in errors.items()):
                if cause not in self._errors:
                    self._errors[cause] = error
                    print_once(f"a sample could not be read ({cause}); the first: {error}")
        return bool(stuck)

    def _reason(self, read: int, skipped: int, stuck: bool) -> str:
        last = ", ".join(f"{key} ({cause})" for of_rank in gather(self._last) for key, cause in of_rank[-3:])
        limit = (
            f"{self.max_consecutive} of them one after the other (data.max_consecutive_failures)"
            if stuck
            else f"more than data.max_skipped={self.max_skipped}"
        )
        return (
            f"{skipped} of {read + skipped} training samples could not be read"
            f" ({self._by_cause()}), {limit}; the last were {last}. Repair the shards, or raise the limit"
        )

    def _by_cause(self) -> str:
        """The numbers, and the first error behind each."""
        counts = ", ".join(f"{count} {cause}" for cause, count in self._causes.most_common())
        return "; ".join([counts, *(f"the first {cause}: {error}" for cause, error in self._errors.items())])
