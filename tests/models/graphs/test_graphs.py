"""The graphs over regions and their convolutions against float64 oracles, on arrangements of every awkward kind."""

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import region_oracle as oracle
from nlnet.models.graphs.boxes import back_graph, front_graph, is_box, with_whole_frames
from nlnet.models.graphs.layers import SimilarityBranch, SpaceTimeBranch
from nlnet.models.graphs.network import RegionGraph, region_features

CASES = [(kind, seed) for kind in oracle.KINDS for seed in range(30)]  # 210
WIDTH, LAYERS = 5, 3


def drawn(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (T, N, 4), with whole frames where there are none, and nodes (T, N, D), zero where there is no box."""
    rng = np.random.default_rng([seed, oracle.KINDS.index(kind)])
    frames, count = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    boxes = with_whole_frames(torch.from_numpy(oracle.draw_boxes(kind, rng, frames, count))[None])[0]
    nodes = rng.normal(size=(frames, count, WIDTH)) * is_box(boxes).numpy()[..., None]
    return boxes.numpy(), nodes


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.fixture(scope="module")
def graph() -> RegionGraph:
    torch.manual_seed(0)
    made = RegionGraph(WIDTH, LAYERS, "joint").double()
    for parameter in made.parameters():  # away from what they start with, norms' ones and zeros among it
        torch.nn.init.normal_(parameter, std=0.6)
    return made


def similarity_branch(branch: SimilarityBranch, x: np.ndarray, graph: np.ndarray) -> np.ndarray:
    x = x.reshape(-1, WIDTH)
    for k, weight in enumerate(branch.weights):
        if k:
            x = oracle.normed(x, numbers(branch.norms[k - 1].weight), numbers(branch.norms[k - 1].bias))
        x = graph @ x @ numbers(weight.weight).T + x
    return x


def spacetime_branch(branch: SpaceTimeBranch, x: np.ndarray, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    for k in range(LAYERS):
        if k:
            x = oracle.normed(x, numbers(branch.norms[k - 1].weight), numbers(branch.norms[k - 1].bias))
        out = x.copy()
        for t in range(len(x) - 1):
            out[t] += front[t] @ x[t + 1] @ numbers(branch.front[k].weight).T
            out[t + 1] += back[t] @ x[t] @ numbers(branch.back[k].weight).T
        x = out
    return x


@pytest.mark.parametrize("kind", oracle.KINDS)
def test_graphs_and_convolutions_are_those_of_the_oracle(kind: str, graph: RegionGraph) -> None:
    for boxes, nodes in (drawn(*case) for case in CASES if case[0] == kind):
        given, x = torch.from_numpy(boxes)[None], torch.from_numpy(nodes)[None]
        front, back = oracle.neighbors(boxes, 1), oracle.neighbors(boxes, -1)
        np.testing.assert_allclose(numbers(front_graph(given))[0], front, atol=1e-12)
        np.testing.assert_allclose(numbers(back_graph(given))[0], back, atol=1e-12)
        for made in (front, back, numbers(front_graph(given))[0]):
            sums = made.sum(-1)
            assert ((np.abs(sums - 1) < 1e-12) | (sums == 0)).all()
        assert graph.similarity is not None
        assert graph.spacetime is not None
        theta, phi = (numbers(layer.weight) for layer in (graph.similarity.links.theta, graph.similarity.links.phi))
        alike = oracle.similarity(nodes.reshape(-1, WIDTH), is_box(given).numpy().ravel(), theta, phi)
        links = graph.attention(x, given)
        assert links.similarity is not None
        np.testing.assert_allclose(numbers(links.similarity)[0], alike, atol=1e-12)
        expected = similarity_branch(graph.similarity, nodes, alike).reshape(nodes.shape)
        expected = expected + spacetime_branch(graph.spacetime, nodes, front, back)
        there = is_box(given)[0].numpy()
        np.testing.assert_allclose(numbers(graph(x, given))[0][there], expected[there], rtol=1e-9, atol=1e-9)


def test_every_kind_of_arrangement_shows_what_it_is_drawn_for() -> None:
    """Rows of zeros and of ones, whole frames, and boxes that are none occur in the cases above."""
    rows = np.concatenate([oracle.neighbors(drawn(*case)[0], 1).sum(-1).ravel() for case in CASES])
    assert (rows == 0).any()
    assert (rows > 0.99).any()
    assert len(CASES) >= 200
    counts = [is_box(torch.from_numpy(drawn(*case)[0])).sum(-1) for case in CASES]
    assert all((count >= 1).all() for count in counts)
    assert any((count == 1).any() for count in counts)


def test_touching_boxes_do_not_overlap_and_identical_ones_do_wholly() -> None:
    boxes = torch.tensor([[[[0.0, 0, 0.5, 1], [0.5, 0, 1, 1]], [[0.0, 0, 0.5, 1], [0.5, 0, 1, 1]]]])
    torch.testing.assert_close(front_graph(boxes)[0, 0], torch.eye(2))
    same = torch.tensor([0.2, 0.2, 0.4, 0.4]).expand(1, 2, 3, 4)
    torch.testing.assert_close(front_graph(same)[0, 0], torch.full((3, 3), 1 / 3))


def test_the_order_of_a_frames_boxes_only_orders_the_output(graph: RegionGraph) -> None:
    """The graph's output is permuted with the boxes of one frame, and the others' stays."""
    for kind, seed in CASES[::7]:
        boxes, nodes = drawn(kind, seed)
        given, x = torch.from_numpy(boxes)[None], torch.from_numpy(nodes)[None]
        frame = seed % boxes.shape[0]
        order = torch.from_numpy(np.random.default_rng(seed).permutation(boxes.shape[1]))
        other, moved = given.clone(), x.clone()
        other[:, frame], moved[:, frame] = given[:, frame, order], x[:, frame, order]
        expected = graph(x, given)
        expected[:, frame] = expected[:, frame, order]
        torch.testing.assert_close(graph(moved, other), expected, rtol=1e-10, atol=1e-10)


def test_a_region_is_read_from_its_own_frame_and_place() -> None:
    """A map that is 1 at one place of one frame: the node of the box there has it, no other."""
    features = torch.zeros(1, 2, 3, 8, 8)
    features[0, 1, 2, 5, 6] = 1.0
    boxes = torch.zeros(1, 3, 2, 4)
    boxes[:, :, 0] = torch.tensor([0.7, 0.55, 0.95, 0.8])
    boxes[:, :, 1] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    nodes = region_features(features, boxes)
    assert nodes[0, 2, 0, 1] > 0.8
    nodes[0, 2, 0, 1] = 0
    assert not nodes.any()
