"""`metrics.csv`: every logged metric of a run, one row a training step or validation, kept across resumes."""

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer

from nlnet.saving import CannotWrite, replacing

Row = dict[str, Any]


class MetricsCsv(Callback):
    """Appends a row after every `log_every_n_steps`-th optimizer step and after every validation.

    Columns: `step` (optimizer steps done), `epoch`, then whatever is logged; an empty cell is a metric that the row
    does not have. Rows are on disk before a checkpoint of the same step is written. After a resume the rows of steps
    that the checkpoint has not seen are dropped with the first step or validation, and the rest is continued; a run
    that starts anew after one that left no checkpoint has seen none.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps
        self._columns: list[str] = []
        self._logged_step = 0
        self._validated_step = -1
        self._rate = float("nan")
        self._epoch: int | None = None  # of the last batch that was trained
        self._resumed: tuple[int, bool] | None = None  # a checkpoint's step, and whether that was validated

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self._logged_step = checkpoint["global_step"]
        self._validated_step = -1
        states = checkpoint["callbacks"].values()
        validated = max((state["validated_step"] for state in states if "validated_step" in state), default=-1)
        if trainer.is_global_zero and self.path.is_file():
            self._resumed = self._logged_step, validated == self._logged_step
            self._validated_step = validated

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step == 0 and self.path.is_file():
            self._resumed = self._resumed or (0, False)

    def _drop_unseen(self) -> None:
        """Not while the checkpoint is loaded: what does not fit may yet end the run, which then has lost nothing."""
        if self._resumed:
            self._rewrite([row for row in read_rows(self.path) if was_seen(row, *self._resumed)])
            self._resumed = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # the one that this step uses; the schedule moves on right after

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._drop_unseen()
        self._epoch = trainer.current_epoch
        step = trainer.global_step
        if step == self._logged_step:
            return
        self._logged_step = step
        if step % self.every_n_steps == 0:
            self._append(trainer, self._metrics(trainer, "train/") | {"lr": self._rate})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.global_step != self._validated_step:
            self._drop_unseen()
            self._validated_step = trainer.global_step
            self._append(trainer, self._metrics(trainer, "val/"))

    @staticmethod
    def _metrics(trainer: pl.Trainer, prefix: str) -> Row:
        logged = trainer.callback_metrics.items()
        return {name: float(value) for name, value in logged if name.startswith(prefix)}

    def _append(self, trainer: pl.Trainer, metrics: Row) -> None:
        if not trainer.is_global_zero:
            return
        # Of the last step: `trainer.current_epoch` is the next one where a training has ended, or ends within an epoch.
        # A validation that a resumed run makes up for comes before its first batch.
        epoch = self._epoch
        if epoch is None:
            epoch = max(trainer.fit_loop.epoch_progress.current.ready - 1, 0)
        row = {"step": trainer.global_step, "epoch": epoch} | metrics
        if not self._columns and self.path.is_file():
            self._columns = _header(self.path)
        if any(name not in self._columns for name in row):
            self._rewrite(read_rows(self.path) if self.path.is_file() else [], extra=list(row))
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)
        except OSError as error:
            raise CannotWrite(self.path, error) from error

    def _rewrite(self, rows: list[Row], extra: list[str] | None = None) -> None:
        old = _header(self.path) if self.path.is_file() else []
        self._columns = old + [name for name in extra or [] if name not in old]
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file as text cells; a last row that a kill cut short is left out."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(whole.splitlines()))


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def was_seen(row: Row, step: int, validated: bool) -> bool:
    """Whether a checkpoint of `step`, written after that step's validation or before it, has what the row reports."""
    of_validation = any(name.startswith("val/") and cell for name, cell in row.items())
    return int(row["step"]) < step or (int(row["step"]) == step and (validated or not of_validation))
