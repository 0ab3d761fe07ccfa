"""Non-local blocks inside a network that exists already."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock
from nlnet.models.layout import Layout, by_growth, by_type, grown, of_leaf
from nlnet.models.probe import Seen, maps_inside, probe

Model = TypeVar("Model", bound=nn.Module)
Side = Literal["before", "after"]


def insert_nonlocal(
    model: Model,
    positions: Mapping[str, Side],
    *,
    example_inputs: Any = None,
    layout: Literal["auto", "channels_first", "channels_last"] = "auto",
    identity: bool = True,
    **block_options: Any,
) -> Model:
    """Put a `NonLocalBlock` before or after submodules of any network, in place; returns `model`.

    The block becomes the submodule `nonlocal_before` or `nonlocal_after` of its host, the module there, and is called
    by a hook of that module, so all other names, state-dict keys and code stay. Until it is trained the network's
    output is the same bit for bit. A `deepcopy`, such as an EMA, has and calls its own block; tracing, compiling and
    pickling see it like any other part. A module that is called several times calls its block each time.
    `remove_nonlocal` takes the blocks out again.

    An `nn.Sequential` would run a new child as a layer: its block goes before its first child, or after its last.

    Args:
        model: the host. Blocks take the device, the dtype and the train or eval mode of the module there.
        positions: {"layer3.5": "before", ...}: the dotted name of a submodule, as in `named_modules`, and the side.
            "before" is the module's first positional argument, "after" its output.
        example_inputs: what `model` can be called with, a tuple being unpacked. It is called in eval mode and without
            gradients, to see the channels and dimensions at each position, and again with larger inputs where only
            that tells which axis the channels are; buffers, modes and random states are restored. Without it, give
            `channels` and `dims`.
        layout: "channels_first", (B, C, [T, [H,]] W); "channels_last", (B, [T, [H,]] W, C), as in transformers, with
            tokens (B, N, C) for a sequence; "auto": by the modules at the position, or by what moves with the size of
            the input. Pooling joins neighbors in that order, so for tokens `subsample=False` may be wiser.
        identity: refuse options with which a new block changes the output (`zero_init="none"`).
        block_options: options of `NonLocalBlock`, for all positions.

    Raises UserError for an unknown name or side, a position that has a block, is never called, or does not carry one
    tensor, a tensor of whose axes two may be the channels, and for options that change the output; ValueError for
    those that `NonLocalBlock` refuses. The model is then as it was.
    """
    if not isinstance(positions, Mapping):
        raise UserError(
            f'insert_nonlocal: positions {positions!r:.200}: say where and on which side, {{"layer3.5": "after"}}.'
        )
    if not positions:
        raise UserError('insert_nonlocal: positions is empty; name a submodule, such as {"layer3.5": "before"}.')
    if layout not in ("auto", "channels_first", "channels_last"):
        raise UserError(f"insert_nonlocal: layout {layout!r}: say 'auto', 'channels_first' or 'channels_last'.")
    hosts = {name: _host(model, name, side) for name, side in positions.items()}
    _check_free(hosts, positions)
    if example_inputs is None:
        known: Mapping[str, Layout] = {n: _unseen_layout(host, layout) for n, host in hosts.items()}
        blocks = {name: _unseen_block(name, host, model, block_options) for name, host in hosts.items()}
    else:
        before = {name: side == "before" for name, side in positions.items()}
        seen = probe(model, example_inputs, hosts, before)
        _check_seen(model, example_inputs, seen, positions)
        known = _layouts(model, example_inputs, hosts, before, seen, layout)
        blocks = {n: _seen_block(n, positions[n], values, known[n], block_options) for n, values in seen.items()}
    if identity and any(block.zero_init == "none" for block in blocks.values()):
        raise UserError(
            "insert_nonlocal: with zero_init='none' the blocks would change the network's output from the start; "
            "leave zero_init out, or say identity=False."
        )
    for name, block in blocks.items():
        _attach(hosts[name], block, positions[name], known[name])
    return model


def remove_nonlocal(model: Model) -> Model:
    """Take out, in place, all blocks that `insert_nonlocal` has put into `model`; returns it as it was before them.

    Raises UserError where there is none.
    """
    found = False
    for host in model.modules():
        for side, hooks in (("before", host._forward_pre_hooks), ("after", host._forward_hooks)):
            for key in [key for key, hook in hooks.items() if hook in _HOOKS.values()]:
                del hooks[key]
                host._modules.pop(f"nonlocal_{side}")
                found = True
    if not found:
        raise UserError("remove_nonlocal: the network has no block that insert_nonlocal has put there.")
    return model


def _host(model: nn.Module, name: str, side: str) -> nn.Module:
    """The module that the block becomes a part of."""
    modules = dict(model.named_modules(remove_duplicate=False))
    del modules[""]
    if name not in modules:
        raise UserError(f"insert_nonlocal: the network has no submodule {name!r}; {nearest(name, modules)}.")
    if side not in ("before", "after"):
        raise UserError(f"insert_nonlocal: {name!r}: {side!r}: say 'before' or 'after'.")
    host = modules[name]
    while isinstance(host, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        children = list(host.children())
        if type(host).forward is not nn.Sequential.forward or not children:
            such = f", such as {name}.{list(host._modules)[-1]}" if children else ""
            raise UserError(
                f"insert_nonlocal: {name!r} is a {type(host).__name__} with {len(children)} children, and a block "
                f"would be run as one of them; name a submodule in it instead{such}."
            )
        host = children[0 if side == "before" else -1]
    return host


def _check_free(hosts: Mapping[str, nn.Module], positions: Mapping[str, str]) -> None:
    """Raises UserError where a position has a block already, or would get two."""
    taken: set[tuple[nn.Module, str]] = set()
    for name, host in hosts.items():
        slot = (host, positions[name])
        if slot in taken or hasattr(host, f"nonlocal_{positions[name]}"):
            raise UserError(f"insert_nonlocal: there is a non-local block {positions[name]} {name!r} already.")
        taken.add(slot)


def _check_seen(
    model: nn.Module, example_inputs: Any, seen: Mapping[str, list[Seen]], positions: Mapping[str, str]
) -> None:
    """Raises UserError, with places that would do, where a position does not carry one tensor."""
    for name, values in seen.items():
        where = _where(name, positions[name])
        if not values:
            raise UserError(f"{where} was never computed: the network does not call it on the example inputs.")
        for value in values:
            if not value.is_map:
                inside = maps_inside(model, example_inputs, name)
                places = f" One is found after {', '.join(map(repr, inside))}." if inside else ""
                raise UserError(
                    f"{where} is {value.description}; a non-local block takes one tensor (B, C, [T, [H,]] W) or, "
                    f"channels last, (B, [T, [H,]] W, C).{places}"
                )


def _layouts(
    model: nn.Module,
    example_inputs: Any,
    hosts: Mapping[str, nn.Module],
    before: Mapping[str, bool],
    seen: Mapping[str, list[Seen]],
    layout: str,
) -> dict[str, Layout]:
    """The layout at each position; raises UserError where it could be either."""
    found: dict[str, Layout | None] = {n: layout if layout != "auto" else of_leaf(h) for n, h in hosts.items()}  # type: ignore[misc]
    said: dict[str, set[Layout]] = {name: set() for name, known in found.items() if known is None}
    for inputs in grown(example_inputs) if said else ():
        larger = probe(model, inputs, hosts, before, may_fail=True)
        for name, layouts in said.items():
            layouts |= by_growth([v.shape for v in seen[name]], [v.shape for v in larger[name] if v.is_map])
    for name, layouts in said.items():
        # Two inputs that grow along different axes may both get through, to a place before any layer with channels.
        found[name] = layouts.pop() if len(layouts) == 1 else None
    for name, known in found.items():
        found[name] = known or by_type(model, name, hosts[name], seen[name][0].shape)
        if found[name] is None:
            raise UserError(
                f"{_where(name, 'before' if before[name] else 'after')} is {seen[name][0].description}, and the first "
                "or the last axis behind the batch may be the channels: the network takes no input of another size "
                "that would tell. Say layout='channels_first' or layout='channels_last'."
            )
    return {name: known for name, known in found.items() if known is not None}


def _unseen_layout(host: nn.Module, layout: str) -> Layout:
    if layout == "auto":
        return of_leaf(host) or "channels_first"
    return layout  # type: ignore[return-value]


def _unseen_block(name: str, host: nn.Module, model: nn.Module, options: Mapping[str, Any]) -> NonLocalBlock:
    if not {"channels", "dims"} <= options.keys():
        raise UserError(f"insert_nonlocal: {name!r}: give example_inputs, or channels and dims, to size the block.")
    block = NonLocalBlock(**options)
    weights = [p for p in (*host.parameters(), *model.parameters()) if p.is_floating_point()]
    return block.to(weights[0]) if weights else block


def _seen_block(name: str, side: str, seen: list[Seen], layout: Layout, options: Mapping[str, Any]) -> NonLocalBlock:
    found: dict[str, int] = {}
    for value in seen:
        channels = value.shape[1 if layout == "channels_first" else -1]
        size = {"channels": channels, "dims": len(value.shape) - 2}
        for what, number in size.items():
            expected = {**options, **found}.get(what, number)
            if number != expected:
                raise UserError(
                    f"{_where(name, side)} is {value.description}: {number} {what}, where {expected} was given or seen."
                )
        found = size
    return NonLocalBlock(**{**options, **found}).to(seen[0].device, seen[0].dtype)


def _where(name: str, side: str) -> str:
    return f"insert_nonlocal: the {'input' if side == 'before' else 'output'} of {name!r}"


def _attach(host: nn.Module, block: NonLocalBlock, side: str, layout: Layout) -> None:
    host.add_module(f"nonlocal_{side}", block.train(host.training))
    register = host.register_forward_pre_hook if side == "before" else host.register_forward_hook
    register(_HOOKS[side, layout])  # type: ignore[operator]


# The hooks find the block on the module they are called with, so they serve copies, and pickle by their names.
def _call_before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (module.get_submodule("nonlocal_before")(_first(module, args)), *args[1:])


def _call_before_last(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x = _first(module, args).movedim(-1, 1)
    return (module.get_submodule("nonlocal_before")(x).movedim(1, -1), *args[1:])


def _call_after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return module.get_submodule("nonlocal_after")(output)


def _call_after_last(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return module.get_submodule("nonlocal_after")(output.movedim(-1, 1)).movedim(1, -1)


def _first(module: nn.Module, args: tuple[Any, ...]) -> Any:
    if not args:
        raise UserError(
            f"insert_nonlocal: this {type(module).__name__} is called with keywords alone, and a block before it sees "
            "positional arguments only; put the block after the module that comes before."
        )
    return args[0]


_HOOKS: dict[tuple[str, Layout], Callable[..., Any]] = {
    ("before", "channels_first"): _call_before,
    ("before", "channels_last"): _call_before_last,
    ("after", "channels_first"): _call_after,
    ("after", "channels_last"): _call_after_last,
}
