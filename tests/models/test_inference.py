"""A network made ready for inference gives the logits it gave, and leaves the one it is made of alone."""

import pytest
import torch
import torchvision
from torch import nn

import nlnet
from helpers.networks import randomise
from nlnet import build_model, optimize_for_inference
from nlnet.errors import UserError
from nlnet.models.inference import PackedConv3d


@pytest.mark.parametrize("name", ["c2d_demo", "i3d_demo", pytest.param("i3d_r50", marks=pytest.mark.full)])
def test_logits_stay_at_every_size(name: str) -> None:
    net = randomise(build_model(name, nonlocal_blocks=5, num_classes=7))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = optimize_for_inference(net)
    assert not any(isinstance(module, nn.BatchNorm3d) for key, module in fast.named_modules() if "nonlocal" not in key)
    assert any(isinstance(module, PackedConv3d) for module in fast.modules()) == torch.backends.mkldnn.is_available()
    for size in [(8, 64, 64), (16, 64, 80), (8, 64, 64)]:
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            wanted = net(x)
            assert (fast(x) - wanted).norm() <= 1e-4 * wanted.norm()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.skipif(not HAS_BFLOAT16, reason="PyTorch has no bfloat16 convolutions for this processor")
@pytest.mark.parametrize("name", ["i3d_demo", pytest.param("i3d_r50", marks=pytest.mark.full)])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_bfloat16_keeps_the_logits_to_its_digits(name: str, pairwise: str) -> None:
    net = randomise(build_model(name, nonlocal_blocks=2 if "demo" in name else 5, num_classes=50, pairwise=pairwise))
    fast = optimize_for_inference(net, torch.bfloat16)
    x = torch.randn(3, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = net(x), fast(x)
        dense = fast.dense(x, (2, 2))
    assert found.dtype is dense.dtype is torch.float32
    assert nn.functional.cosine_similarity(found, wanted).min() >= 0.999
    assert (found - wanted).norm() <= 0.04 * wanted.norm()
    # Sums end in bfloat16, the classifier in float32: a bfloat16 has no such digits.
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_residual_block_is_its_convolutions_and_keeps_its_hooks(norm: str) -> None:
    net = randomise(build_model("i3d_demo", nonlocal_blocks=1, num_classes=3, norm=norm)).eval()
    seen: list[tuple[str, torch.Tensor]] = []
    for name, module in net.named_modules():
        if name in ("res3.0", "res3.0.conv2", "res4.0.bn1"):
            module.register_forward_hook(lambda _, __, result, name=name: seen.append((name, result.clone())))
    x = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = net(x)
        before, seen[:] = list(seen), []
        found = optimize_for_inference(net)(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in seen] == [name for name, _ in before]
    for (_, ours), (_, theirs) in zip(seen, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_somebody_elses_network_keeps_its_logits() -> None:
    torch.manual_seed(0)
    net = randomise(torchvision.models.video.r3d_18(num_classes=5)).eval()
    nlnet.insert_nonlocal(net, {"layer3.1": "before"}, example_inputs=torch.zeros(1, 3, 8, 32, 32))
    x = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    fast = optimize_for_inference(net)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fast.modules())
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


class NormFirst(nn.Module):
    """A residual block whose norm comes before its convolution, under the names that it has elsewhere after it."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm3d(3), nn.Conv3d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv1(self.bn1(x).relu())


def test_a_norm_before_a_convolution_stays_there() -> None:
    net = randomise(nn.Sequential(NormFirst(), nn.Conv3d(3, 3, 1, padding="same"), nn.ReLU())).eval()
    x = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(optimize_for_inference(net)(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "model", "message"),
    [
        (torch.float16, None, "dtype=torch.float16: expected torch.float32 or torch.bfloat16"),
        (torch.bfloat16, torch.float64, "is for models of float32 on a CPU, not of float64 on cpu"),
    ],
)
def test_other_types_are_refused(dtype: torch.dtype, model: torch.dtype | None, message: str) -> None:
    net = build_model("i3d_demo", nonlocal_blocks=0, num_classes=3).to(model)
    with pytest.raises(UserError, match=message):
        optimize_for_inference(net, dtype)


def test_a_copy_on_other_precision_folds_norms_only() -> None:
    net = randomise(build_model("i3d_demo", nonlocal_blocks=1, num_classes=3)).double()
    x = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    fast = optimize_for_inference(net)
    assert not any(isinstance(module, PackedConv3d) for module in fast.modules())
    assert (fast(x) - net(x)).norm() <= 1e-12 * net(x).norm()
