"""A report as one HTML page that asks for nothing else, with its plots."""

from collections.abc import Sequence
from html import escape

from nlnet.reports.assemble import Part
from nlnet.reports.plots import plots
from nlnet.reports.texts import caption, cells, columns, heading
from nlnet.text import line

# Okabe and Ito's colors, which people with color blindness tell apart; the first row, most often the baseline, in gray.
_LIGHT = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
_DARK = ("#a3a9b5", "#4aa8e0", "#ff8a3d", "#2fcf9f", "#e9a0c8", "#e6b422", "#8fd0f7")


def _variables(colors: Sequence[str]) -> str:
    return "".join(f"--c{k}:{color};" for k, color in enumerate(colors))


_STYLE = f"""
:root {{ color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #fff; --rule: #d9dee3;
  {_variables(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e8eb; --soft: #9aa4ae; --paper: #14171a; --rule: #343a41; {_variables(_DARK)} }}
}}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
.wide {{ overflow-x: auto; }} .about, .notes {{ color: var(--soft); }}
table {{ border-collapse: separate; border-spacing: 0; overflow-wrap: normal; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); }}
th {{ vertical-align: bottom; font-weight: 600; }} td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0;
  background: var(--paper); padding-left: 0; white-space: normal; min-width: 8rem; }}
.published {{ color: var(--soft); font-style: italic; }}
.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: 1.2rem 0 .4rem; }}
.swatch {{ width: 36px; height: 16px; vertical-align: -3px; margin-right: .4rem; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.2rem; }}
figure {{ margin: 0; max-width: 30rem; }} figcaption {{ font-weight: 600; font-size: .9rem; }}
svg {{ width: 100%; height: auto; display: block; fill: none; stroke-width: 1.8; }} .swatch {{ display: inline; }}
svg text {{ fill: var(--soft); font-size: 13.5px; }} .grid {{ stroke: var(--rule); stroke-width: 1; }}
.faint path {{ stroke-dasharray: 2 3; stroke-width: 1.2; opacity: .75; }}
{"".join(f".s{k} {{ stroke: var(--c{k}); }} .f{k} {{ fill: var(--c{k}); }}" for k in range(len(_LIGHT)))}
"""
# The browser then asks nobody for anything, whatever a run's files say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(parts: Sequence[Part], notes: Sequence[str]) -> str:
    """The whole page as text."""
    body = ["<h1>Report</h1>", *map(_section, parts)]
    body += [f"<h2>What could not be read</h2>{_list(notes)}"] if notes else []
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Report</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _section(part: Part) -> str:
    names = columns(part)
    classes = [' class="published"' if name.startswith("published ") else "" for name in names]
    head = "".join(f"<th{kind}>{_text(name)}</th>" for name, kind in zip(names, classes, strict=True))
    rows = [
        "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(cells(part, each), classes, strict=True))
        for each in part.lines
    ]
    table = f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    about = f'<p class="about">{_text(caption(part))}</p>'
    below = _list(part.notes) if part.notes else ""
    return f'<h2>{_text(heading(part))}</h2>{about}<div class="wide">{table}</div>{below}{plots(part)}'


def _list(notes: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{_text(note)}</li>" for note in notes)}</ul>'


def _text(value: object) -> str:
    return escape(line(value))
