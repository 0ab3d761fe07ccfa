"""What every network that restores images is."""

from torch import Tensor, nn


class Denoiser(nn.Module):
    """Base of networks that estimate what has to be added to an image: (B, C, H, W) in [0, 1] -> the same shape.

    Args:
        title: what people call it.
        channels: C, 1 for gray and 3 for color.
        reach: an output pixel depends on the input pixels at most so many rows and columns away; None for all of them.
    """

    def __init__(self, title: str, channels: int, reach: int | None) -> None:
        super().__init__()
        self.title, self.channels, self.reach = title, channels, reach

    def residual(self, images: Tensor) -> Tensor:
        """The estimate of clean - noisy, of the same shape."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The restored images, not clipped to [0, 1]."""
        return images + self.residual(images)


def conv3x3(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size: beyond the border are zeros."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
