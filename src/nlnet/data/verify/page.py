"""A verification's report as one HTML file that needs no other: tables, a label histogram, a contact sheet."""

import base64
import io
from collections import Counter
from html import escape

import numpy as np

from nlnet.data.verify.report import Report, Thumbnail
from nlnet.text import line

_SIDE = 160  # pixels of the longer side
_ROWS = 500  # of a table: a page of a million findings helps nobody
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid #e4e4e4; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: #1a7f37; } .bad { color: #b42318; }
.bar { display: inline-block; height: .7em; background: #4c78a8; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 1rem .8rem; }
figure { margin: 0; } figure img { width: 100%; height: 120px; object-fit: contain; background: #111; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; color: #555; }
"""


def page(report: Report) -> str:
    """The whole page as text."""
    count = len(report.findings)
    said = f"{count:,} fault{'' if count == 1 else 's'}" if count else "no faults"
    verdict = f'<span class="{"bad" if count else "good"}">{said}</span>'
    parts = [
        f"<h1>{_text(report.root)}: {verdict}</h1>",
        _summary(report),
        _faults(report),
        _short(report),
        *(_histogram(split, counts) for split, counts in report.labels.items()),
        _sheet(report.thumbnails),
    ]
    head = f'<meta charset="utf-8"><title>Shards: {_text(report.root)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _text(value: object) -> str:
    return escape(line(value))


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Rows of text and numbers; numbers are set flush right."""
    shown = [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:_ROWS]]
    more = f"<p>{len(rows) - _ROWS:,} more</p>" if len(rows) > _ROWS else ""
    return f"<table><tr>{''.join(f'<th>{_text(name)}</th>' for name in head)}</tr>{''.join(shown)}</table>{more}"


def _cell(value: object) -> str:
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{_text(value)}</td>"


def _summary(report: Report) -> str:
    rows: list[tuple[object, ...]] = []
    for manifest in report.manifests:
        frames = [sample.frames for sample in manifest.samples] or [0]
        seconds = sum(sample.duration for sample in manifest.samples)
        moving = manifest.things == "videos"
        size = sum(shard.bytes for shard in manifest.shards)
        sides = Counter(f"{sample.width} x {sample.height}" for sample in manifest.samples).most_common(1)
        name, shards = f"{manifest.dataset} {manifest.split}", len(manifest.shards)
        length, span = f"{seconds / 3600:,.1f} h", f"{min(frames):,} to {max(frames):,}"
        times = (length, span) if moving else ("", "")
        amounts = f"{size / 1e6:,.1f} MB", *times, sides[0][0] if sides else ""
        rows.append((name, len(manifest.samples), shards, *amounts))
    head = ("split", "samples", "shards", "size", "length", "frames", "most frequent size")
    read = f"{report.bytes / 1e6:,.1f} MB read and checked, {report.decoded:,} samples decoded whole."
    return f"<p>{read}</p>{_table(head, rows)}"


def _faults(report: Report) -> str:
    if not report.findings:
        return ""
    causes = ", ".join(f"{count:,} {cause}" for cause, count in Counter(f.cause for f in report.findings).most_common())
    rows: list[tuple[object, ...]] = [tuple(finding) for finding in report.findings]
    return f"<h2>Faults: {_text(causes)}</h2>{_table(('where', 'cause', 'what'), rows)}"


def _short(report: Report) -> str:
    if not report.short:
        return ""
    rows: list[tuple[object, ...]] = [(f"{split}/{key}", frames) for split, key, frames in report.short]
    title = f"{len(rows):,} videos with fewer than {report.span} frames, which training repeats cyclically"
    return f"<h2>Short</h2><details><summary>{title}</summary>{_table(('video', 'frames'), rows)}</details>"


def _histogram(split: str, counts: Counter[str]) -> str:
    most = max(counts.values(), default=0) or 1
    rows = [
        f'<tr><td>{_text(name)}</td><td class="number">{count:,}</td>'
        f'<td><span class="bar" style="width:{24 * count / most:.2f}rem"></span></td></tr>'
        for name, count in counts.most_common()
        if count
    ]
    empty = [_text(name) for name, count in counts.items() if not count]
    note = f", {len(empty):,} of them without a sample" if empty else ""
    names = f"<details><summary>without a sample</summary>{', '.join(empty)}</details>" if empty else ""
    return f"<h2>Labels of {_text(split)}: {len(counts):,} classes{note}</h2><table>{''.join(rows)}</table>{names}"


def _sheet(thumbnails: list[Thumbnail]) -> str:
    if not thumbnails:
        return ""
    figures = []
    for thumbnail in thumbnails:
        labels = _text(", ".join(thumbnail.labels) or "no label")
        frames = f", {thumbnail.frames:,} frames" if thumbnail.frames > 1 else ""
        caption = f"{_text(thumbnail.split)}/{_text(thumbnail.key)}{frames}<br>{labels}"
        image = f'<img alt="{_text(thumbnail.key)}" src="{_data_uri(thumbnail.image)}">'
        figures.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return f'<h2>Contact sheet: middle frames</h2><div class="sheet">{"".join(figures)}</div>'


def _data_uri(image_HWC: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(image_HWC)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
