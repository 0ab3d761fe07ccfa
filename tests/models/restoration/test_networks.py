"""The networks that restore images: their published sizes, what they compute, and how far an output pixel sees."""

import pytest
import torch
import torch.nn.functional as F

from nlnet.errors import UserError
from nlnet.models.restoration.build import DENOISERS, build_denoiser
from nlnet.models.restoration.nlrn import NLRN

PUBLISHED = {"nlrn": 0.33e6, "rnan": 8.96e6, "dncnn": 0.56e6}


def parameters(name: str, channels: int = 1, **sizes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_denoiser(name, channels, **sizes).parameters())


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_the_parameters_are_the_published_ones(name: str, published: float) -> None:
    assert parameters(name) == pytest.approx(published, rel=0.01)


def test_the_parameters_are_those_counted_by_hand() -> None:
    conv, point = 128 * 128 * 9 + 128, 128 * 64 + 64
    convolutions = (9 * 128 + 128) + 2 * point + (128 * 128 + 128) + 2 * conv + (9 * 128 + 1)
    assert (convolutions, parameters("nlrn")) == (330_625, 330_625 + 3 * 256 + 256)
    conv, up = 64 * 64 * 9 + 64, 64 * 64 * 36 + 64
    block = 3 * (64 * 32 + 32) + 32 * 64 + 64
    group = 20 * conv + up + (64 * 64 + 64)
    assert parameters("rnan") == 10 * group + 2 * block + conv + (9 * 64 + 64) + (9 * 64 + 1) == 8_957_249
    assert parameters("dncnn", 3, depth=20) == (27 * 64 + 64) + 18 * (64 * 64 * 9 + 128) + 64 * 27


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_size_of_the_image_is_kept(name: str, channels: int) -> None:
    net = build_denoiser(name, channels, sizes="demo").eval()
    for size in ((8, 8), (9, 13)):
        assert net(torch.rand(2, channels, *size)).shape == (2, channels, *size)


def test_the_recurrence_is_the_equation() -> None:
    """With the maps of correlations kept and handed on, which the network does without; float64."""
    torch.manual_seed(0)
    net = NLRN(1, width=6, inner_channels=3, steps=3, window=5).double().eval()
    torch.nn.init.normal_(net.g.weight)
    torch.nn.init.normal_(net.conv_out.weight)
    for norm in (net.norm_1, net.norm_2, net.norm_3):  # every step its own statistics
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    x = torch.rand(1, 1, 7, 9, dtype=torch.float64)

    def normed(norm: torch.nn.Module, t: torch.Tensor, step: int) -> torch.Tensor:
        return F.batch_norm(t, norm.running_mean[step], norm.running_var[step], norm.weight, norm.bias, False, 0, 1e-5)

    y, xs = (t.flatten() for t in torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij"))
    near = ((y[:, None] - y).abs() <= 2) & ((xs[:, None] - xs).abs() <= 2)
    first = state = net.conv_in(x)
    correlation = torch.zeros(1, 63, 63, dtype=torch.float64)
    for step in range(3):
        u = normed(net.norm_1, state, step).relu()
        correlation = correlation + net.theta(u).flatten(2).mT @ net.phi(u).flatten(2)
        weights = correlation.masked_fill(~near, -torch.inf).softmax(2)
        z = u + (weights @ net.g(u).flatten(2).mT).mT.unflatten(2, (7, 9))
        z = net.conv_1(normed(net.norm_2, z, step))
        state = first + net.conv_2(normed(net.norm_3, z, step).relu())
    expected = x + net.conv_out(net.norm_out(state).relu())
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_each_step_has_statistics_of_its_own() -> None:
    net = build_denoiser("nlrn", sizes="demo").train()
    net(torch.rand(2, 1, 12, 12))
    means = net.norm_2.running_mean
    assert means.shape == (3, 32)
    assert all(not torch.equal(means[a], means[b]) for a in range(3) for b in range(a))


@pytest.mark.parametrize(
    ("name", "sizes"), [("dncnn", {"width": 4, "depth": 4}), ("nlrn", {"width": 4, "steps": 2, "window": 5})]
)
def test_the_reach_is_how_far_a_pixel_sees(name: str, sizes: dict[str, int]) -> None:
    """By the gradient of one output pixel: no further, and as far."""
    torch.manual_seed(0)
    net = build_denoiser(name, sizes="demo", **sizes).double().eval()
    if isinstance(net, NLRN):  # what starts at zero
        torch.nn.init.normal_(net.g.weight)
        torch.nn.init.normal_(net.conv_out.weight)
    side = 2 * net.reach + 5
    x = torch.rand(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, side // 2, side // 2].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (2, side - 3)


def test_the_mask_of_the_first_and_the_last_group_looks_everywhere() -> None:
    torch.manual_seed(0)
    net = build_denoiser("rnan", sizes="demo", groups=3).double().eval()
    blocks = [name for name, module in net.named_modules() if type(module).__name__ == "NonLocalBlock"]
    assert blocks == ["groups.0.mask.first.0", "last.mask.first.0"]
    block = net.get_submodule(blocks[0])
    x = torch.rand(1, 16, 6, 7, dtype=torch.float64)
    theta, phi = (getattr(block, name)(x).flatten(2) for name in ("theta", "phi"))
    y = (theta.mT @ phi).softmax(dim=2) @ block.g(x).flatten(2).mT  # over the keys, unscaled
    torch.testing.assert_close(block.attend(*block.embed(x)), y, rtol=1e-12, atol=1e-12)


def test_nothing_else_can_be_built() -> None:
    with pytest.raises(UserError, match=r"model.name 'nlrm' is unknown; nearest: nlrn"):
        build_denoiser("nlrm")
    with pytest.raises(UserError, match=r"size of dncnn 'window' is unknown"):
        build_denoiser("dncnn", window=35)
    with pytest.raises(UserError, match=r"model.window=34: a window has a middle"):
        build_denoiser("nlrn", window=34)
    with pytest.raises(UserError, match=r"model.steps=1000: expected a whole number from 1 to 256"):
        build_denoiser("nlrn", steps=1000)
    with pytest.raises(UserError, match=r"model.channels 2 is unknown"):
        build_denoiser("nlrn", 2)
