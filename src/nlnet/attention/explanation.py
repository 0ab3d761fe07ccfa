"""A clip, what a network says of it, and what its non-local blocks looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlnet.attention.capture import find_blocks, look
from nlnet.attention.deletion import Deletion, delete
from nlnet.attention.maps import BlockMap, block_map
from nlnet.attention.measures import measure
from nlnet.attention.page import page
from nlnet.data.batches.clip_transforms import MEAN, STD, prepare_clips
from nlnet.errors import UserError
from nlnet.saving import write_bytes, write_json

MOST_BYTES = 4 << 20
"""Of the maps of all blocks together, as they are stored."""


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; in a notebook it shows itself as its page."""

    title: str
    frames: np.ndarray
    """(F, H, W, 3) uint8, what the network saw."""
    seconds: tuple[float, ...]
    """(F,) when each frame is shown in the video."""
    scores: tuple[tuple[str, float], ...]
    """The highest scores with their classes, highest first; none for a network whose output is not understood."""
    blocks: tuple[BlockMap, ...]
    deletion: Deletion | None
    """None where it was not asked for, or the network's output is no logits (1, K)."""

    @cached_property
    def html(self) -> str:
        """The page, whole: it asks for no other file and no network."""
        return page(self.title, self.frames, self.seconds, self.scores, self.blocks, self.numbers)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What `explain.json` holds: predictions, and of each block its sizes and `Measures`; the deletion test."""
        blocks = [
            {
                "name": block.name,
                "pairwise": block.pairwise,
                "size": list(block.size),
                "keys": list(block.keys),
                "meets": block.meets,
                "step": list(block.step),
                "positions": len(block.positions),
                **measure(block).as_dict(),
            }
            for block in self.blocks
        ]
        found: dict[str, Any] = {"title": self.title, "frames": len(self.frames), "blocks": blocks}
        found["predictions"] = [{"class": name, "score": round(score, 6)} for name, score in self.scores]
        if self.deletion:
            found["deletion"] = _deletion_numbers(self.deletion)
        return found

    def save(self, folder: str | Path) -> Path:
        """Writes `explain.html` and `explain.json` into a folder, made where it is not there, and returns it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "explain.html", self.html.encode())
        write_json(folder / "explain.json", self.numbers)
        return folder

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html)}" style="width:100%;height:46rem;border:0"></iframe>'


def explain(
    model: nn.Module,
    clip: np.ndarray | Tensor,
    *,
    classes: Sequence[str] | None = None,
    kind: str = "multiclass",
    blocks: Sequence[str] | None = None,
    title: str = "clip",
    seconds: Sequence[float] | None = None,
    most_bytes: int = MOST_BYTES,
    share: float = 1 / 16,
    deletion: bool = True,
) -> Explanation:
    """What the non-local blocks of a network attend to in a clip, as in the paper's Figure 3.

    >>> import torch, nlnet
    >>> net = nlnet.build_model("c2d_demo", nonlocal_blocks=2, num_classes=7)
    >>> found = nlnet.explain(net, torch.zeros(8, 32, 32, 3, dtype=torch.uint8))
    >>> [block.name for block in found.blocks]
    ['res3.0_nonlocal', 'res3.1_nonlocal']

    Args:
        model: any network with `NonLocalBlock`s, such as `insert_nonlocal` leaves; its mode and weights stay.
        clip: (T, H, W, 3) uint8 RGB, normalized as ours are; or (3, T, H, W) or (1, 3, T, H, W), float, as the network
            takes it. A network of images takes (3, H, W) or (1, 3, H, W), and (1, H, W, 3).
        classes: their names.
        kind: "multiclass" (a softmax) or "multilabel" (sigmoids), for the scores that are shown.
        blocks: names of modules; all non-local blocks for None.
        title: what the page is called.
        seconds: (T,) of each frame; the numbers of the frames for None.
        most_bytes: of the stored rows of all blocks; positions are taken from a wider grid until they fit.
        share: of the keys that the deletion test takes away.
        deletion: whether to make it; it costs ten passes of the network.

    Raises UserError where the network has no non-local block or does not take such a clip.
    """
    found = find_blocks(model, blocks)
    inputs = _inputs(clip, next(model.parameters()))
    try:
        output, inputs_of = look(model, inputs, found)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the network does not take a clip of {tuple(inputs.shape)}: {error}") from error
    maps = tuple(
        block_map(name, block, inputs_of[name], most_bytes=most_bytes // len(found)) for name, block in found.items()
    )
    logits = isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == 1
    tested = None
    if deletion and logits:
        positions = {each.name: each.positions for each in maps}
        tested = delete(model, inputs, found, inputs_of, positions, share=share)
    frames = _shown(clip, inputs)
    times = tuple(float(s) for s in seconds) if seconds is not None else tuple(float(k) for k in range(len(frames)))
    scores = _scores(output, kind, classes) if logits else ()
    return Explanation(title, frames, times, scores, maps, tested)


def _inputs(clip: np.ndarray | Tensor, like: Tensor) -> Tensor:
    given = torch.as_tensor(clip)
    if given.dtype == torch.uint8:
        if given.ndim != 4 or given.shape[-1] != 3 or not len(given) or given.shape[1] != given.shape[2]:
            raise UserError(f"the clip is uint8 of {tuple(given.shape)}; give (T, side, side, 3), or floats")
        given = prepare_clips([given], torch.zeros(1, dtype=torch.bool), given.shape[1])
    elif given.ndim in (3, 4) and given.shape[0] == 3:
        given = given[None]
    if given.ndim not in (4, 5) or given.shape[:2] != (1, 3):
        raise UserError(f"the clip is {tuple(given.shape)}; give (T, H, W, 3) of uint8, or (3, T, H, W) of floats")
    return given.to(like.device, like.dtype)


def _shown(clip: np.ndarray | Tensor, inputs: Tensor) -> np.ndarray:
    given = torch.as_tensor(clip)
    if given.dtype == torch.uint8:
        return given.numpy()
    whole = inputs if inputs.ndim == 5 else inputs[:, :, None]
    pixels = (whole[0].float() * STD + MEAN).clamp(0, 1) * 255
    return pixels.round().byte().permute(1, 2, 3, 0).cpu().numpy()


def _scores(output: Tensor, kind: str, classes: Sequence[str] | None) -> tuple[tuple[str, float], ...]:
    logits = output[0].float()
    values = (logits.sigmoid() if kind == "multilabel" else logits.softmax(0)).cpu().numpy()
    names = list(classes) if classes is not None else [f"class {k}" for k in range(len(values))]
    order = np.argsort(-values, kind="stable")[:10]
    return tuple((names[k], float(values[k])) for k in order)


def _deletion_numbers(deletion: Deletion) -> Mapping[str, Any]:
    """The logit that was highest, and what becomes of it."""
    best = int(deletion.whole.argmax())
    return {
        "removed": deletion.removed,
        "class": best,
        "logit": round(float(deletion.whole[best]), 6),
        "without_top": round(float(deletion.without_top[best]), 6),
        "without_random": round(float(deletion.without_random[:, best].mean()), 6),
    }
