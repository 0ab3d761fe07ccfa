"""What a network costs and where its non-local blocks are, in the line that a run starts with."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nlnet.errors import UserError
from nlnet.layers import NonLocalBlock
from nlnet.models.probe import multiply_adds


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
        blocks = "no non-local blocks"
        if self.nonlocal_blocks:
            blocks = counted(len(self.nonlocal_blocks), "non-local block")
            blocks += f" ({', '.join(self.pairwise)}) after {', '.join(self.nonlocal_blocks)}"
        return f"{self.title}, {blocks}: {cost_line(self.parameters, self.gmacs, self.clip_shape)}"


def describe(model: nn.Module, clip_shape: tuple[int, ...], *further: tuple[int, ...]) -> ModelSummary:
    """Parameters, multiply-adds and non-local blocks of `model` for one clip (3, T, H, W), without computing anything.

    A network that takes more than the clip is given `further` inputs of these shapes.
    Raises UserError if the network cannot take such a clip.
    """
    title = title_of(model)
    shape = tuple(clip_shape)
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, NonLocalBlock)}
    try:
        macs = multiply_adds(model, *((1, *of_input) for of_input in (shape, *further)))
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


def title_of(model: nn.Module) -> str:
    """What people call the network, such as "C2D-R50"; the name of its class where it does not say."""
    return str(getattr(model, "title", type(model).__name__))


def cost_line(parameters: int, gmacs: float, shape: Sequence[int]) -> str:
    """Such as "24.33 M parameters, 20.2 GMACs at 3x32x224x224"."""
    billions = f"{gmacs:.1f}" if gmacs >= 1 else f"{gmacs:.3f}"
    return f"{parameters / 1e6:.2f} M parameters, {billions} GMACs at {'x'.join(map(str, shape))}"


def counted(count: int, what: str) -> str:
    """Such as "2 non-local blocks"."""
    return f"{count} {what}{'' if count == 1 else 's'}"
