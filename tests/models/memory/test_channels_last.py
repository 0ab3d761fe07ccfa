"""Kernels in another order in memory: the same values under the same names."""

import torch

from nlnet import build_model
from nlnet.models.memory.channels_last import to_channels_last


def test_kernels_are_laid_out_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    net = build_model("i3d_demo", nonlocal_blocks=1, num_classes=3).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    before, expected = {name: value.clone() for name, value in net.state_dict().items()}, net(x)
    to_channels_last(net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    kernels = [value for value in after.values() if value.ndim == 5]
    assert len(kernels) > 5
    assert all(kernel.is_contiguous(memory_format=torch.channels_last_3d) for kernel in kernels)
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)
    net.load_state_dict(before)  # a checkpoint in either layout fits
    assert net.stem.conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
