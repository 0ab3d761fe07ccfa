"""Blocks in hosts that know nothing of them: the host's output, names, modes and randomness stay; the block is real."""

import copy
import io
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nlnet import NonLocalBlock, insert_nonlocal
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def models() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchvision.models")


class Host(nn.Module):
    """In-place ReLUs, a container, a module called twice, one never called, and outputs that are not one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.lstm = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)
        self.unused = nn.Conv2d(4, 4, 1)
        self.branches = nn.ModuleList([nn.Conv2d(4, 4, 1)])
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        random.random()
        y = self.stem(x)
        y = self.relu(self.conv(y) + y)
        y = self.drop(self.relu(self.branches[0](y)) + torch.rand(1))
        pooled, _ = self.lstm(y.mean((2, 3)))
        return self.head(pooled)


def blocks_of(model: nn.Module) -> dict[str, NonLocalBlock]:
    return {name: m for name, m in model.named_modules() if isinstance(m, NonLocalBlock)}


def wake(model: nn.Module) -> nn.Module:
    for block in blocks_of(model).values():
        nn.init.ones_(block.norm.weight)
    return model


def seeded(model: nn.Module, *args: Any) -> Any:
    torch.manual_seed(3)
    return model(*args)


def assert_an_unchanged_network(
    model: nn.Module, positions: dict[str, str], x: Any, check: Callable[..., bool]
) -> None:
    """After insertion: a block at each position, the host's keys and state, and its output in train and eval mode."""
    plain = copy.deepcopy(model)
    assert insert_nonlocal(model, positions, example_inputs=x) is model
    assert len(blocks_of(model)) == len(positions)
    extra = {key for key in model.state_dict() if any(key.startswith(f"{name}.") for name in blocks_of(model))}
    assert [key for key in model.state_dict() if key not in extra] == list(plain.state_dict())
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert (set(missing) - extra, unexpected) == (set(), [])
    new = {key: value for key, value in model.state_dict().items() if key in extra}
    model.load_state_dict(plain.state_dict() | new, strict=True)
    for training in (True, False):
        assert check(model.train(training), plain.train(training))
    wake(model)
    assert not check(model, plain)


def test_resnet50(models: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    positions = {"layer3.5": "before", "layer2": "after", "layer1.0.bn3": "after", "maxpool": "before"}
    model = models.resnet50(weights=None)
    assert_an_unchanged_network(model, positions, x, lambda a, b: torch.equal(seeded(a, x), seeded(b, x)))
    assert {name: (block.dims, block.channels) for name, block in blocks_of(model).items()} == {
        "maxpool.nonlocal_before": (2, 64),
        "layer1.0.bn3.nonlocal_after": (2, 256),
        "layer2.3.nonlocal_after": (2, 512),
        "layer3.5.nonlocal_before": (2, 1024),
    }


def test_r3d_18(models: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 32, 32)
    model = models.video.r3d_18(weights=None)
    positions = {"layer2.1": "before", "stem": "after", "layer3": "before"}
    assert_an_unchanged_network(model, positions, x, lambda a, b: torch.equal(seeded(a, x), seeded(b, x)))
    assert {block.dims for block in blocks_of(model).values()} == {3}


def test_mask_rcnn(models: Any) -> None:
    """Training with targets and detection; the mask head's input may hold no detections at all."""
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 3, "min_size": 64, "max_size": 64}
    options |= {"rpn_post_nms_top_n_test": 50, "rpn_post_nms_top_n_train": 50, "box_detections_per_img": 5}
    model = models.detection.maskrcnn_resnet50_fpn(**options)
    image = torch.rand(3, 64, 64)
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 8:40, 8:40] = 1
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1]), "masks": mask}

    def same(a: nn.Module, b: nn.Module) -> bool:
        arguments = ([image], [target]) if a.training else ([image],)
        mine, theirs = (seeded(m, *arguments) for m in (a, b))
        if a.training:
            return mine == theirs
        features = [m.backbone(image[None])["0"] for m in (a, b)]
        return torch.equal(*features) and all(torch.equal(mine[0][key], theirs[0][key]) for key in mine[0])

    positions = {"backbone.body.layer3.5": "before", "roi_heads.mask_head.3": "after"}
    assert_an_unchanged_network(model, positions, [image], same)


def test_a_trained_block_changes_the_network_and_learns() -> None:
    model = Host().eval()
    x = torch.randn(2, 3, 6, 6)
    before = seeded(model, x)
    insert_nonlocal(model, {"conv": "before", "stem": "after"}, example_inputs=x)
    wake(model)
    after = seeded(model, x)
    assert not torch.equal(after, before)
    after.sum().backward()
    assert all(p.grad is not None for block in blocks_of(model).values() for p in block.parameters())


def test_before_is_the_input_and_after_the_output() -> None:
    x = torch.randn(1, 3, 6, 6)
    for side in ("before", "after"):
        host = nn.ModuleDict({"a": nn.Conv2d(3, 4, 1)})
        plain = copy.deepcopy(host["a"])
        insert_nonlocal(host, {"a": side}, channels=3 if side == "before" else 4, dims=2)
        (block,) = blocks_of(wake(host.eval())).values()
        expected = plain(block(x)) if side == "before" else block(plain(x))
        assert torch.equal(host["a"](x), expected)


def test_a_copy_has_and_calls_its_own_block() -> None:
    x = torch.randn(1, 3, 6, 6)
    model = insert_nonlocal(Host().eval(), {"conv": "before"}, example_inputs=x)
    expected = seeded(model, x)
    twin = copy.deepcopy(model)
    wake(twin)
    assert torch.equal(seeded(model, x), expected)
    assert not torch.equal(seeded(twin, x), expected)
    pickled = pickle.loads(pickle.dumps(twin))
    assert torch.equal(seeded(pickled, x), seeded(twin, x))
    stored = io.BytesIO()
    torch.save(twin.state_dict(), stored)
    stored.seek(0)
    model.load_state_dict(torch.load(stored, weights_only=True), strict=True)
    assert torch.equal(seeded(model, x), seeded(twin, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_features_and_graphs_see_the_block(models: Any) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    model = models.resnet18(weights=None).eval()
    insert_nonlocal(model, {"layer3.1": "before", "layer2": "after"}, example_inputs=x)
    wake(model)
    layer2 = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x))))))
    expected = {"layer2": layer2, "layer3": model.layer3(layer2), "fc": model(x)}
    features = create_feature_extractor(model, ["layer2", "layer3", "fc"])
    assert len(blocks_of(features)) == 2
    torch.testing.assert_close(features(x), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_compiles_as_one_graph(models: Any, backend: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    x = torch.randn(1, 3, 64, 64)
    model = models.resnet18(weights=None).eval()
    insert_nonlocal(model, {"layer3.1": "before", "layer2": "after"}, example_inputs=x)
    wake(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_the_probe_leaves_no_trace() -> None:
    model = Host().train()
    model.stem[1].eval()
    x = torch.randn(2, 3, 6, 6)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    torch.manual_seed(0)
    random.seed(0)
    with pytest.raises(UserError, match="the output of 'lstm' is a tuple of 2"):
        insert_nonlocal(model, {"lstm": "after"}, example_inputs=x)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert random.random() == random.Random(0).random()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert blocks_of(model) == {}
    assert all(p.grad is None for p in model.parameters())


def test_the_block_takes_type_mode_and_options_of_its_place() -> None:
    model = Host().double().train()
    model.conv.eval()
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    positions = {"conv": "before", "stem.0": "after"}
    insert_nonlocal(model, positions, example_inputs=(x,), pairwise="dot_product", norm="none")
    found = {name: (b.g.weight.dtype, b.training, b.pairwise) for name, b in blocks_of(model).items()}
    assert found == {
        "stem.0.nonlocal_after": (torch.float64, True, "dot_product"),
        "conv.nonlocal_before": (torch.float64, False, "dot_product"),
    }
    unseen = insert_nonlocal(Host().double(), {"conv": "before"}, channels=4, dims=2)
    assert {b.g.weight.dtype for b in blocks_of(unseen).values()} == {torch.float64}


def test_options_that_change_the_output_must_be_asked_for() -> None:
    x = torch.randn(1, 3, 6, 6)
    model = Host()
    with pytest.raises(UserError, match="would change the network's output from the start"):
        insert_nonlocal(model, {"conv": "before"}, example_inputs=x, zero_init="none")
    assert blocks_of(model) == {}
    insert_nonlocal(model, {"conv": "before"}, example_inputs=x, zero_init="none", identity=False)
    assert len(blocks_of(model)) == 1


def mistakes() -> Iterator[Any]:
    yield {}, "positions is empty"
    yield {"convv": "before"}, "no submodule 'convv'; nearest: conv"
    yield {"": "before"}, "no submodule ''"
    yield {"conv": "inside"}, "say 'before' or 'after'"
    yield {"lstm": "before"}, r"the input of 'lstm' is a tensor of shape \(2, 4\)"
    yield {"lstm": "after"}, "the output of 'lstm' is a tuple of 2; a non-local block takes one tensor"
    yield {"unused": "after"}, "the output of 'unused' was never computed"
    yield {"branches": "after"}, "'branches' is a ModuleList with 1 children"
    yield {"stem": "after", "stem.2": "after"}, "a non-local block after 'stem.2' already"


@pytest.mark.parametrize(("positions", "message"), list(mistakes()), ids=str)
def test_mistakes_are_named_and_leave_the_model_alone(positions: dict[str, Any], message: str) -> None:
    model = Host()
    with pytest.raises(UserError, match=message):
        insert_nonlocal(model, positions, example_inputs=torch.randn(2, 3, 6, 6))
    assert blocks_of(model) == {}


def test_mistakes_with_sizes() -> None:
    with pytest.raises(UserError, match="give example_inputs, or channels and dims"):
        insert_nonlocal(Host(), {"conv": "before"}, channels=4)
    with pytest.raises(UserError, match="4 channels, where 8 was given or seen"):
        insert_nonlocal(Host(), {"conv": "before"}, example_inputs=torch.randn(2, 3, 6, 6), channels=8)
    model = insert_nonlocal(Host(), {"conv": "before"}, channels=4, dims=2)
    with pytest.raises(UserError, match="a non-local block before 'conv' already"):
        insert_nonlocal(model, {"conv": "before"}, channels=4, dims=2)
    with pytest.raises(ValueError, match="unknown pairwise 'gauss'"):
        insert_nonlocal(Host(), {"conv": "before"}, channels=4, dims=2, pairwise="gauss")


def test_a_module_called_twice_calls_its_block_twice() -> None:
    x = torch.randn(1, 3, 6, 6)
    model = insert_nonlocal(Host().eval(), {"relu": "after"}, example_inputs=x)
    (block,) = blocks_of(model).values()
    calls: list[int] = []
    block.register_forward_hook(lambda *_: calls.append(1))
    model(x)
    assert len(calls) == 2
