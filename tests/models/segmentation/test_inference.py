"""Windows, scales and mirror images: what they are the same as."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlnet.errors import UserError
from nlnet.models.segmentation.inference import Views, labels, logits_of, scores

IMAGES = torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(0))


class Pointwise(nn.Module):
    """A 1x1 network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("window", [(16, 16), (10, 53), (37, 53), (64, 64), (1, 7)])
@pytest.mark.parametrize("stride", [None, (1, 5), (1, 7)])
def test_sliding_windows_are_the_whole_image_for_a_1x1_network(window, stride) -> None:
    net = Pointwise()
    with torch.no_grad():
        whole = net(IMAGES)
        slid = logits_of(net, IMAGES, window, stride)
    assert slid.shape == whole.shape
    assert (slid - whole).abs().max() < 1e-6


def test_a_pixel_has_the_mean_of_the_windows_that_it_lies_in() -> None:
    """A network whose logit is the number of its window, by the order of the calls."""
    calls: list[tuple[int, ...]] = []

    def net(x: Tensor) -> Tensor:
        calls.append(tuple(x.shape[-2:]))
        return torch.full((1, 1, *x.shape[-2:]), float(len(calls)))

    found = logits_of(net, torch.zeros(1, 3, 4, 10), (4, 6), (4, 3))[0, 0, 0]
    assert calls == [(4, 6)] * 3  # from columns 0, 3 and 4: the last one ends with the image
    assert found.tolist() == [1, 1, 1, 1.5, 2, 2, 2.5, 2.5, 2.5, 3]


def test_scales_and_mirror_images_are_averaged() -> None:
    net = Pointwise()
    with torch.no_grad():
        found = scores(net, IMAGES, Views(scales=(1.0, 0.5), flip=True))
        small = F.interpolate(IMAGES, (18, 26), mode="bilinear", align_corners=False)
        whole = [
            F.interpolate(net(x), (37, 53), mode="bilinear", align_corners=False).softmax(1) for x in (IMAGES, small)
        ]
        torch.testing.assert_close(found, (whole[0] + whole[1]) / 2)  # of a 1x1 network the mirror image is the same
    torch.testing.assert_close(found.sum(1), torch.ones(2, 37, 53))


def test_a_mirror_image_is_turned_back() -> None:
    """A network that says 0 at the left edge and 5 at the right one."""

    def net(x: Tensor) -> Tensor:
        ramp = torch.linspace(0, 5, x.shape[-1]).expand(1, *x.shape[-2:])
        return torch.stack([ramp, -ramp], 1)

    found = scores(net, IMAGES[:1], Views(flip=True))
    torch.testing.assert_close(found, found.flip(-1))


@pytest.mark.parametrize("size", [(37, 53), (74, 106), (20, 31)])
def test_labels_are_those_of_the_resized_maps(size) -> None:
    maps = torch.rand(2, 7, 37, 53, generator=torch.Generator().manual_seed(3))
    resized = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    assert torch.equal(labels(maps, size), resized.argmax(1).byte())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"scales=\[\]: give one number above 0"),
        ({"stride": (3, 3)}, r"stride=\[3, 3\]: is of windows; give window=\[H,W\], too"),
        ({"window": (4, 4), "stride": (4, 5)}, r"stride=\[4, 5\] leaves gaps between windows of \[4, 4\]"),
        ({"window": (0, 4)}, r"window=\[0, 4\]: give height and width in pixels"),
    ],
)
def test_what_cannot_be_is_refused(options, message) -> None:
    with pytest.raises(UserError, match=message):
        Views(**options)
