"""The explorer: one HTML file that asks for nothing else."""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from nlnet.attention.colors import COLORS
from nlnet.attention.maps import BlockMap
from nlnet.text import line

_SHARPEST, _SMALLEST = 320, 64  # sides in pixels of a stored frame, and below which pixels are shown as squares
_QUALITY = 82
_FILES = ("html", "js", "css")
_COLUMNS = {
    "distance_space": "distance in space",
    "distance_time": "in time",
    "same_frame": "same frame",
    "entropy": "entropy",
    "query_dependence": "query dependence",
}


def page(
    title: str,
    frames: np.ndarray,
    seconds: Sequence[float],
    scores: Sequence[tuple[str, float]],
    blocks: Sequence[BlockMap],
    numbers: Mapping[str, Any],
) -> str:
    """The whole page as text; see `nlnet.attention.explanation.Explanation` for what it is made of."""
    template, script, style = (files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in _FILES)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    longest = max(block.size[0] for block in blocks)
    # "<" ends a script wherever it stands, so that none of it is left.
    data = json.dumps(_data(frames, seconds, blocks), separators=(",", ":")).replace("<", "\\u003c")
    return Template(template).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        title=_text(title),
        style=style,
        script=script,
        data=data,
        shape=f"{frames.shape[2]} / {frames.shape[1]}",
        side="9rem" if longest <= 8 else "6.4rem" if longest <= 16 else "5rem",
        options="".join(f'<option value="{k}">{_text(block.name)}</option>' for k, block in enumerate(blocks)),
        predictions=_predictions(scores),
        measures=_measures(numbers),
        deletion=_deletion(numbers),
    )


def tile_frames(frames: int, tiles: int) -> list[int]:
    """Of so many frames those that stand for the frames of a map of `tiles`: the middle of each one's share."""
    return [min(int((k + 0.5) * frames / tiles), frames - 1) for k in range(tiles)]


def _data(frames: np.ndarray, seconds: Sequence[float], blocks: Sequence[BlockMap]) -> dict[str, Any]:
    tiles = {block.size[0]: tile_frames(len(frames), block.size[0]) for block in blocks}
    needed = sorted({frame for chosen in tiles.values() for frame in chosen})
    images = {frame: _jpeg(frames[frame]) for frame in needed}
    gaps = np.diff(np.asarray(seconds)) if len(seconds) > 1 else np.ones(1)
    counted = list(seconds) == list(range(len(seconds)))
    per_tile = 0.25 if counted else float(np.median(gaps)) * len(frames) / max(tiles)
    return {
        "images": images,
        "tiles": tiles,
        "seconds": [round(float(s), 4) for s in seconds],
        "counted": counted,
        "interval": round(1000 * min(max(per_tile, 0.08), 1.0)),
        "fine": min(frames.shape[1:3]) > _SMALLEST,
        "colors": base64.b64encode(COLORS.tobytes()).decode(),
        "blocks": [_block(block) for block in blocks],
    }


def _block(block: BlockMap) -> dict[str, Any]:
    arrays = {
        "rows": block.rows,
        "low": block.low.astype("<f4"),
        "high": block.high.astype("<f4"),
        "links": block.links.astype("<i4"),
        "values": block.values.astype("<f4"),
    }
    plain = {name: getattr(block, name) for name in ("name", "pairwise", "size", "keys", "meets", "step")}
    packed = {name: base64.b64encode(zlib.compress(array.tobytes(), 9)).decode() for name, array in arrays.items()}
    return plain | packed | {"kept": block.links.shape[1]}


def _jpeg(frame: np.ndarray) -> str:
    image, file = Image.fromarray(frame), io.BytesIO()
    image.thumbnail((_SHARPEST, _SHARPEST))
    # Small ones, such as the built-in clips, cost nothing and would be blurred.
    kind = "png" if min(frame.shape[:2]) <= _SMALLEST else "jpeg"
    image.save(file, format=kind, **({"quality": _QUALITY} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _predictions(scores: Sequence[tuple[str, float]]) -> str:
    bar = '<meter min="0" max="1" value="{0:.4f}"></meter><span>{0:.3f}</span>'
    rows = "".join(f"<li><span>{_text(name)}</span>{bar.format(score)}</li>" for name, score in scores[:5])
    return f'<ol class="predictions">{rows}</ol>' if rows else ""


def _measures(numbers: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("block", *_COLUMNS.values()))
    rows = "".join(
        f"<tr><td>{_text(block['name'])}</td>{''.join(f'<td>{block[name]:.3f}</td>' for name in _COLUMNS)}</tr>"
        for block in numbers["blocks"]
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _deletion(numbers: Mapping[str, Any]) -> str:
    if (test := numbers.get("deletion")) is None:
        return ""
    name, removed = numbers["predictions"][0]["class"], sum(test["removed"].values())
    return (
        f'<p class="soft">Without the {removed} most attended keys of all blocks the logit of {_text(name)} is'
        f" {test['without_top']:.2f} instead of {test['logit']:.2f}; without as many random ones"
        f" {test['without_random']:.2f}.</p>"
    )


def _text(value: object) -> str:
    return escape(line(value))
