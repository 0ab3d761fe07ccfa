"""What a network costs and where its non-local blocks are, in the line that a run starts with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.func import functional_call

from nlnet.errors import UserError
from nlnet.layers import NonLocalBlock


@dataclass(frozen=True)
class ModelSummary:
    """`str()` is one line, such as "C2D-R50, no non-local blocks: 24.33 M parameters, 20.2 GMACs at 3x32x224x224"."""

    title: str
    parameters: int
    gmacs: float
    """Billions of multiply-adds for one clip, attention included, norms and activations not."""
    clip_shape: tuple[int, ...]
    nonlocal_blocks: list[str]
    """What each non-local block follows, such as "res4.3"."""
    pairwise: list[str]
    """The pairwise functions in use, each once."""

    def __str__(self) -> str:
        count = len(self.nonlocal_blocks)
        blocks = "no non-local blocks"
        if count:
            plural = "" if count == 1 else "s"
            places = ", ".join(self.nonlocal_blocks)
            blocks = f"{count} non-local block{plural} ({', '.join(self.pairwise)}) after {places}"
        gmacs = f"{self.gmacs:.1f}" if self.gmacs >= 1 else f"{self.gmacs:.3f}"
        cost = f"{self.parameters / 1e6:.2f} M parameters, {gmacs} GMACs"
        return f"{self.title}, {blocks}: {cost} at {'x'.join(map(str, self.clip_shape))}"


def describe(model: nn.Module, clip_shape: tuple[int, ...]) -> ModelSummary:
    """Parameters, multiply-adds and non-local blocks of `model` for one clip (3, T, H, W), without computing anything.

    Raises UserError if the network cannot take such a clip.
    """
    title = getattr(model, "title", type(model).__name__)
    shape = tuple(clip_shape)
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, NonLocalBlock)}
    try:
        macs = _multiply_adds(model, shape)
    except (RuntimeError, ValueError) as error:
        size = "x".join(map(str, shape))
        raise UserError(f"{title} cannot take clips of {size} (channels, frames, height, width): {error}") from error
    return ModelSummary(
        title=title,
        parameters=sum(p.numel() for p in model.parameters()),
        gmacs=macs / 1e9,
        clip_shape=shape,
        nonlocal_blocks=[name.removesuffix("_nonlocal") for name in blocks],
        pairwise=sorted({block.pairwise for block in blocks.values()}),
    )


def _multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # it imports triton: `import nlnet` stays light

    # On the meta device attention is plain products, which the counter knows; fused CPU attention it would miss.
    state = {name: t.to("meta") for name, t in chain(model.named_parameters(), model.named_buffers())}
    clip = torch.empty((1, *shape), device="meta")
    with _evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(model, state, (clip,))
    return counter.get_total_flops() // 2


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was
