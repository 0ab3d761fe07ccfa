"""Hosts that keep their channels last, hosts that do not say, and taking blocks out again."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nlnet import NonLocalBlock, insert_nonlocal, remove_nonlocal
from nlnet.errors import UserError


class Windows(nn.Module):
    """A patch embedding, then parts that keep (B, H, W, C), (B, N, C) and again (B, C, H, W)."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.maps = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.tokens = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.mix = nn.Sequential(nn.Identity(), nn.GELU())
        self.conv = nn.Conv2d(8, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert self.size in (None, x.shape[-1]), "another size"
        y = self.maps(self.patches(x).permute(0, 2, 3, 1))
        b, h, w, c = y.shape
        y = self.mix(self.tokens(y.reshape(b, h * w, c)))
        y = self.act(self.conv(y.reshape(b, h, w, c).permute(0, 3, 1, 2)))
        return self.head(y.mean((2, 3)))


def blocks_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (m.channels, m.dims) for name, m in model.named_modules() if isinstance(m, NonLocalBlock)}


PLACES = {
    "patches": ("after", 8, 2, False),
    "maps": ("before", 8, 2, True),
    "maps.1": ("after", 8, 2, True),
    "maps.2": ("after", 8, 2, True),
    "tokens": ("before", 8, 1, True),
    "mix": ("after", 8, 1, True),
    "conv": ("before", 8, 2, False),
    "act": ("after", 4, 2, False),
}


@pytest.mark.parametrize("size", [None, 16], ids=["any size", "one size"])
@pytest.mark.parametrize("place", PLACES)
def test_the_channels_are_found(place: str, size: int | None) -> None:
    """8 channels and 8 x 8 positions: no shape tells, and where the host takes one size, activations do not either."""
    torch.manual_seed(0)
    side, channels, dims, last = PLACES[place]
    model, x = Windows(size).eval(), torch.randn(2, 3, 16, 16)
    if size is not None and place in ("maps.2", "act"):
        with pytest.raises(UserError, match=r"8, 8\) .* may be the channels.*layout='channels_first'"):
            insert_nonlocal(model, {place: side}, example_inputs=x)
        assert blocks_of(model) == {}
        return
    before = model(x)
    insert_nonlocal(model, {place: side}, example_inputs=x)
    assert list(blocks_of(model).values()) == [(channels, dims)]
    assert torch.equal(model(x), before)
    (name,) = blocks_of(model)
    host, block = model.get_submodule(name.rpartition(".")[0]), model.get_submodule(name)
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    if side == "before":
        host.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    else:
        host.register_forward_hook(lambda module, args, output: seen.append(output))
    model(x)
    assert seen[0].shape == (2, channels, *((64,) if dims == 1 else (8, 8)))
    # a new block returns what it is given, in the axes of the host
    assert torch.equal(seen[0], seen[1].movedim(-1, 1) if last else seen[1])


@pytest.mark.parametrize("place", PLACES)
def test_a_layout_that_is_given_is_used(place: str) -> None:
    side, channels, dims, last = PLACES[place]
    model, x = Windows(16).eval(), torch.randn(2, 3, 16, 16)
    layout = "channels_last" if last else "channels_first"
    insert_nonlocal(model, {place: side}, example_inputs=x, layout=layout)
    assert list(blocks_of(model).values()) == [(channels, dims)]
    unseen = insert_nonlocal(Windows(16).eval(), {place: side}, layout=layout, channels=channels, dims=dims)
    unseen.load_state_dict(model.state_dict())
    for network in (model, unseen):
        for block in network.modules():
            if isinstance(block, NonLocalBlock):
                nn.init.ones_(block.norm.weight)
    assert torch.equal(model(x), unseen(x))


def test_a_channels_last_block_is_the_block_between_two_transpositions() -> None:
    torch.manual_seed(0)
    model, x = Windows().eval(), torch.randn(2, 3, 16, 12)
    twin = copy.deepcopy(model)
    insert_nonlocal(model, {"maps": "after"}, example_inputs=x)
    block = model.get_submodule("maps.2.nonlocal_after")
    nn.init.ones_(block.norm.weight)
    twin.maps.register_forward_hook(lambda m, args, y: block(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    torch.testing.assert_close(model(x), twin(x))
    assert not torch.equal(model(x), Windows()(x))
    model(x).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))


@pytest.mark.full
def test_a_channels_last_block_compiles_whole() -> None:
    model, x = Windows().eval(), torch.randn(2, 3, 16, 12)
    insert_nonlocal(model, {"maps": "after", "tokens": "before"}, example_inputs=x)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


@pytest.mark.parametrize("inputs", [(2, 10, 32), (2, 32, 32)], ids=str)
def test_a_transformer_of_tokens(inputs: tuple[int, ...]) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(inputs)
    before = model(x)
    insert_nonlocal(model, {"layers.0": "after"}, example_inputs=x)
    assert blocks_of(model) == {"layers.0.nonlocal_after": (32, 1)}
    assert torch.equal(model(x), before)


def test_a_language_model_and_a_sequence_network() -> None:
    words = nn.Sequential(nn.Embedding(50, 12), nn.Linear(12, 12), nn.ReLU())
    insert_nonlocal(words, {"2": "after"}, example_inputs=torch.randint(50, (2, 12)))
    assert blocks_of(words) == {"2.nonlocal_after": (12, 1)}
    sound = nn.Sequential(nn.Conv1d(5, 6, 3, padding=1), nn.ReLU())
    insert_nonlocal(sound, {"1": "after"}, example_inputs=torch.randn(2, 5, 6))
    assert blocks_of(sound) == {"1.nonlocal_after": (6, 1)}
    words(torch.randint(50, (3, 9)))
    sound(torch.randn(3, 5, 20))


def test_a_video_transformer() -> None:
    class Clips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.act = nn.Conv3d(3, 6, 2, 2), nn.LayerNorm(6), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(self.embed(x).permute(0, 2, 3, 4, 1)))

    model = Clips().eval()
    insert_nonlocal(model, {"act": "after"}, example_inputs=torch.randn(1, 3, 12, 12, 12), axes="space")
    assert blocks_of(model) == {"act.nonlocal_after": (6, 3)}
    assert model(torch.randn(1, 3, 4, 8, 6)).shape == (1, 2, 4, 3, 6)


def test_a_network_that_cannot_tell_is_refused_and_left_alone() -> None:
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(2, 8, 8)
    with pytest.raises(UserError, match=r"\(2, 8, 8\).*takes no input of another size.*layout='channels_last'"):
        insert_nonlocal(model, {"0": "after"}, example_inputs=x)
    assert blocks_of(model) == {}
    with pytest.raises(UserError, match="layout 'last': say 'auto'"):
        insert_nonlocal(model, {"0": "after"}, example_inputs=x, layout="last")
    insert_nonlocal(model, {"0": "after"}, example_inputs=x, layout="channels_last")
    assert blocks_of(model) == {"0.nonlocal_after": (8, 1)}


class Odd(nn.Module):
    """A part that is called by keyword, one that takes a list, one that returns a dictionary, and a container."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.named = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.dense, self.heads = Dense(), Heads()
        self.parts = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "b": nn.ReLU()})

    def forward(self, x: Tensor) -> Tensor:
        y = self.named(input=self.first(x))
        y = self.parts["b"](self.parts["a"](self.dense([y, y])))
        return self.heads(y)["out"]


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(8, 4, 1), nn.ReLU()

    def forward(self, parts: list[Tensor]) -> Tensor:
        return self.relu(self.conv(torch.cat(parts, 1)))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict(out=self.conv(x), aux=self.pool(x).flatten(1))


def refusals() -> Iterator[Any]:
    yield {"named": "before"}, r"the input of 'named' is passed by keyword \(input=\).*put it after the module"
    yield {"dense": "before"}, r"the input of 'dense' is a list of 2;.*found after 'dense.relu', 'dense.conv'\."
    yield {"heads": "after"}, r"an OrderedDict of 2 \(out, aux\);.*found after 'heads.pool', 'heads.conv'\."
    yield (
        {"parts": "after"},
        r"'parts' is a ModuleDict with 2 children.*name a submodule in it instead, such as parts.b",
    )


@pytest.mark.parametrize(("positions", "message"), list(refusals()), ids=str)
def test_a_place_without_one_tensor_names_others(positions: dict[str, Any], message: str) -> None:
    model, x = Odd().eval(), torch.randn(2, 3, 6, 6)
    with pytest.raises(UserError, match=message):
        insert_nonlocal(model, positions, example_inputs=x)
    assert blocks_of(model) == {}
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_called_by_keyword_later() -> None:
    model = insert_nonlocal(nn.ModuleDict({"a": nn.Conv2d(3, 4, 1)}), {"a": "before"}, channels=3, dims=2)
    with pytest.raises(UserError, match=r"this Conv2d is called with keywords alone.*put the block after"):
        model["a"](input=torch.randn(1, 3, 4, 4))


HOSTS: dict[str, Callable[[], nn.Module]] = {"windows": Windows, "odd": Odd}


@pytest.mark.parametrize("host", HOSTS)
def test_removed_the_host_is_what_it_was(host: str) -> None:
    """Bit for bit: keys, tensors, modules, its own hooks, output and gradients; after training and in copies, too."""
    torch.manual_seed(0)
    model, x = HOSTS[host](), torch.randn(2, 3, 16, 16)
    own = [
        model.register_forward_hook(lambda m, args, y: y * 2),
        next(model.children()).register_forward_pre_hook(print),
    ]
    own[1].remove()
    plain = copy.deepcopy(model)
    places = {
        "windows": {"maps": "before", "tokens": "after", "act": "after"},
        "odd": {"first": "before", "dense": "after"},
    }
    insert_nonlocal(model, places[host], example_inputs=x)
    for parameter in (p for m in model.modules() if isinstance(m, NonLocalBlock) for p in m.parameters()):
        nn.init.normal_(parameter)
    assert not torch.equal(model(x), plain(x))
    for removed in (remove_nonlocal(copy.deepcopy(model)), remove_nonlocal(model)):
        assert [name for name, _ in removed.named_modules()] == [name for name, _ in plain.named_modules()]
        assert list(removed.state_dict()) == list(plain.state_dict())
        assert all(torch.equal(value, plain.state_dict()[key]) for key, value in removed.state_dict().items())
        for mine, theirs in zip(removed.modules(), plain.modules(), strict=True):
            assert len(mine._forward_hooks) == len(theirs._forward_hooks)
            assert len(mine._forward_pre_hooks) == len(theirs._forward_pre_hooks)
        plain.zero_grad()
        removed(x).square().sum().backward()
        plain(x).square().sum().backward()
        assert torch.equal(removed(x), plain(x))
        pairs = zip(removed.parameters(), plain.parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in pairs if b.grad is not None)
    with pytest.raises(UserError, match="remove_nonlocal: the network has no block"):
        remove_nonlocal(model)


def test_a_removed_block_may_be_put_back() -> None:
    x = torch.randn(2, 3, 16, 16)
    model = Windows().eval()
    for _ in range(2):
        insert_nonlocal(model, {"maps": "before"}, example_inputs=x)
        remove_nonlocal(model)
    assert blocks_of(model) == {}
