"""The learning rate for a batch of another size."""

from nlnet.errors import UserError


def scaled_rate(rate: float, batch_size: int, reference: float | None) -> float:
    """rate x batch_size / reference, the linear scaling rule (Goyal et al. 2017); `rate` where `reference` is None.

    Args:
        rate: the rate that is meant for a batch of `reference`.
        batch_size: of one optimizer step, that is of all ranks and accumulated parts.
        reference: `optim.lr_batch`.

    Raises UserError if `reference` is below 1.
    """
    if reference is None:
        return rate
    if reference < 1:
        raise UserError(f"optim.lr_batch={reference}: give the batch that optim.optimizer.lr is meant for, or null")
    return rate * batch_size / reference
