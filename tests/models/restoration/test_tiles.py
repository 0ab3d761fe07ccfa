"""Tiles with overlap equal the whole image, as far as the network sees."""

import pytest
import torch

from nlnet.models.restoration.build import build_denoiser
from nlnet.models.restoration.nlrn import NLRN
from nlnet.models.restoration.tiles import restore


@torch.no_grad()
@pytest.mark.parametrize(("name", "sizes"), [("dncnn", {"depth": 6}), ("nlrn", {"steps": 2, "window": 9})])
def test_tiles_equal_the_whole_image(name: str, sizes: dict[str, int]) -> None:
    torch.manual_seed(0)
    net = build_denoiser(name, 1, sizes="demo", **sizes).eval()
    if isinstance(net, NLRN):
        torch.nn.init.normal_(net.g.weight, std=0.1)
        torch.nn.init.normal_(net.conv_out.weight, std=0.1)
    images = torch.rand(1, 1, 50, 67)
    whole = restore(net, images)
    assert torch.equal(whole, net(images))
    tiled = restore(net, images, tile=24)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)
    assert (restore(net, images, tile=24, overlap=0) - whole).abs().max() > 1e-3  # or this test would say nothing


@torch.no_grad()
def test_a_network_that_looks_everywhere_is_approximated() -> None:
    torch.manual_seed(0)
    net = build_denoiser("rnan", 3, sizes="demo").eval()
    images = torch.rand(1, 3, 70, 45)
    assert net.reach is None
    tiled = restore(net, images, tile=32)
    assert tiled.shape == images.shape
    torch.testing.assert_close(tiled, restore(net, images), rtol=0, atol=1e-3)  # its non-local blocks start at zero
    assert torch.equal(restore(net, images, tile=70), net(images))
