"""Checkpoints of programs that run here: the converted network gives their logits on the same clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import mmaction2
from helpers.networks import randomise
from helpers.video_weights import relative
from nlnet.checkpoints import convert
from nlnet.errors import UserError

TOLERANCE = 1e-4
I3D = "i3d/i3d_imagenet-pretrained-r50-nl-{}_8xb8-32x2x1-100e_kinetics400-rgb"
SLOW = "slowonly/slowonly_r50-in1k-pre-nl-embedded-gaussian_8xb16-4x16x1-steplr-150e_kinetics400-rgb"


def clip(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def saved(net: nn.Module, path: Path, key: str | None = "state_dict") -> Path:
    state = net.state_dict()
    torch.save({key: state, "meta": {"epoch": 1}} if key else state, path)
    return path


@torch.no_grad()
def same_logits(theirs: nn.Module, ours: nn.Module, x: Tensor) -> None:
    assert relative(ours(x), theirs(x)) < TOLERANCE


# ---- mmaction2


def mmaction2_network(config: str) -> tuple[nn.Module, Path]:
    pytest.importorskip("mmcv", reason="mmcv-lite is installed by `make peers`")
    pytest.importorskip("mmaction", reason="mmaction2 is installed by `make peers`")
    return mmaction2.network(config)


def check_mmaction2(config: str, folder: Path, size: tuple[int, int, int], **wanted: Any) -> None:
    theirs, file = mmaction2_network(config)
    randomise(theirs, embeddings=0.05 if "dot-product" in config else 0.2)
    converted = convert(saved(theirs, folder / "theirs.pth"), "mmaction2", config=file)
    assert converted.model | wanted == converted.model
    assert not converted.report.left_over
    assert not converted.report.missing
    same_logits(theirs, converted.build(), clip(*size))


def test_mmaction2_i3d(tmp_path: Path) -> None:
    check_mmaction2(I3D.format("embedded-gaussian"), tmp_path, (16, 64, 48), scale=False, pairwise="embedded_gaussian")


@pytest.mark.full
def test_mmaction2_slowonly(tmp_path: Path) -> None:
    check_mmaction2(SLOW, tmp_path, (4, 64, 48), scale=True, name="slow_r50", nonlocal_blocks=[
        "res3.0", "res3.2", "res4.0", "res4.2", "res4.4",
    ])  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("mode", ["embedded-gaussian", "dot-product", "gaussian"])
def test_mmaction2_i3d_at_full_size(mode: str, tmp_path: Path) -> None:
    check_mmaction2(I3D.format(mode), tmp_path, (32, 112, 112), pairwise=mode.replace("-", "_"))


def test_mmaction2_needs_what_its_file_does_not_say(tmp_path: Path) -> None:
    theirs, _ = mmaction2_network(I3D.format("embedded-gaussian"))
    path = tmp_path / "theirs.pth"
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in theirs.state_dict().items()}, path)
    with pytest.raises(UserError, match=r"pairwise changes the output and is not in the file.*config"):
        convert(path, "mmaction2")
    with pytest.raises(UserError, match="scale changes the output"):
        convert(path, "mmaction2", pairwise="embedded_gaussian")
    assert convert(path, "mmaction2", pairwise="dot_product").model["pairwise"] == "dot_product"
    assert convert(path, "mmaction2", pairwise="embedded_gaussian", scale=False).model["scale"] is False


# ---- pytorchvideo


def pytorchvideo(name: str, pool: tuple[int, int, int] | None = None) -> nn.Module:
    """One of its hub networks; with a smaller pool in the head it takes smaller clips."""
    hub = pytest.importorskip("pytorchvideo.models.hub.resnet", reason="pytorchvideo is installed by `make peers`")
    net = getattr(hub, name)()
    if pool:
        net.blocks[-1].pool = nn.AvgPool3d(pool, stride=1)
    return randomise(net)


def check_pytorchvideo(theirs: nn.Module, name: str, folder: Path, size: tuple[int, int, int]) -> None:
    converted = convert(saved(theirs, folder / "theirs.pyth", "model_state"), "pytorchvideo")
    assert (converted.model["name"], converted.model["geometry"]) == (name, "sparse")
    assert not converted.report.left_over
    assert not converted.report.missing
    same_logits(theirs, converted.build(), clip(*size))


def test_pytorchvideo_i3d(tmp_path: Path) -> None:
    check_pytorchvideo(pytorchvideo("i3d_r50", (4, 2, 2)), "i3d_r50", tmp_path, (8, 64, 64))


@pytest.mark.full
@pytest.mark.parametrize("name", ["c2d_r50", "i3d_r50", "slow_r50"])
def test_pytorchvideo_at_full_size(name: str, tmp_path: Path) -> None:
    check_pytorchvideo(pytorchvideo(name), name, tmp_path, (8, 224, 224))


# ---- torchvision


def features(net: nn.Module, x: Tensor) -> Tensor:
    """A 2-D ResNet's features before its pool."""
    for name, module in net.named_children():
        if name == "avgpool":
            break
        x = module(x)
    return x


def check_torchvision(make: Callable[[], nn.Module], name: str, folder: Path) -> None:
    theirs = randomise(make())
    path = saved(theirs, folder / "theirs.pth", None)
    ours = convert(path, "torchvision").build()
    assert ours.title.startswith(name)
    image = clip(72, 56)
    still = image[:, :, None].expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        wanted = features(theirs, image)
        got = ours.features(still)
        assert got.shape[2] == 2  # the pool after res2
        assert max(relative(got[:, :, t], wanted) for t in range(2)) < TOLERANCE
        assert relative(ours(still), theirs(image)) < TOLERANCE


def test_torchvision_r50(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    check_torchvision(torchvision.models.resnet50, "C2D-R50", tmp_path)


@pytest.mark.full
def test_torchvision_r101(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    check_torchvision(torchvision.models.resnet101, "C2D-R101", tmp_path)


@pytest.mark.full
def test_torchvision_inflated_into_i3d(tmp_path: Path) -> None:
    """On a still clip the sum over a kernel's frames is the 2-D kernel, away from the ends, where it sees zeros."""
    torchvision = pytest.importorskip("torchvision")
    theirs = randomise(torchvision.models.resnet50())
    path = saved(theirs, tmp_path / "theirs.pth", None)
    ours = convert(path, "torchvision", name="i3d_r50", pool2_frames=1).build()
    image = clip(32, 32)
    with torch.no_grad():
        frames = ours.features(image[:, :, None].expand(-1, -1, 45, -1, -1))
        assert relative(frames[:, :, 22], features(theirs, image)) < TOLERANCE
        assert relative(frames[:, :, 0], features(theirs, image)) > 0.01
