"""What a run read: samples, those skipped by cause, bytes, repeated requests, and the time spent waiting for data."""

from collections import Counter
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nlnet.distributed import gather, rank, sum_over_ranks, world_size
from nlnet.errors import UserError

# Below this many samples a fraction says nothing: one bad file of three is not a third of the data.
ENOUGH_SAMPLES = 200


class _Sums(NamedTuple):
    """What adds up over batches, ranks and resumes."""

    read: float = 0
    skipped: float = 0
    bytes: float = 0
    retries: float = 0
    seconds: float = 0

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(*(a + b for a, b in zip(self, other, strict=True)))


class SampleCounter(Callback):
    """Counts training samples on all ranks; stops the run when too many cannot be read.

    Too many are a fraction of more than `max_skipped`, or `max_consecutive` one after the other on a rank. The ranks
    decide together, so that none waits for one that has stopped. After every batch it logs `data/...`: the counts of
    all ranks since the run began, those before a resume too.
    """

    def __init__(self, max_skipped: float, max_consecutive: int = 100) -> None:
        self.max_skipped, self.max_consecutive = max_skipped, max_consecutive
        self._before, self._mine, self._all = _Sums(), _Sums(), _Sums()  # a resume; this rank since; before + all ranks
        self._causes_before: Counter[str] = Counter()
        self._causes_mine: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._in_a_row = 0
        self._last: list[tuple[str, str]] = []

    def totals(self) -> dict[str, Any]:
        """`samples_read`, `samples_skipped` by cause, `bytes_read`, `read_retries`, and `data_wait_seconds`.

        Of all ranks, as of the last batch; the seconds are the mean of the ranks. Empty if there was no batch.
        """
        if not self._all.read + self._all.skipped:
            return {}
        return {
            "samples_read": int(self._all.read),
            "samples_skipped": dict(self._causes),
            "bytes_read": int(self._all.bytes),
            "read_retries": int(self._all.retries),
            "data_wait_seconds": round(self._all.seconds, 3),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.totals() | {"in_a_row": gather(self._in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = {"samples_read": 0, "bytes_read": 0, "read_retries": 0, "data_wait_seconds": 0.0} | state_dict
        self._causes_before = Counter(state.get("samples_skipped", {}))
        self._before = _Sums(
            state["samples_read"],
            self._causes_before.total(),
            state["bytes_read"],
            state["read_retries"],
            state["data_wait_seconds"],
        )
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

    def _count(self, batch: Any) -> None:
        failures, reading = batch["failures"], batch["reading"]
        read = int((~batch["padding"]).sum()) - len(failures)
        new = _Sums(read, len(failures), reading["bytes"], reading["retries"], reading["seconds"])
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
            self._causes = sum(gather(self._causes_mine), self._causes_before)
        return bool(stuck)

    def _reason(self, read: int, skipped: int, stuck: bool) -> str:
        causes = ", ".join(f"{count} {cause}" for cause, count in self._causes.most_common())
        last = ", ".join(f"{key} ({cause})" for of_rank in gather(self._last) for key, cause in of_rank[-3:])
        limit = (
            f"{self.max_consecutive} of them one after the other (data.max_consecutive_failures)"
            if stuck
            else f"more than data.max_skipped={self.max_skipped}"
        )
        return (
            f"{skipped} of {read + skipped} training samples could not be read"
            f" ({causes}), {limit}; the last were {last}. Repair the shards, or raise the limit"
        )
