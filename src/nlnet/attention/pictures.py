"""The paper's Figure 3 of one position: as a picture to print, and as a video of heat maps."""

import io

import numpy as np
from PIL import Image, ImageDraw

from nlnet.attention.colors import COLORS
from nlnet.attention.maps import BlockMap
from nlnet.attention.page import tile_frames
from nlnet.attention.places import key_places, position_places
from nlnet.data.media.encode import encode_frames

_SIDE, _GAP, _PER_ROW, _MOST = 224, 8, 8, 16
_MARK, _LABEL = (213, 94, 0), (31, 35, 40)


def sharpest(block: BlockMap) -> int:
    """The number of the stored position whose strongest link is the strongest of all."""
    return int(np.abs(block.values[:, 0]).argmax())


def figure(frames: np.ndarray, block: BlockMap, number: int, links: int = 10) -> bytes:
    """A PNG: the frames with the position in a box, and its strongest links as arrows to where they lead.

    Args:
        frames: (F, H, W, 3) uint8, what the network saw.
        block: whose attention.
        number: which of its stored positions.
        links: how many arrows.
    """
    place = position_places(block)[number]
    places = key_places(block, number)[block.links[number, :links]]
    shown = _shown_tiles(block.size[0], int(place[0] * block.size[0]), places)
    height = round(_SIDE * frames.shape[1] / frames.shape[2])
    rows = -(-len(shown) // _PER_ROW)
    across = min(len(shown), _PER_ROW)
    sheet = Image.new("RGB", (across * (_SIDE + _GAP) + _GAP, rows * (height + 24) + _GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    middles = tile_frames(len(frames), block.size[0])
    corners = {}
    for k, tile in enumerate(shown):
        corner = (_GAP + k % _PER_ROW * (_SIDE + _GAP), _GAP + k // _PER_ROW * (height + 24))
        corners[tile] = corner
        sheet.paste(Image.fromarray(frames[middles[tile]]).resize((_SIDE, height), Image.Resampling.BICUBIC), corner)
        pen.text((corner[0], corner[1] + height + 2), f"frame {middles[tile]}", fill=_LABEL)

    def pixels(spot: np.ndarray) -> tuple[float, float]:
        left, top = corners[min(int(spot[0] * block.size[0]), block.size[0] - 1)]
        return left + spot[2] * _SIDE, top + spot[1] * height

    x, y = pixels(place)
    strongest = np.abs(block.values[number, 0]) or 1.0
    for spot, value in reversed(list(zip(places, block.values[number, :links], strict=True))):
        _arrow(pen, (x, y), pixels(spot), width=1 + round(3 * float(np.abs(value) / strongest)))
    half = (_SIDE / block.size[2] / 2, height / block.size[1] / 2)
    pen.rectangle((x - half[0], y - half[1], x + half[0], y + half[1]), outline=_MARK, width=3)
    file = io.BytesIO()
    sheet.save(file, format="png")
    return file.getvalue()


def heat_video(frames: np.ndarray, block: BlockMap, number: int, fps: float, opacity: float = 0.55) -> bytes:
    """H.264 in MP4: every frame with the heat map of the position over it, and a box around it in its own."""
    place, places = position_places(block)[number], key_places(block, number)
    low, high = block.low[number], block.high[number]
    levels = np.rint((block.row(number) - low) / max(high - low, 1e-30) * 255).astype(np.uint8)
    grid = block.size[1:] if block.meets == "location" else block.keys[1:]
    cell = np.minimum((places[:, 1:] * grid).astype(int), np.array(grid) - 1)
    of_frame = np.minimum((places[:, 0] * block.size[0]).astype(int), block.size[0] - 1)
    width = 2 * round(max(_SIDE, frames.shape[2]) / 2)
    height = 2 * round(width * frames.shape[1] / frames.shape[2] / 2)
    drawn = []
    for k, frame in enumerate(frames):
        tile = min(k * block.size[0] // len(frames), block.size[0] - 1)
        plain = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        colors, there = np.zeros((*grid, 3), np.uint8), np.zeros(grid, np.uint8)
        mine = of_frame == tile
        colors[cell[mine, 0], cell[mine, 1]], there[cell[mine, 0], cell[mine, 1]] = COLORS[levels[mine]], 255
        heat, mask = (
            np.asarray(Image.fromarray(a).resize((width, height), Image.Resampling.NEAREST)) for a in (colors, there)
        )
        strength = opacity * (mask[..., None] > 0)
        picture = Image.fromarray(np.rint((1 - strength) * plain + strength * heat).astype(np.uint8))
        if tile == int(place[0] * block.size[0]):
            x, y = place[2] * width, place[1] * height
            half = (width / block.size[2] / 2, height / block.size[1] / 2)
            box = (x - half[0], y - half[1], x + half[0], y + half[1])
            ImageDraw.Draw(picture).rectangle(box, outline=_MARK, width=3)
        drawn.append(np.asarray(picture))
    return encode_frames(np.stack(drawn), fps)


def _shown_tiles(tiles: int, own: int, places: np.ndarray) -> list[int]:
    """All frames of a short map; of a long one the position's own, those with links, and evenly many of the rest."""
    if tiles <= _MOST:
        return list(range(tiles))
    needed = {own, *(min(int(t * tiles), tiles - 1) for t in places[:, 0])}
    for tile in tile_frames(tiles, _MOST):
        if len(needed) >= _MOST:
            break
        needed.add(tile)
    return sorted(needed)


def _arrow(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], width: int) -> None:
    pen.line([*start, *end], fill=_MARK, width=width)
    towards = np.array(end) - np.array(start)
    length = float(np.hypot(*towards))
    if length < 1:
        return
    ahead = towards / length
    aside, base = np.array([-ahead[1], ahead[0]]), np.array(end) - ahead * (6 + 2 * width)
    pen.polygon([end, tuple(base + aside * (3 + width)), tuple(base - aside * (3 + width))], fill=_MARK)
