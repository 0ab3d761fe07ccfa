"""The pages as files with links between them, and as the site that `make docs` builds."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import nlnet
from nlnet import layers, models, ops

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data" / "README.md"})


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a heading is linked by: its words in small letters, with hyphens."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        parts = urlsplit(link)
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        found = parts.scheme in ("http", "https") or target.exists()
        if not found or (parts.fragment and not parts.scheme and parts.fragment not in anchors(target)):
            wrong.append(link)
    assert wrong == []


class Html(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    LOADED = ("script", "img", "iframe", "source", "video", "audio", "embed", "object")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        names = ("src", "data") if tag in self.LOADED else ("href",) if tag == "link" else ()
        self.loads += [given[name] for name in names if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "trees")]
    done = subprocess.run([*words, "-c", "docs", ".", str(folder / "built")], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder / "built"


@pytest.mark.full
def test_the_site_is_whole_and_asks_for_nothing_outside(site: Path) -> None:
    pages = {file: Html(file) for file in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    wrong = []
    for file, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                wrong += [(file.name, link)] if link in page.loads and parts.scheme != "data" else []
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = target in pages and (not parts.fragment or unquote(parts.fragment) in pages[target].ids)
            if not (known or (target.is_file() and target not in pages)):
                wrong.append((file.name, link))
    assert wrong == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


@pytest.mark.full
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    ids = set().union(*(Html(file).ids for file in (site / "docs" / "api").glob("*.html")))
    public = {f"{module.__name__}.{name}" for module in (ops, layers, models) for name in module.__all__}
    assert public - ids == set()
    ends = {place.rpartition(".")[2] for place in ids}
    assert set(nlnet.__all__) - {"__version__", "ops"} <= ends


@pytest.fixture
def tab(site: Path) -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is installed by `make peers`")
    program = shutil.which("chromium")
    assert program, "Debian: chromium"
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium.new_page()
        chromium.close()


@pytest.mark.programs
def test_the_search_works_from_a_disk_in_a_browser(site: Path, tab: Any) -> None:
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"file://{site}/index.html")
    tab.wait_for_url("**/docs/index.html")
    tab.fill("input[name=q]", "shm-size")
    tab.press("input[name=q]", "Enter")
    tab.wait_for_selector("#search-results li a")
    assert "Troubleshooting" in tab.inner_text("#search-results")
    tab.click("#search-results li a")
    assert tab.inner_text("h1").startswith("Troubleshooting")
    assert said == []
    assert {url.partition(":")[0] for url in asked} == {"file"}
