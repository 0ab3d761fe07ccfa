"""Non-local blocks inside a network that exists already."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock
from nlnet.models.probe import Seen, probe

Model = TypeVar("Model", bound=nn.Module)


def insert_nonlocal(
    model: Model,
    positions: Mapping[str, Literal["before", "after"]],
    *,
    example_inputs: Any = None,
    identity: bool = True,
    **block_options: Any,
) -> Model:
    """Put a `NonLocalBlock` before or after submodules of any network, in place; returns `model`.

    The block becomes the submodule `nonlocal_before` or `nonlocal_after` of its host, the module there, and is called
    by a hook of that module, so all other names, state-dict keys and code stay. Until it is trained the network's
    output is the same bit for bit. A `deepcopy`, such as an EMA, has and calls its own block; tracing, compiling and
    pickling see it like any other part. A module that is called several times calls its block each time.

    An `nn.Sequential` would run a new child as a layer: its block goes before its first child, or after its last.

    Args:
        model: the host. Blocks take the device, the dtype and the train or eval mode of the module there.
        positions: {"layer3.5": "before", ...}: the dotted name of a submodule, as in `named_modules`, and the side.
            "before" is the module's first positional argument, "after" its output.
        example_inputs: what `model` can be called with, a tuple being unpacked. It is called once, in eval mode and
            without gradients, to see the channels and dimensions at each position; buffers, modes and random states are
            restored. Without it, give `channels` and `dims`.
        identity: refuse options with which a new block changes the output (`zero_init="none"`).
        block_options: options of `NonLocalBlock`, for all positions.

    Raises UserError for an unknown name or side, a position that has a block, is never called, or does not carry one
    tensor (B, C, [T, [H,]] W), and for options that change the output; ValueError for those that `NonLocalBlock`
    refuses. The model is then as it was.
    """
    if not positions:
        raise UserError('insert_nonlocal: positions is empty; name a submodule, such as {"layer3.5": "before"}.')
    hosts = {name: _host(model, name, side) for name, side in positions.items()}
    _check_free(hosts, positions)
    if example_inputs is None:
        blocks = {name: _unseen_block(name, host, model, block_options) for name, host in hosts.items()}
    else:
        seen = probe(model, example_inputs, hosts, {name: side == "before" for name, side in positions.items()})
        blocks = {name: _seen_block(name, positions[name], values, block_options) for name, values in seen.items()}
    if identity and any(block.zero_init == "none" for block in blocks.values()):
        raise UserError(
            "insert_nonlocal: with zero_init='none' the blocks would change the network's output from the start; "
            "leave zero_init out, or say identity=False."
        )
    for name, block in blocks.items():
        _attach(hosts[name], block, positions[name])
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
            raise UserError(
                f"insert_nonlocal: {name!r} is a {type(host).__name__} with {len(children)} children, and a block "
                "would be run as one of them; name a submodule in it instead."
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


def _unseen_block(name: str, host: nn.Module, model: nn.Module, options: Mapping[str, Any]) -> NonLocalBlock:
    if not {"channels", "dims"} <= options.keys():
        raise UserError(f"insert_nonlocal: {name!r}: give example_inputs, or channels and dims, to size the block.")
    block = NonLocalBlock(**options)
    weights = [p for p in (*host.parameters(), *model.parameters()) if p.is_floating_point()]
    return block.to(weights[0]) if weights else block


def _seen_block(name: str, side: str, seen: list[Seen], options: Mapping[str, Any]) -> NonLocalBlock:
    where = f"insert_nonlocal: the {'input' if side == 'before' else 'output'} of {name!r}"
    if not seen:
        raise UserError(f"{where} was never computed: the network does not call it on the example inputs.")
    found: dict[str, int] = {}
    for value in seen:
        if not value.is_map:
            raise UserError(f"{where} is {value.description}; a non-local block takes one tensor (B, C, [T, [H,]] W).")
        size = {"channels": value.shape[1], "dims": len(value.shape) - 2}
        for what, number in size.items():
            expected = {**options, **found}.get(what, number)
            if number != expected:
                raise UserError(f"{where} is {value.description}: {number} {what}, where {expected} was given or seen.")
        found = size
    return NonLocalBlock(**{**options, **found}).to(seen[0].device, seen[0].dtype)


def _attach(host: nn.Module, block: NonLocalBlock, side: str) -> None:
    host.add_module(f"nonlocal_{side}", block.train(host.training))
    if side == "before":
        host.register_forward_pre_hook(_call_before)
    else:
        host.register_forward_hook(_call_after)


# The hooks find the block on the module they are called with, so they serve copies, and pickle by their names.
def _call_before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (module.get_submodule("nonlocal_before")(args[0]), *args[1:])


def _call_after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return module.get_submodule("nonlocal_after")(output)
