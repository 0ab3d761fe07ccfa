"""A network made ready for inference gives the logits it gave, and leaves the one it is made of alone."""

import pytest
import torch
from torch import nn

from helpers.networks import randomise
from nlnet import build_model, optimize_for_inference
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


def test_a_copy_on_other_precision_folds_norms_only() -> None:
    net = randomise(build_model("i3d_demo", nonlocal_blocks=1, num_classes=3)).double()
    x = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    fast = optimize_for_inference(net)
    assert not any(isinstance(module, PackedConv3d) for module in fast.modules())
    assert (fast(x) - net(x)).norm() <= 1e-12 * net(x).norm()
