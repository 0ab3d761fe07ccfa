"""The page asks for nothing, says what it is told and does nothing else, and its plots are where the figures are."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.run_folders import write_curve, write_run, write_table2a
from nlnet.reports.svg import HEIGHT, Series, chart, ticks
from nlnet.reports.write import write_report

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>\n| [a](javascript:b) http://example.com `c` =1\x1b[31m'
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "ul", "li",
    "figure", "figcaption", "svg", "path", "circle", "text", "g",
}  # fmt: skip


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page(*names: str) -> str:
    write_report([Path("runs")], names, Path("out"))
    return Path("out/report.html").read_text()


def check_harmless(text: str) -> Tags:
    """Nothing is asked for and nothing runs, also where the policy of the page would not be kept."""
    found = Tags(text)
    assert {tag for tag, _ in found.tags} <= ALLOWED
    names = {name for _, attributes in found.tags for name in attributes}
    assert not names & {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "style"}
    assert not any(name.startswith("on") for name in names)
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|//", style)
    assert "default-src 'none'" in text
    return found


def test_a_page_needs_no_other_file(here: Path) -> None:
    list(write_table2a(Path("runs")))
    found = check_harmless(page())
    assert "http" not in page().replace("http-equiv", "")
    assert found.texts.count("Gaussian") == 3  # the row, the legend, and the title of its point
    figures = [attributes["aria-label"] for tag, attributes in found.tags if tag == "svg" and "role" in attributes]
    assert figures == [
        "top-1 against compute",
        "Learning curves: top-1 error (%) (training dotted)",
        "Learning curves: loss (training dotted)",
    ]


def test_hostile_names_are_text_in_every_file(here: Path) -> None:
    run = write_run(Path("runs/a"), EVIL, monitor=EVIL, metrics={EVIL: 0.5}, status="finished", gmacs=1.0)
    write_curve(run, [0.1, 0.2])
    write_run(Path("runs/b"), "other", monitor=EVIL, metrics={EVIL: 0.5}, size=EVIL, typed={EVIL: EVIL}, gmacs=2.0)
    write_run(Path("runs") / "<img src=x>", "table2a_gaussian", status="failed", reason=EVIL)
    found = check_harmless(page())
    assert sum('"><script>alert(1)</script>' in text for text in found.texts) > 5
    markdown = Path("out/report.md").read_text()
    assert not re.search(r"(?<!\\)[<\[`]|(?<!\\)://|\x1b", markdown)
    assert all(line.startswith(("|", "- ", "#", "")) and line.isprintable() for line in markdown.splitlines())
    rows = [re.sub(r"\\.", "", line).count("|") for line in markdown.splitlines() if line.startswith("| row |")]
    assert len(rows) == markdown.count("| row |")
    assert not any(cell.startswith(("=", "+", "@")) for cell in Path("out/report.csv").read_text().split(","))


def test_curves_are_those_of_the_file(here: Path) -> None:
    """The points of a drawn curve, turned back into numbers."""
    run = write_run(Path("runs/a"), "table2a_gaussian", metrics={"val/top1": 0.6})
    write_curve(run, [0.25, 0.5, 0.6])
    svg = next(part for part in page("table2a").split("<svg ") if part.startswith("viewBox") and "top-1 error" in part)
    behind, path = re.findall(r'class="s1" d="M([^"]+)"', svg)  # training, and before it validation
    assert behind.count("L") == 29
    drawn = np.array([[float(v) for v in point.split()] for point in path.split("L")])
    expected = np.array([[10.0, 75.0], [20.0, 50.0], [30.0, 40.0]])
    for axis in (0, 1):
        ratio = np.diff(drawn[:, axis]) / np.diff(expected[:, axis])
        assert ratio == pytest.approx(ratio[0], rel=0.01)
    assert np.diff(drawn[:, 1]).min() > 0  # a smaller error is lower on the page


def test_a_damaged_curve_is_left_out(here: Path) -> None:
    run = write_run(Path("runs/a"), "table2a_gaussian", metrics={"val/top1": 0.6})
    text = "step,val/top1,val/loss\n1,nan,1e400\nx,0.5,0.5\n2,1e300,0.5\n3,0.5,0.5,9,9\n,,\n4,0.6,"
    (run / "metrics.csv").write_bytes(text.encode() + b"\n5,0.7,\xff\n")
    assert "<svg viewBox" not in page("table2a")
    (run / "metrics.csv").write_text(text)
    assert "Learning curves: top-1 error" in page("table2a")


@pytest.mark.parametrize("values", [(0.0, 0.0), (1e-300, 2e-300), (-1e11, 1e11), (5.0, 5.0 + 1e-12), (1e11, 1e11 + 1)])
def test_any_range_has_an_axis(values: tuple[float, float]) -> None:
    svg = chart([Series("a", 0, [(0, values[0]), (1, values[1])])], "t", "x", "y")
    places = [float(y) for y in re.findall(r'cy="([^"]+)"', svg)]
    assert all(0 < y < HEIGHT for y in places)
    assert len(places) == 2
    assert 6 < svg.count("<text") < 40


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(71.4, 73.1) == pytest.approx([71.5, 72, 72.5, 73])
    for low, high in ((0.001, 0.0042), (-3, 1e6), (12, 13)):
        found = ticks(low, high)
        assert 3 <= len(found) <= 7
        assert low <= found[0]
        assert found[-1] <= high


def pixels_of(picture: Path) -> np.ndarray:
    """(H, W, 3)"""
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.programs
@pytest.mark.parametrize(("width", "height"), [(1280, 1400), (390, 2200)])
def test_chromium_shows_the_plots(width: int, height: int, here: Path) -> None:
    """The colors of the rows are on the page, light or dark, and nothing is cut off at the width of a phone."""
    list(write_table2a(Path("runs")))
    page("table2a")
    browser = shutil.which("chromium")
    assert browser, "Debian: chromium"
    for scheme, color in ((1, (0, 0x72, 0xB2)), (0, (0x4A, 0xA8, 0xE0))):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={here}/browser"]
        flags += [f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={scheme}"]
        command = [browser, *flags, f"--screenshot={here}/shot.png", f"file://{here}/out/report.html"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pixels = pixels_of(here / "shot.png")
        assert pixels.shape == (height, width, 3)
        assert (np.abs(pixels - color).max(2) < 12).sum() > 300
        assert (np.ptp(pixels[:, -8:], axis=1) == 0).all()  # the margin is free: nothing is cut off
