"""Values that are taken away, against the equations with these terms left out."""

import numpy as np
import pytest
import torch
from torch import nn

from nlnet import NonLocalBlock
from nlnet.attention.capture import look
from nlnet.attention.deletion import delete, keys_of, mean_attention

REGIONS = [{}, {"axes": "space"}, {"axes": "time"}, {"temporal_group": 2}]


class Two(nn.Module):
    """A block between a convolution and a mean; `(3, T, H, W)` -> 4 logits."""

    def __init__(self, pairwise: str, **options) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv3d(3, 6, 1), nn.Linear(6, 4)
        self.block = NonLocalBlock(6, 3, pairwise, norm="none", zero_init="none", init="msra", **options)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.stem(clip)).mean((2, 3, 4)))


@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("options", REGIONS)
@pytest.mark.parametrize("subsample", [False, True])
def test_the_terms_of_the_most_attended_keys_are_gone(pairwise, options, subsample):
    torch.manual_seed(0)
    net = Two(pairwise, subsample=subsample, **options).double()
    clip = torch.randn(1, 3, 4, 4, 6, dtype=torch.float64)
    blocks = {"block": net.block}
    _, inputs_of = look(net, clip, blocks)
    x, positions = inputs_of["block"], np.array([3, 40, 77])
    found = delete(net, clip, blocks, inputs_of, {"block": positions}, share=0.2, draws=3)

    block, count = net.block, int(found.removed["block"] / 0.2 + 0.5)
    mean = mean_attention(block, x, positions)
    gone = np.argsort(-mean, kind="stable")[: found.removed["block"]]
    assert len(mean) == pytest.approx(count, abs=2)
    with torch.no_grad():
        pooled = nn.MaxPool3d((1, 2, 2))(x) if block.subsample else x
        g = block.g(pooled)[0].flatten(1).T
        g[gone] = 0
        y = torch.stack([block.attention(x, [i])[0, 0] @ g[torch.from_numpy(keys_of(block, x, i))] for i in range(96)])
        z = x + block.out(y.T.reshape(1, 3, 4, 4, 6))
        expected = net.head(z.mean((2, 3, 4)))[0].numpy()
        whole = net(clip)[0].numpy()
    assert found.without_top == pytest.approx(expected, rel=1e-5)
    assert found.whole == pytest.approx(whole, rel=1e-6)
    assert not np.allclose(found.without_top, found.whole, rtol=1e-4)
    assert found.without_random.shape == (3, 4)
    assert len(np.unique(found.without_random[:, 0])) == 3  # drawn anew each time
    with torch.no_grad():
        assert torch.equal(net(clip)[0], torch.from_numpy(whole))  # and nothing of it stays


def test_what_is_pooled_after_g_is_taken_away_before_the_pool():
    torch.manual_seed(0)
    net = Two("embedded_gaussian", subsample_order="after").double().eval()
    clip = torch.randn(1, 3, 2, 5, 6, dtype=torch.float64)
    blocks = {"block": net.block}
    _, inputs_of = look(net, clip, blocks)
    x = inputs_of["block"]
    found = delete(net, clip, blocks, inputs_of, {"block": np.arange(60)}, share=0.25)
    gone = np.argsort(-mean_attention(net.block, x, np.arange(60)), kind="stable")[:3]
    with torch.no_grad():
        g = nn.MaxPool3d((1, 2, 2))(net.block.g(x))[0].flatten(1).T
        g[gone] = 0
        y = net.block.attention(x, range(60))[0] @ g
        expected = net.head((x + net.block.out(y.T.reshape(1, 3, 2, 5, 6))).mean((2, 3, 4)))[0].numpy()
    assert found.removed == {"block": 3}
    assert found.without_top == pytest.approx(expected, rel=1e-5)
