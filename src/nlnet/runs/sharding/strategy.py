"""Lightning's strategy for networks that are sharded over the ranks (FSDP2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from torch.optim import Optimizer

from nlnet.distributed import is_first, on_first
from nlnet.runs.sharding.network import is_sharded, shard_network, spread_like
from nlnet.runs.sharding.saving import remove_unused, write_shards


class ShardedStrategy(DDPStrategy):
    """Data parallel training in which each rank holds its part of every parameter, gradient and optimizer state.

    The losses are those of `strategy=ddp` up to rounding, and so is all else of it: launchers, buffers, precision.
    Checkpoints are read whole on every rank before anything is sharded, so they fit any number of ranks, and those of a
    run that was not sharded fit, too.
    """

    def configure_ddp(self) -> None:
        """In the place of `DistributedDataParallel`. The optimizer is made of the sharded parameters after this."""
        shard_network(self._task.net, self._task.called_modules, self.root_device)

    def setup(self, trainer: pl.Trainer) -> None:
        """As for `ddp`; a validation after a training finds its network sharded, which is not done again."""
        if not is_sharded(self._task):
            super().setup(trainer)
            return
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        self.setup_precision_plugin()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Whole weights into a network that may be sharded already."""
        own = self._task.state_dict()
        state = {name: spread_like(value, own[name]) for name, value in checkpoint["state_dict"].items()}
        self._task.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Whole states of the optimizers, cut like their parameters."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _in_order(optimizer)
            state = {number: spread_like(value, parameters[number]) for number, value in saved["state"].items()}
            optimizer.load_state_dict({**saved, "state": state})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Every rank its shards, then rank 0 the file that names them: a checkpoint is there whole, or not at all."""
        path = Path(self.broadcast(str(filepath))).absolute()
        on_first(lambda: path.parent.mkdir(parents=True, exist_ok=True))
        left = write_shards(checkpoint, path)
        on_first(lambda: self.checkpoint_io.save_checkpoint(left, path, storage_options))
        if is_first():
            remove_unused(path.parent)

    def remove_checkpoint(self, filepath: Any) -> None:
        """The file and, where no other names them, its shards."""
        super().remove_checkpoint(filepath)
        if is_first():
            remove_unused(Path(filepath).parent)

    @property
    def _task(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module


def _in_order(optimizer: Optimizer) -> list[Any]:
    """The parameters by the numbers that a state dict gives them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
