"""DnCNN: convolutions and batch norms alone, the network that non-local ones are compared with."""

from typing import cast

from torch import Tensor, nn

from nlnet.models.restoration.denoiser import Denoiser, conv3x3


class DnCNN(Denoiser):
    """x + f(x), f of `depth` 3x3 convolutions, with ReLU after all but the last, and batch norm before it but for the
    first.

    0.56 M parameters with 17 layers of 64 channels for gray images, 0.67 M with 20 layers for color.

    Source: Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 2017, section 3: 17 layers for a known deviation, 20
    layers for a range of them and for color.

    Args:
        channels: of the images.
        width: channels of the features.
        depth: convolutions.
    """

    def __init__(self, channels: int, *, width: int = 64, depth: int = 17) -> None:
        super().__init__(f"DnCNN-{depth}", channels, reach=depth)
        layers: list[nn.Module] = [conv3x3(channels, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [conv3x3(width, width, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, conv3x3(width, channels, bias=False))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def residual(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.layers(images))
