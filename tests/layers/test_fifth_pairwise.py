"""A pairwise function of a user's own: one object, known to the block, its attention, `affinity` and export."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet import NonLocalBlock, build_model, ops
from nlnet.errors import UserError


def cosine(theta: Tensor, phi: Tensor) -> Tensor:
    return torch.bmm(F.normalize(theta, dim=2), F.normalize(phi, dim=2).mT).relu() / phi.shape[1]


def difference(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, :, None] - b[:, None]).square() / b.shape[1]


@pytest.fixture(autouse=True)
def registered():
    """Two functions, one of embeddings and one of scalars; gone afterwards."""
    before = dict(ops.PAIRWISE)
    ops.register_pairwise(ops.Pairwise("cosine", cosine))
    ops.register_pairwise(ops.Pairwise("difference", difference, embeds="scalars"))
    yield
    ops.PAIRWISE.clear()
    ops.PAIRWISE.update(before)


@pytest.mark.parametrize(("name", "definition"), [("cosine", cosine), ("difference", difference)])
def test_it_is_its_definition_everywhere_and_no_softmax(name, definition):
    torch.manual_seed(0)
    block, x = (
        NonLocalBlock(8, dims=2, pairwise=name, zero_init="none").double().eval(),
        torch.randn(2, 8, 4, 6).double(),
    )
    query, key, value = block.embed(x)
    weights = definition(query, key)
    assert not torch.allclose(weights.sum(2), torch.ones_like(weights.sum(2)))
    torch.testing.assert_close(ops.affinity(name, query, key), weights)
    torch.testing.assert_close(block.attention(x, [0, 5]), weights[:, [0, 5]])
    torch.testing.assert_close(block.attend(query, key, value), weights @ value)
    y = F.conv2d((weights @ value).mT.unflatten(2, (4, 6)), block.out.weight, block.out.bias)
    torch.testing.assert_close(block(x), x + block.norm(y))
    x.requires_grad_()
    assert torch.autograd.gradcheck(block, (x[:1, :, :2, :2].contiguous(),))
    assert hasattr(block, "concat_project") == (name == "difference")


def test_half_precision_sums_in_float32():
    ones = torch.ones(1, 4096, 4, dtype=torch.float16)
    summed = ops.Pairwise("sum", lambda q, k: q @ k.mT)(ones, ones, 8 * ones)
    assert summed.dtype == torch.float16
    assert torch.isinf(summed).all()  # 131,072 is more than float16 has: but the sum itself did not overflow on its way
    mean = ops.Pairwise("mean", lambda q, k: q @ k.mT / k.shape[1])(ones, ones, 8 * ones)
    assert (mean == 32).all()


def test_in_a_network_and_exported():
    net = build_model("c2d_demo", nonlocal_blocks=2, num_classes=3, pairwise="cosine").eval()
    clip = torch.randn(1, 3, 8, 32, 32)
    exported = torch.export.export(net, (clip,)).module()
    torch.testing.assert_close(exported(clip), net(clip))
    torch.testing.assert_close(copy.deepcopy(net)(clip), net(clip))


def test_names_are_known_or_refused():
    with pytest.raises(ValueError, match=r"unknown pairwise function 'cosin', expected one of gaussian, .*cosine"):
        ops.affinity("cosin", torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="unknown pairwise 'cosin'; nearest: cosine"):
        NonLocalBlock(8, pairwise="cosin")
    with pytest.raises(UserError, match="pairwise 'cosin' is unknown; nearest: cosine"):
        build_model("c2d_demo", pairwise="cosin")
    with pytest.raises(ValueError, match="has no scale"):
        ops.affinity("cosine", torch.ones(1, 2, 2), torch.ones(1, 2, 2), scale=2.0)
    with pytest.raises(ValueError, match=r"'gaussian' is the function of nlnet\.ops\.pairwise\.softmax already"):
        ops.register_pairwise(ops.Pairwise("gaussian", cosine))
    assert ops.choose_algorithm("cosine", 10, 10, 4, 4) == "materialized"
