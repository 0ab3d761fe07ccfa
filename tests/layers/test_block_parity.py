"""The block against what it is elsewhere, weights copied: mmcv, pytorchvideo, and PyTorch's own attention."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.nonlocal_oracle import awake, positions
from nlnet import NonLocalBlock

SIZES = {1: (12,), 2: (8, 6), 3: (2, 6, 8)}


@pytest.fixture(scope="module")
def mmcv() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("mmcv.cnn.bricks.non_local", reason="mmcv is an optional peer: make peers")


@pytest.fixture(scope="module")
def create_nonlocal() -> Callable[..., nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "pytorchvideo is an optional peer: make peers"
        return pytest.importorskip("pytorchvideo.layers.nonlocal_net", reason=reason).create_nonlocal


def take(block: NonLocalBlock, peer: nn.Module, names: Mapping[str, str]) -> Callable[[str], str]:
    """Copies the block's weights into the peer, all of them; `names` are the peer's modules by the block's."""

    def renamed(key: str) -> str:
        module, part = key.rsplit(".", 1)
        return f"{names[module]}.{part}"

    peer.load_state_dict({renamed(key): value for key, value in block.state_dict().items()}, strict=True)
    return renamed


def assert_equal(block: NonLocalBlock, peer: nn.Module, renamed: Callable[[str], str], x: Tensor) -> None:
    """Output and gradients, of the input and of every parameter, in training mode, in both precisions."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        mine, theirs = run(block.to(dtype), x.to(dtype)), run(peer.to(dtype), x.to(dtype))
        # a gradient that vanishes in exact arithmetic is rounding noise: measured by the others
        largest = max(gradient.norm() for gradient in theirs.values())
        for name, value in mine.items():
            expected = theirs[name if name in ("z", "x") else renamed(name)]
            assert (value - expected).norm() <= tolerance * max(expected.norm(), 0.1 * largest), (name, dtype)
        assert len(mine) == len(theirs)


def run(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    z = module(x)
    inputs = {"x": x, **dict(module.named_parameters())}
    loss = (z * torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)).sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {"z": z.detach(), **dict(zip(inputs, gradients, strict=True))}


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product"])
@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("sub_sample", [True, False])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_mmcv(mmcv: Any, dims: int, mode: str, use_scale: bool, sub_sample: bool, norm: str) -> None:
    torch.manual_seed(0)
    options = {"subsample": sub_sample, "scale": use_scale, "norm": norm}
    block = awake(NonLocalBlock(8, dims, mode, preset="mmcv", **options))
    norm_cfg = {"type": f"BN{dims}d"} if norm == "batch" else None
    kind = getattr(mmcv, f"NonLocal{dims}d")
    peer = kind(8, sub_sample=sub_sample, use_scale=use_scale, mode=mode, norm_cfg=norm_cfg)
    pooled = "0.conv" if sub_sample else "conv"
    names = {"g": f"g.{pooled}", "phi": f"phi.{pooled}", "theta": "theta.conv"}
    renamed = take(block, peer, names | {"norm": "conv_out.bn", "out": "conv_out.conv"})
    assert_equal(block, peer, renamed, torch.randn(2, 8, *SIZES[dims]))


@pytest.mark.parametrize("sub_sample", [True, False])
def test_mmcv_concatenation_forward(mmcv: Any, sub_sample: bool) -> None:
    """Its backward raises, for it divides in place; its (2D, N, M) tensor is small here."""
    block = awake(NonLocalBlock(8, 2, "concatenation", preset="mmcv", subsample=sub_sample)).eval()
    peer = mmcv.NonLocal2d(8, sub_sample=sub_sample, mode="concatenation", norm_cfg={"type": "BN2d"}).eval()
    pooled = "0.conv" if sub_sample else "conv"
    names = {"g": f"g.{pooled}", "phi": f"phi.{pooled}", "theta": "theta.conv", "norm": "conv_out.bn"}
    take(block, peer, names | {"out": "conv_out.conv", "concat_project": "concat_project.conv"})
    x = torch.randn(2, 8, 6, 5)
    with torch.no_grad():
        expected = peer(x)
        assert (block(x) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(("mode", "instantiation"), [("embedded_gaussian", "softmax"), ("dot_product", "dot_product")])
@pytest.mark.parametrize("sub_sample", [True, False])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_pytorchvideo(
    create_nonlocal: Callable[..., nn.Module], mode: str, instantiation: str, sub_sample: bool, norm: str
) -> None:
    torch.manual_seed(0)
    block = awake(NonLocalBlock(8, 3, mode, subsample=sub_sample, norm=norm))
    peer = create_nonlocal(
        dim_in=8,
        dim_inner=4,
        pool_size=(1, 2, 2) if sub_sample else (1, 1, 1),
        instantiation=instantiation,
        norm=nn.BatchNorm3d if norm == "batch" else None,
    )
    names = {name: f"conv_{name}" for name in ("theta", "phi", "g", "out")} | {"norm": "norm"}
    renamed = take(block, peer, names)
    assert_equal(block, peer, renamed, torch.randn(2, 8, *SIZES[3]))


@pytest.mark.parametrize("subsample", [True, False])
def test_one_head_of_multihead_attention(subsample: bool) -> None:
    """Section 3.2: self-attention is the embedded Gaussian."""
    options = {"inner_channels": 8, "subsample": subsample, "norm": "none", "zero_init": "none"}
    block = awake(NonLocalBlock(8, 3, **options)).double()
    attention = nn.MultiheadAttention(8, num_heads=1, batch_first=True).double()
    projections = [block.theta, block.phi, block.g]
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([conv.weight.flatten(1) for conv in projections]))
        attention.in_proj_bias.copy_(torch.cat([conv.bias for conv in projections]))
        attention.out_proj.weight.copy_(block.out.weight.flatten(1))
        attention.out_proj.bias.copy_(block.out.bias)
    x = torch.randn(2, 8, *SIZES[3], dtype=torch.float64)
    keys = positions(F.max_pool3d(x, (1, 2, 2)) if subsample else x)
    y, weights = attention(positions(x), keys, keys)
    torch.testing.assert_close(positions(block(x) - x), y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(block.attention(x, range(weights.shape[1])), weights, rtol=1e-10, atol=1e-12)
