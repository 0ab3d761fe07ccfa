"""What a new run starts with: trained weights, and a learning rate for its batch."""

from typing import Any

from omegaconf import DictConfig

from nlnet.errors import UserError
from nlnet.models.inflate import inflate_weights
from nlnet.models.resnet3d import ResNet3d
from nlnet.models.weights import load_weights


def start_weights(net: ResNet3d, cfg: DictConfig) -> list[str]:
    """Fill `net` as `cfg.init` says and return what to say about it; nothing where a checkpoint is loaded afterwards.

    Raises UserError where weights are needed and none are named, or where two sources are.
    """
    init = cfg.get("init")
    if cfg.ckpt_path or init is None:
        return []
    if init.checkpoint and init.images:
        raise UserError(f"init.checkpoint={init.checkpoint} and init.images={init.images}: give one of them")
    if init.checkpoint:
        return [load_weights(net, init.checkpoint, keep_classifier=init.keep_classifier)]
    if cfg.model.get("norm") == "frozen":
        raise UserError(
            "model.norm=frozen: this run continues from weights trained with batch norm; give them with"
            " init.checkpoint=FILE (the experiment's file says which), or start at random with model.norm=batch"
        )
    return [inflate_weights(net, init.images, taps=init.taps)] if init.images else []


def scaled_rate(cfg: DictConfig) -> dict[str, Any]:
    """The rate that replaces the optimiser's: lr x the run's batch / `optim.lr_batch`; nothing where that is null.

    The linear scaling rule (Goyal et al. 2017). The batch is that of all ranks, times accumulated batches.
    """
    reference = cfg.optim.get("lr_batch")
    if reference is None:
        return {}
    if reference < 1:
        raise UserError(f"optim.lr_batch={reference}: give the batch that optim.optimizer.lr is meant for, or null")
    batch = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
    return {"lr": cfg.optim.optimizer.lr * batch / reference}
