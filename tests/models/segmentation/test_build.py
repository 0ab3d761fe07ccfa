"""The networks for segmentation: their parameters, their stride, and how far they see."""

import numpy as np
import pytest
import torch
from torch import nn

from nlnet.data.synthetic.signs import render
from nlnet.errors import UserError
from nlnet.models.segmentation.build import build_segmenter
from nlnet.models.segmentation.heads import HEADS, build_head

K, C3, C4, W = 19, 1024, 2048, 512  # classes, channels of res4 and res5, of the head
NORM = 2  # parameters of a batch norm for each channel


def conv(channels: int, out: int, kernel: int = 1, bias: bool = True) -> int:
    return channels * out * kernel**2 + out * bias


def conv_norm(channels: int, out: int, kernel: int = 1, bias: bool = False) -> int:
    return conv(channels, out, kernel, bias) + NORM * out


# By hand, from the papers and mmsegmentation's configurations; all but `ann` are its own numbers to the last digit:
# FCN 23,605,779, NonLocal 24,131,859, CCNet 23,934,100, GCNet 23,738,260, DNL 24,132,372, auxiliary 2,364,691.
AROUND = conv_norm(C4, W, 3) + conv_norm(W, W, 3) + conv_norm(C4 + W, W, 3) + conv(W, K)
NONLOCAL = 3 * conv(W, W // 2) + conv_norm(W // 2, W)  # theta, phi, g; W and its norm
ANN_FUSION = conv_norm(C4, 256) + conv_norm(C3, 256) + conv(C3, 256) + conv(256, C4) + conv_norm(2 * C4, C4)
ANN_CONTEXT = conv_norm(W, 256) + conv(W, 256) + conv(256, W) + conv_norm(2 * W, W)
ANN_BIASES = 256 + 256 + C4 + 256 + W  # before norms: the authors' code has them, mmsegmentation (20,336,659) does not
PARAMETERS = {
    "fcn": AROUND,
    "nl": AROUND + NONLOCAL,
    "ccnet": AROUND + 2 * conv(W, W // 8) + conv(W, W) + 1,
    "gcnet": AROUND + conv(W, 1) + conv(W, W // 4) + NORM * W // 4 + conv(W // 4, W),
    "dnl": AROUND + NONLOCAL + conv(W, 1),
    "ann": ANN_FUSION + conv_norm(C4, W, 3) + ANN_CONTEXT + conv(W, K) + ANN_BIASES,
}
PUBLISHED = {"fcn": 23_605_779, "nl": 24_131_859, "ccnet": 23_934_100, "gcnet": 23_738_260, "dnl": 24_132_372}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_the_parameters_of_a_head_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        head = build_head(name, (C3, C4), W, K, 0.01, {})
    assert count(head) == PARAMETERS[name]
    assert PUBLISHED.get(name, 20_336_659 + ANN_BIASES) == PARAMETERS[name]


def test_the_parameters_around_the_head_are_the_published_ones() -> None:
    with torch.device("meta"):
        net = build_segmenter("fcn", num_classes=K)
    assert count(net.auxiliary) == conv_norm(C3, 256, 3) + conv(256, K) == 2_364_691
    assert count(net.backbone) == 25_557_032 - (2048 * 1000 + 1000)  # torchvision's ResNet-50 without its classifier
    dilations = [[block.conv2.dilation[0] for block in getattr(net.backbone, f"layer{k}")] for k in (3, 4)]
    assert dilations == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]


@pytest.mark.parametrize("backbone", [pytest.param("r50", marks=pytest.mark.full), "demo"])
def test_the_maps_are_an_eighth_of_the_image(backbone: str) -> None:
    with torch.device("meta"):
        net = build_segmenter("fcn", backbone, num_classes=K, channels=32)
        shapes = [tuple(m.shape) for m in net.backbone(torch.empty(1, 3, 64, 128))]
        assert net(torch.empty(2, 3, 65, 129)).shape == (2, K, 65, 129)
    low, high = net.backbone.channels
    assert shapes == [(1, low, 8, 16), (1, high, 8, 16)]


def two_signs() -> tuple[torch.Tensor, torch.Tensor]:
    """The same image of the built-in set with either sign (2, 3, 64, 128), and where its fields are (64, 128)."""
    pixels, labels = render("val", 0)
    other = pixels.copy()
    yellow = (np.abs(pixels.astype(int) - (235, 205, 40)) < 60).all(-1)
    other[yellow] = (150, 60, 190)
    assert yellow.sum() > 500
    fields = torch.from_numpy(labels == 4)
    assert fields.sum() > 200
    return torch.from_numpy(np.stack([pixels, other])).permute(0, 3, 1, 2) / 255, fields


@pytest.mark.parametrize("name", HEADS)
def test_only_a_head_that_looks_at_all_of_the_map_can_know_the_sign_at_the_fields(name: str) -> None:
    """The logits of the fields' pixels, for either sign: bit-equal without attention, and different with it."""
    torch.manual_seed(0)
    net = build_segmenter(name, "demo", num_classes=6, channels=16).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
    for key, parameter in net.named_parameters():  # what starts at zero
        if not parameter.any():
            nn.init.normal_(net.get_parameter(key))
    images, fields = two_signs()
    with torch.no_grad():
        one, other = net(images)[:, :, fields]
    assert torch.equal(one, other) == (name == "fcn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nle"}, "model name 'nle' is unknown; nearest: nl"),
        ({"backbone": "r5"}, "backbone 'r5' is unknown; nearest: r50"),
        ({"num_classes": 1}, "num_classes=1: pixels are told apart by two classes or more"),
        ({"channels": 4}, "channels=4: give at least 8"),
        ({"block_options": {"ratoi": 2}}, "block_options: the block of nl refuses them: .*ratoi"),
        ({"name": "dnl", "block_options": {"temperature": -1}}, "the block of dnl refuses them: .*temperature must be"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options: dict[str, object], message: str) -> None:
    arguments = {"name": "nl", "backbone": "demo", "num_classes": 6, "channels": 16} | options
    with pytest.raises(UserError, match=message):
        build_segmenter(**arguments)
