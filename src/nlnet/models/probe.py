"""Trial calls of a network that leave no trace: to see the tensors at some of its modules, or to count its work."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Seen:
    """One value at a module: what it is, and, of a tensor, its shape, dtype and device."""

    description: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    @property
    def is_map(self) -> bool:
        """Whether it is a tensor (B, C, [T, [H,]] W) of real numbers."""
        return 3 <= len(self.shape) <= 5 and self.dtype is not None and self.dtype.is_floating_point


def probe(
    model: nn.Module,
    example_inputs: Any,
    modules: Mapping[str, nn.Module],
    inputs: Mapping[str, bool],
    *,
    may_fail: bool = False,
) -> dict[str, list[Seen]]:
    """What each of `modules` gets as its first positional argument where `inputs` says so, and returns elsewhere.

    `model` is called once, with `example_inputs` (a tuple is unpacked), in eval mode and without gradients; train and
    eval modes, buffers and the random states of Python and torch are restored. A module called several times has
    several entries, one never called none. With `may_fail` an error of the network ends the call, and what was seen
    until then is returned.
    """
    seen: dict[str, list[Seen]] = {name: [] for name in modules}

    def watch(name: str) -> Callable[..., None]:
        if inputs[name]:
            return lambda module, args, kwargs: seen[name].append(_seen(args[0]) if args else _keywords(kwargs))
        return lambda module, args, output: seen[name].append(_seen(output))

    handles = [
        module.register_forward_pre_hook(watch(name), with_kwargs=True)
        if inputs[name]
        else module.register_forward_hook(watch(name))
        for name, module in modules.items()
    ]
    try:
        with untouched(model), torch.no_grad():
            model(*example_inputs) if isinstance(example_inputs, tuple) else model(example_inputs)
    except Exception:
        if not may_fail:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return seen


def maps_inside(model: nn.Module, example_inputs: Any, name: str, most: int = 3) -> list[str]:
    """Names of modules in `name`, the outermost and last first, whose every output is one tensor with channels."""
    modules = {key: module for key, module in model.named_modules() if key.startswith(f"{name}.")}
    seen = probe(model, example_inputs, modules, dict.fromkeys(modules, False))
    found = [key for key, values in seen.items() if values and all(value.is_map for value in values)]
    return sorted(found, key=lambda key: (key.count("."), -found.index(key)))[:most]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes, buffers and random states are as they were."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    gpus = {p.device for p in model.parameters() if p.device.type == "cuda"}
    state = random.getstate()
    try:
        with evaluating(model), torch.random.fork_rng([gpu.index for gpu in gpus]):
            yield
    finally:
        random.setstate(state)
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                setattr(module, name, buffer.copy_(saved))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        # attributes, not `model.eval()`: hosts override it, to keep parts frozen
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def multiply_adds(model: nn.Module, *input_shapes: tuple[int, ...]) -> int:
    """The multiply-adds of `model` in eval mode for a float input of each of these shapes, without computing anything.

    Convolutions, products and attention count; norms, activations and pooling do not.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports triton: `import nlnet` stays light

    # On the meta device attention is plain products, which the counter knows; fused CPU attention it would miss.
    state = {name: t.to("meta") for name, t in chain(model.named_parameters(), model.named_buffers())}
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(model, state, tuple(torch.empty(shape, device="meta") for shape in input_shapes))
    return counter.get_total_flops() // 2


def _seen(value: object) -> Seen:
    if isinstance(value, Tensor):
        description = f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
        return Seen(description, tuple(value.shape), value.dtype, value.device)
    if isinstance(value, dict):
        return Seen(f"{_a(value)} of {len(value)} ({', '.join(map(str, list(value)[:5]))})")
    if isinstance(value, tuple | list):
        return Seen(f"{_a(value)} of {len(value)}")
    return Seen(_a(value))


def _keywords(kwargs: Mapping[str, object]) -> Seen:
    names = ", ".join(f"{name}=" for name in kwargs) or "nothing"
    return Seen(f"passed by keyword ({names}), where a block cannot stand: put it after the module that comes before")


def _a(value: object) -> str:
    """Such as "an OrderedDict"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
