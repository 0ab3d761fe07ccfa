"""Precise batch norm: statistics of the weights that are evaluated, not a moving average over those before them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nlnet.distributed import sum_over_ranks
from nlnet.models.frozen import FrozenBatchNorm3d


class PreciseBatchNorm(Callback):
    """Before each validation and at the end of training, estimates all batch norm statistics on training clips.

    The clips depend on the seed and the step alone, and the position in the training data does not move, so a resumed
    run does the same. The released configurations take 200 batches (COMPUTE_PRECISE_BN).
    """

    def __init__(self, batches: int = 200) -> None:
        if batches < 1:
            raise ValueError(f"batches must be at least 1, got {batches}")
        self.batches = batches
        self._loader: Any = None
        self._done_at = -1
        self._trained = False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self._trained = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._estimate(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._trained:
            self._estimate(trainer, pl_module)

    def _estimate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._done_at == trainer.global_step:
            return
        self._done_at = trainer.global_step
        if self._loader is None:  # its own: the position of the trainer's must not move
            self._loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        self._loader.load_state_dict({"epoch": trainer.global_step, "t": 0})
        try:
            batches = islice(self._loader, 1 if getattr(trainer, "fast_dev_run", False) else self.batches)
            with trainer.precision_plugin.forward_context():
                estimate_statistics(pl_module, (_readable(trainer, batch) for batch in batches))
        finally:
            self._loader.close()


def estimate_statistics(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set running mean and variance of every batch norm in `net` to those of its inputs over all `batches` together.

    With S the sum over batches b of the n_b values a channel has in it: mean = S(n_b m_b) / S(n_b) and
    variance = S(n_b (v_b + m_b^2)) / S(n_b) - mean^2, of batch means m_b and variances v_b, in float64 and over all
    ranks. Each batch is normalized by its own statistics on the way, as in training; all else is in evaluation mode.
    Frozen norms stay as they are. Without batches nothing changes.
    """
    sums: dict[_BatchNorm, Tensor] = {}
    with torch.no_grad(), _collecting(net, sums):
        for inputs in batches:
            if len(inputs):
                net(inputs)
    for norm in _norms(net):
        total = sums.get(norm)
        if total is None:
            total = torch.zeros(3, norm.num_features, dtype=torch.float64, device=norm.running_mean.device)
        total = sum_over_ranks(total)
        if total[0, 0] > 0:
            mean = total[1] / total[0]
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(total[2] / total[0] - mean.square())


@contextmanager
def _collecting(net: nn.Module, sums: dict[_BatchNorm, Tensor]) -> Iterator[None]:
    """Only batch norms in training mode, each adding (n, n m, n (v + m^2)) of every batch; as before afterwards."""
    norms = _norms(net)
    modes = {module: module.training for module in net.modules()}
    kept = {norm: (norm.momentum, norm.running_mean.clone(), norm.running_var.clone()) for norm in norms}
    tracked = {norm: norm.num_batches_tracked.clone() for norm in norms}

    def add(norm: _BatchNorm, inputs: tuple[Tensor], output: Tensor) -> None:
        n = inputs[0].numel() // inputs[0].shape[1]
        assert norm.running_mean is not None  # as _norms chose them
        assert norm.running_var is not None
        mean, var = norm.running_mean.double(), norm.running_var.double() * (n - 1) / n
        part = torch.stack([torch.full_like(mean, n), n * mean, n * (var + mean.square())])
        sums[norm] = sums[norm] + part if norm in sums else part

    net.eval()
    hooks = [norm.register_forward_hook(add) for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics are those of the batch
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (momentum, mean, var) in kept.items():
            norm.momentum = momentum
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
            norm.num_batches_tracked.copy_(tracked[norm])
        for module, was in modes.items():
            module.training = was


def _norms(net: nn.Module) -> list[Any]:
    return [
        module
        for module in net.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and not isinstance(module, FrozenBatchNorm3d)
    ]


def _readable(trainer: pl.Trainer, batch: Any) -> Tensor:
    """The inputs of the samples that could be read, on the device."""
    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    return batch["inputs"][batch["weights"] > 0]
