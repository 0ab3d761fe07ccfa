"""One trial call of a network, to see the tensors at some of its modules, that leaves no trace."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Seen:
    """One value at a module: what it is in words, and, of a tensor, its shape, dtype and device."""

    words: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    @property
    def is_map(self) -> bool:
        """Whether it is a tensor (B, C, [T, [H,]] W) of real numbers."""
        return 3 <= len(self.shape) <= 5 and self.dtype is not None and self.dtype.is_floating_point


def probe(
    model: nn.Module, example_inputs: Any, modules: Mapping[str, nn.Module], inputs: Mapping[str, bool]
) -> dict[str, list[Seen]]:
    """What each of `modules` gets as its first positional argument where `inputs` says so, and returns elsewhere.

    `model` is called once, with `example_inputs` (a tuple is unpacked), in eval mode and without gradients; train and
    eval modes, buffers and the random states of Python and torch are restored. A module called several times has
    several entries, one never called none.
    """
    seen: dict[str, list[Seen]] = {name: [] for name in modules}

    def watch(name: str) -> Callable[..., None]:
        if inputs[name]:
            return lambda module, args: seen[name].append(_seen(args[0]) if args else Seen("not there"))
        return lambda module, args, output: seen[name].append(_seen(output))

    handles = [
        module.register_forward_pre_hook(watch(name)) if inputs[name] else module.register_forward_hook(watch(name))
        for name, module in modules.items()
    ]
    try:
        with untouched(model), torch.no_grad():
            model(*example_inputs) if isinstance(example_inputs, tuple) else model(example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes, buffers and random states are as they were."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    gpus = {p.device for p in model.parameters() if p.device.type == "cuda"}
    state = random.getstate()
    try:
        # attributes, not `model.eval()`: hosts override it, to keep parts frozen
        for module in modules:
            module.training = False
        with torch.random.fork_rng([gpu.index for gpu in gpus]):
            yield
    finally:
        random.setstate(state)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                setattr(module, name, buffer.copy_(saved))


def _seen(value: object) -> Seen:
    if isinstance(value, Tensor):
        words = f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
        return Seen(words, tuple(value.shape), value.dtype, value.device)
    if isinstance(value, tuple | list | dict):
        return Seen(f"a {type(value).__name__} of {len(value)}")
    return Seen(f"a {type(value).__name__}")
