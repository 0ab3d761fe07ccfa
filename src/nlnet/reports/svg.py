"""Charts as SVG for a page: lines and points with axes, in the page's own colors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nlnet.text import line

WIDTH, HEIGHT = 480, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 50
_MARKERS = ("circle", "square", "up", "diamond", "down")
_DASHES = ("", "7 4", "2 3")
COLORS = 7
"""How many colors the page has; further series have them again with other dashes."""


@dataclass(frozen=True)
class Series:
    """Points (x, y) of one row; `errors` are half the heights of bars. `number` chooses color, marker and dash."""

    name: str
    number: int
    points: Sequence[tuple[float, float]]
    errors: Sequence[float | None] = ()
    joined: bool = True
    faint: bool = False
    """A thin dashed line without markers, for what stands behind another series."""


@dataclass(frozen=True)
class _Scale:
    """From values to pixels, along one axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def chart(series: Sequence[Series], title: str, x_label: str, y_label: str) -> str:
    """A chart, described by its title for those who do not see it; empty where there is no point."""
    xs = [x for each in series for x, _ in each.points]
    ys = [y + sign * (error or 0) for each in series for (_, y), error in _with_errors(each) for sign in (-1, 1)]
    if not xs:
        return ""
    across = _Scale(*_range(xs), _LEFT, WIDTH - _RIGHT)
    up = _Scale(*_range(ys), HEIGHT - _BOTTOM, _TOP)
    parts = [*_axes(across, up, x_label, y_label)]
    parts += [_drawn(each, across, up) for each in sorted(series, key=lambda each: not each.faint)]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(title)}">{"".join(parts)}</svg>'


def swatch(number: int) -> str:
    """What a series looks like, for a legend."""
    body = f'<path class="s{number % COLORS}" d="M2 8H34"{_dash(number)}/>{_marker(number, 18, 8, 4.5)}'
    return f'<svg class="swatch" viewBox="0 0 36 16" aria-hidden="true">{body}</svg>'


def _text(value: object) -> str:
    return escape(line(value))


def _with_errors(each: Series) -> list[tuple[tuple[float, float], float | None]]:
    return list(zip(each.points, each.errors or [None] * len(each.points), strict=True))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest with a margin; never a single value."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) if high - low > 1e-9 * max(abs(low), abs(high), 1e-9) else 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step)
    return [k * step for k in range(first, first + 20) if k * step <= high]


def _axes(across: _Scale, up: _Scale, x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in ticks(up.low, up.high):
        y = up(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4.5:.1f}" text-anchor="end">{_tick(value)}</text>')
    for value in ticks(across.low, across.high, 4):
        x = across(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_tick(value)}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{_text(x_label)}</text>')
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{_text(y_label)}</text>'
    )
    return parts


def _tick(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):.4g}{sign}"
    return f"{value:.4g}"


def _drawn(each: Series, across: _Scale, up: _Scale) -> str:
    places = [(across(x), up(y)) for x, y in each.points]
    color = f"s{each.number % COLORS}"
    parts = [f"<title>{_text(each.name)}</title>"]
    if each.joined and len(places) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="{color}" d="{path}"{_dash(each.number)}/>')
    if not each.faint:
        for (x, y), ((_, value), error) in zip(places, _with_errors(each), strict=True):
            if error:
                parts.append(f'<path class="{color}" d="M{x:.1f} {up(value - error):.1f}V{up(value + error):.1f}"/>')
            parts.append(_marker(each.number, x, y, 5.5 if not each.joined else 2.6))
    return f"<g{' class=faint' if each.faint else ''}>{''.join(parts)}</g>"


def _dash(number: int) -> str:
    dash = _DASHES[number // COLORS % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _marker(number: int, x: float, y: float, r: float) -> str:
    color, kind = f"f{number % COLORS}", _MARKERS[number % len(_MARKERS)]
    if kind == "circle":
        return f'<circle class="{color}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "up": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "down": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    }[kind]
    path = "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners)
    return f'<path class="{color}" d="M{path}Z"/>'
