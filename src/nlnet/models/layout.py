"""Which axis of a tensor inside a network holds the channels: by the modules there, or by calling it with other sizes.

Networks of images keep (B, C, H, W); transformers keep tokens (B, N, C) or maps (B, H, W, C), some of them in a part of
the network only. A shape alone does not tell. What does: a convolution has its channels at axis 1 and a linear layer at
the last one; and when the input grows, the positions do and the channels do not.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Layout = Literal["channels_first", "channels_last"]

_CONV = nn.modules.conv._ConvNd
_BATCH_NORM = nn.modules.batchnorm._NormBase
# By how much an axis grows, from the last one: enough to be seen behind strides of 32, in multiples that windows like.
_STEPS = (64, 32, 8)
# The axes that grow, by the number of axes: those behind the channels, or those before them.
_GROWING: dict[int, list[tuple[int, ...]]] = {
    2: [(1,)],
    3: [(1, 2), (2,), (1,)],
    4: [(2, 3), (1, 2)],
    5: [(2, 3, 4), (1, 2, 3)],
}


def by_type(model: nn.Module, name: str, host: nn.Module, shape: Sequence[int]) -> Layout | None:
    """What modules say about a tensor of this shape: those in `host`, else those around it, the nearest that know.

    None where they say nothing or contradict each other.
    """
    parents = [model.get_submodule(name.rsplit(".", up)[0]) if up else model.get_submodule(name)
               for up in range(name.count(".") + 1)]  # fmt: skip
    # With equal lengths a module elsewhere would speak of either axis.
    for module in (host, *parents, model) if shape[1] != shape[-1] else (host,):
        said = {axis for part in module.modules() for axis in _axes(part, shape)}
        if said:
            return _named(said)
    return None


def of_leaf(host: nn.Module) -> Layout | None:
    """The layout of a module that has only one, whatever its sizes."""
    if isinstance(host, _CONV | _BATCH_NORM | nn.GroupNorm | nn.modules.pooling._MaxPoolNd):
        return "channels_first"
    return "channels_last" if isinstance(host, nn.Linear) or type(host) is nn.LayerNorm else None


def by_growth(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> set[Layout]:
    """From the shapes of the same tensors for two sizes of the input: of the first and the last axis one has moved.

    Empty where both or none have.
    """
    pairs = [(old, new) for old, new in zip(before, after, strict=False) if len(old) == len(new)]
    moved = {axis for old, new in pairs for axis in (1, -1) if old[axis] != new[axis]}
    layout = _named({1, -1} - moved)
    return set() if layout is None else {layout}


def grown(example_inputs: Any) -> Iterator[Any]:
    """The example inputs in other sizes, which the network may or may not take."""
    for choice in range(max((len(_GROWING.get(ndim, [])) for ndim in _ndims(example_inputs)), default=0)):
        yield _map(example_inputs, choice)


def _named(axes: set[int]) -> Layout | None:
    if axes == {1}:
        return "channels_first"
    return "channels_last" if axes == {-1} else None


def _axes(module: nn.Module, shape: Sequence[int]) -> Iterator[int]:
    """The axes of the tensor that have the length of this module's channels, of those it looks at."""
    if isinstance(module, _CONV):
        yield from (1,) if shape[1] in (module.in_channels, module.out_channels) else ()
    elif isinstance(module, _BATCH_NORM | nn.GroupNorm):
        channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        yield from (1,) if shape[1] == channels else ()
    elif isinstance(module, nn.Linear):
        yield from (-1,) if shape[-1] in (module.in_features, module.out_features) else ()
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        # Subclasses of it normalize axis 1 in some networks.
        looked_at = (-1,) if type(module) in (nn.LayerNorm, nn.RMSNorm) else (1, -1)
        yield from (axis for axis in looked_at if shape[axis] == module.normalized_shape[0])


def _map(inputs: Any, choice: int) -> Any:
    if isinstance(inputs, Tensor):
        return _grow(inputs, choice)
    if isinstance(inputs, tuple | list):
        return type(inputs)(_map(value, choice) for value in inputs)
    if isinstance(inputs, dict):
        return {key: _map(value, choice) for key, value in inputs.items()}
    return inputs


def _grow(tensor: Tensor, choice: int) -> Tensor:
    """The tensor, repeated from its start along the axes of this choice: token numbers stay valid ones."""
    choices = _GROWING.get(tensor.ndim, [])
    for axis, step in zip(reversed(choices[choice]) if choice < len(choices) else (), _STEPS, strict=False):
        index = torch.arange(tensor.shape[axis] + step, device=tensor.device) % tensor.shape[axis]
        tensor = tensor.index_select(axis, index)
    return tensor


def _ndims(inputs: Any) -> Iterator[int]:
    if isinstance(inputs, Tensor):
        yield inputs.ndim
    elif isinstance(inputs, tuple | list | dict):
        for value in inputs.values() if isinstance(inputs, dict) else inputs:
            yield from _ndims(value)
