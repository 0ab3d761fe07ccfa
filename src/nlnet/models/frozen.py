"""Batch norm with nothing left to learn or to estimate."""

from torch import nn


class FrozenBatchNorm3d(nn.BatchNorm3d):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, per channel, with all four constant, in training too.

    It keeps the names of `nn.BatchNorm3d`, so weights trained with batch norm load as they are. The released long-clip
    networks, which have y = s x + b instead, are mean 0, variance 1 - eps, weight s, bias b.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenBatchNorm3d":
        """Stay in evaluation mode, whatever the network around it does."""
        return super().train(False)
