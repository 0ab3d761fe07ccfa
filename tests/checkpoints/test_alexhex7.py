"""Blocks of AlexHex7/Non-local_pytorch under their names, against its computation written out in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.video_weights import relative
from nlnet import NonLocalBlock, from_pretrained
from nlnet.checkpoints import convert
from nlnet.cli.checkpoints.convert import main
from nlnet.errors import UserError

C, D = 8, 4
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
WINDOW = {1: 2, 2: 2, 3: (1, 2, 2)}
SIZE = {1: (14,), 2: (6, 8), 3: (3, 6, 4)}


def state(mode: str, dims: int, *, pooled: bool, norm: bool, prefix: str = "") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}

    def conv(name: str, channels_out: int, channels_in: int) -> None:
        made[f"{name}.weight"] = torch.randn(channels_out, channels_in, *(1,) * dims, generator=generator) * 0.5
        made[f"{name}.bias"] = torch.randn(channels_out, generator=generator) * 0.5

    inner = ".0" if pooled else ""
    conv(f"g{inner}", D, C)
    if mode != "gaussian":
        conv("theta", D, C)
        conv(f"phi{inner}", D, C)
    conv("W.0" if norm else "W", C, D)
    if norm:
        for name in ("weight", "bias", "running_mean", "running_var"):
            made[f"W.1.{name}"] = torch.rand(C, generator=generator) + 0.5
        made["W.1.num_batches_tracked"] = torch.tensor(3)
    if mode == "concatenation":
        made["concat_project.0.weight"] = torch.randn(1, 2 * D, 1, 1, generator=generator)
    return {f"{prefix}{key}": value for key, value in made.items()}


def block(weights: dict[str, Tensor], mode: str, dims: int, x: Tensor) -> Tensor:
    """Pool after the convolutions, no scale, a bias before the norm."""
    w = {key: value.double() for key, value in weights.items()}
    pooled = "g.0.weight" in w
    x = x.double()

    def conv(name: str, y: Tensor) -> Tensor:
        return CONV[dims](y, w[f"{name}.weight"], w[f"{name}.bias"])

    def pool(y: Tensor) -> Tensor:
        return POOL[dims](y, WINDOW[dims]) if pooled else y

    end = ".0" if pooled else ""
    g = pool(conv(f"g{end}", x)).flatten(2)
    theta, phi = (x, pool(x)) if mode == "gaussian" else (conv("theta", x), pool(conv(f"phi{end}", x)))
    theta, phi = theta.flatten(2), phi.flatten(2)
    if mode == "concatenation":
        w_f = w["concat_project.0.weight"].flatten()
        f = torch.einsum("d,bdi->bi", w_f[:D], theta)[:, :, None] + torch.einsum("d,bdj->bj", w_f[D:], phi)[:, None]
        f = f.relu() / f.shape[2]
    else:
        f = torch.einsum("bdi,bdj->bij", theta, phi)
        f = f / f.shape[2] if mode == "dot_product" else f.softmax(2)
    y = torch.einsum("bij,bdj->bdi", f, g).unflatten(2, x.shape[2:])
    if "W.1.weight" not in w:
        return x + conv("W", y)
    shape = (1, C, *(1,) * dims)
    mean, var, scale, shift = (w[f"W.1.{n}"].view(shape) for n in ("running_mean", "running_var", "weight", "bias"))
    return x + (conv("W.0", y) - mean) / (var + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
def test_output(mode: str, dims: int, pooled: bool, norm: bool, tmp_path: Path) -> None:
    weights = state(mode, dims, pooled=pooled, norm=norm)
    torch.save(weights, tmp_path / "block.pth")
    told = {"pairwise": mode} if mode in ("embedded_gaussian", "dot_product") else {}
    converted = convert(tmp_path / "block.pth", "alexhex7", **told)
    assert converted.model["pairwise"] == mode
    x = torch.randn(2, C, *SIZE[dims], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative(converted.build()(x), block(weights, mode, dims, x)) < 1e-5


def test_which_function_must_be_told(tmp_path: Path) -> None:
    torch.save(state("dot_product", 2, pooled=True, norm=True), tmp_path / "block.pth")
    with pytest.raises(UserError, match="pairwise changes the output and is not in the file"):
        convert(tmp_path / "block.pth", "alexhex7")


def test_a_block_inside_a_network(tmp_path: Path) -> None:
    """The other layers are left over, and allowed by name; the converted file gives the block back."""
    weights = state("gaussian", 2, pooled=True, norm=True, prefix="nl_1.") | {"fc.0.weight": torch.zeros(2, 3)}
    torch.save({"state_dict": weights}, tmp_path / "network.pth")
    with pytest.raises(UserError, match=r"left over fc\.0\.weight"):
        convert(tmp_path / "network.pth", "alexhex7")
    converted = convert(tmp_path / "network.pth", "alexhex7", allow=["fc.*"])
    converted.save(tmp_path / "block.pth")
    loaded = from_pretrained(tmp_path / "block.pth")
    assert isinstance(loaded, NonLocalBlock)
    assert torch.equal(loaded.g.weight, weights["nl_1.g.0.weight"])


def test_one_block_at_a_time(tmp_path: Path) -> None:
    """The network of the program's own example has two; each, taken by its name, gives its own output."""
    first = state("embedded_gaussian", 2, pooled=True, norm=True, prefix="nl_1.")
    second = {key: value * 2 for key, value in state("dot_product", 2, pooled=True, norm=True, prefix="nl_2.").items()}
    others = {"conv_1.0.weight": torch.zeros(C, 1, 3, 3), "lstm.g.weight": torch.zeros(2, 2)}
    path = tmp_path / "net.pth"
    torch.save(first | second | others, path)
    with pytest.raises(UserError, match=r"one block, found 'nl_1', 'nl_2'; say which one with block=NAME"):
        convert(path, "alexhex7")
    with pytest.raises(UserError, match=r"block=nl_3: no block .* of this name; found 'nl_1', 'nl_2'"):
        convert(path, "alexhex7", block="nl_3")
    x = torch.randn(2, C, *SIZE[2], generator=torch.Generator().manual_seed(1))
    for name, weights, mode in (("nl_1", first, "embedded_gaussian"), ("nl_2.", second, "dot_product")):
        converted = convert(path, "alexhex7", block=name, pairwise=mode)
        own = {key[len("nl_1.") :]: value for key, value in weights.items()}
        assert set(converted.report.mapped) == set(weights)
        with torch.no_grad():
            assert relative(converted.build()(x), block(own, mode, 2, x)) < 1e-5


def test_command_takes_one_block(command: Callable[..., Any], tmp_path: Path) -> None:
    two = {
        f"{name}.{key}": value for name in "ab" for key, value in state("gaussian", 1, pooled=True, norm=True).items()
    }
    torch.save(two, tmp_path / "two.pth")
    out = tmp_path / "block.pt"
    code, text, _ = command(main, str(tmp_path / "two.pth"), "--source", "alexhex7", "--block", "b", "--out", str(out))
    assert code == 0
    assert "mapped     b.g.0.weight -> g.weight" in text
    assert torch.equal(from_pretrained(out).g.weight, two["b.g.0.weight"])
    code, _, errors = command(main, str(tmp_path / "two.pth"), "--source", "torchvision", "--block", "b")
    assert code == 1
    assert "block=b: nothing of torchvision is read from a block; leave it out" in errors
