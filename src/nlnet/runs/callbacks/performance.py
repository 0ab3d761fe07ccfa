"""How fast a training goes, and what holds it up: clips a second, waiting for data, memory, use of the device."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nlnet.distributed import world_size

_KINDS = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
_SIDES = {"cuda": 8192, "cpu": 1024}  # of the matrices: some milliseconds each
_REPEATS = 4


class Performance(Callback):
    """Measures the steps of a training, and logs at every `log_every_n_steps`-th what it was since the last time:

    - `perf/samples_per_second`, of all ranks, from step to step; validations and checkpoints do not count;
    - `perf/data_wait_share`, the part of that time in which a batch was waited for;
    - `perf/gpu_gigabytes`, the most that tensors have taken on a GPU since the training began;
    - `perf/mfu`, the model FLOPs utilization: 6 M s / P for M multiply-adds in the forward pass of one sample (of two
      FLOPs each, and twice as many backward as forward), s samples a second on this device, and P the FLOPs a second
      that it reaches in a large matrix product of the run's precision, measured when the training starts.

    All of them without waiting for the device. Of several ranks each measures itself, and the first one's are logged.

    Args:
        gmacs: of the forward pass of one sample in 10^9; None where it is not known, which leaves `perf/mfu` out.
    """

    def __init__(self, gmacs: float | None = None) -> None:
        self.gmacs = gmacs
        self._peak = 0.0
        self._begun = 0.0
        self._samples = self._seconds = self._waited = 0.0
        self._logged = (0.0, 0.0, 0.0)
        self._gigabytes: float | None = None

    def totals(self) -> dict[str, Any]:
        """`performance`: the same over all steps since the run was started or continued. Empty if there was none."""
        if not self._seconds:
            return {}
        figures = self._figures(self._samples, self._seconds, self._waited)
        return {"performance": {name: float(f"{value:.4g}") for name, value in figures.items()}}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.gmacs:
            self._peak = matmul_rate(pl_module.device, str(trainer.precision))
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._samples += len(batch["weights"]) * world_size()
        self._seconds += now - self._begun
        self._waited += batch["reading"]["seconds"]
        self._begun = now
        if pl_module.device.type == "cuda":
            self._gigabytes = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now_at = (self._samples, self._seconds, self._waited)
            figures = self._figures(*(a - b for a, b in zip(now_at, self._logged, strict=True)))
            pl_module.log_dict({f"perf/{name}": value for name, value in figures.items()}, batch_size=1)
            self._logged = now_at

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.perf_counter()

    def _figures(self, samples: float, seconds: float, waited: float) -> dict[str, float]:
        rate = samples / seconds
        figures = {"samples_per_second": rate, "data_wait_share": min(waited / seconds, 1.0)}
        if self._gigabytes is not None:
            figures["gpu_gigabytes"] = self._gigabytes
        if self.gmacs and self._peak:
            figures["mfu"] = 6e9 * self.gmacs * rate / world_size() / self._peak
        return figures


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOPs a second of a large matrix product, as Lightning's `precision` has its operands; the best of a few.

    0 for a device that is not known.
    """
    if device.type not in _SIDES:
        return 0.0
    kind = _KINDS.get(precision.partition("-")[0], torch.float32)
    side = _SIDES[device.type]
    a = torch.rand(side, side, device=device, generator=torch.Generator(device).manual_seed(0)).to(kind)
    best = min(_seconds(a) for _ in range(_REPEATS))
    return 2 * side**3 / best


def _seconds(a: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    began = time.perf_counter()
    a @ a
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - began
