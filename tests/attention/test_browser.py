"""The page in Chromium, driven by Playwright: what is drawn are the values that are in it, and nothing leaves it."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nlnet
from nlnet.attention import Explanation, explain
from nlnet.attention.colors import COLORS
from nlnet.attention.places import key_places, position_places

pytestmark = pytest.mark.programs
EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    made = nlnet.build_model("c2d_demo", nonlocal_blocks=2, num_classes=4, **options)
    for block in (module for module in made.modules() if isinstance(module, nlnet.NonLocalBlock)):
        nn.init.normal_(block.theta.weight)
        nn.init.normal_(block.phi.weight)
    return made


def clip(frames: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (frames, side, side, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is installed by `make peers`")
    program = shutil.which("chromium")
    assert program, "Debian: chromium"
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Page:
    """A page in a tab, with what it said and asked for."""

    def __init__(self, browser: Any, found: Explanation, folder: Path, fragment: str = "", **options: Any) -> None:
        self.address = f"file://{found.save(folder) / 'explain.html'}"
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        # What Chromium advises those who read a canvas, as the tests do, is none of the page's.
        self.tab.on("console", lambda m: self.said.extend([m.text] if "willReadFrequently" not in m.text else []))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        began = time.monotonic()
        self.tab.goto(self.address + fragment)
        self.tab.wait_for_selector("html[data-ready]")
        self.opened_s = time.monotonic() - began

    def tile(self, number: int) -> Any:
        return self.tab.locator(f"#frames .tile[data-tile='{number}']")

    def hover(self, size: tuple[int, int, int], t: int, h: int, w: int) -> None:
        box = self.tile(t).bounding_box()
        self.tile(t).hover(position={"x": (w + 0.5) / size[2] * box["width"], "y": (h + 0.5) / size[1] * box["height"]})

    def heat(self, number: int) -> np.ndarray:
        """(H, W, 4) of a tile's heat map, as it was painted."""
        pixels = (
            self.tile(number)
            .locator("canvas")
            .evaluate("c => ({w: c.width, d: [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]})")
        )
        return np.array(pixels["d"], np.uint8).reshape(-1, pixels["w"], 4)

    def links(self) -> list[tuple[int, float]]:
        read = "all => all.map(l => [Number(l.dataset.key), Number(l.dataset.value)])"
        return [(int(key), value) for key, value in self.tab.locator("#arrows line").evaluate_all(read)]

    def close(self) -> None:
        self.context.close()
        assert self.said == []
        assert all(address.split("#")[0] == self.address or address.startswith("data:") for address in self.asked)


def check(page: Page, found: Explanation, number: int, block: int) -> None:
    """What is drawn for a stored position of a block are its row and its links."""
    made = found.blocks[block]
    row, keys = made.rows[number], key_places(made, number)
    for tile in range(made.size[0]):
        heat = page.heat(tile)
        painted = np.zeros(heat.shape[:2], bool)
        for level, place in zip(row, keys, strict=True):
            if int(place[0] * made.size[0]) == tile:
                y, x = int(place[1] * heat.shape[0]), int(place[2] * heat.shape[1])
                painted[y, x] = True
                assert heat[y, x].tolist() == [*COLORS[level].tolist(), 255]
        assert not heat[~painted].any()
    assert page.links() == [
        (int(key), pytest.approx(float(value), rel=1e-5))
        for key, value in zip(made.links[number, :5], made.values[number, :5], strict=True)
    ]
    place = position_places(made)[number]
    start = page.tab.locator("#arrows line").first.evaluate(
        "l => [Number(l.getAttribute('x1')), Number(l.getAttribute('y1'))]"
    )
    tile, frames = page.tile(int(place[0] * made.size[0])).bounding_box(), page.tab.locator("#arrows").bounding_box()
    expected = [tile["x"] - frames["x"] + place[2] * tile["width"], tile["y"] - frames["y"] + place[1] * tile["height"]]
    assert start == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    "options", [{}, {"nonlocal_options": {"axes": "time"}}, {"nonlocal_options": {"axes": "space"}}]
)
def test_hovering_shows_the_row_of_that_position(browser, tmp_path, options):
    found = explain(network(**options), clip(8, 32), title=EVIL, classes=[EVIL] * 4, deletion=False)
    page = Page(browser, found, tmp_path)
    size = found.blocks[1].size
    for t, h, w in ((0, 0, 0), (3, 2, 5), (7, 7, 7)):
        page.hover(size, t, h, w)
        check(page, found, found.blocks[1].nearest(t, h, w), 1)
    page.tab.select_option("#block", "0")
    page.tab.wait_for_url("**block=res3.0_nonlocal**")  # its rows are unpacked first
    page.hover(size, 2, 6, 1)
    check(page, found, found.blocks[0].nearest(2, 6, 1), 0)
    assert page.tab.evaluate("window.evil") is None
    assert page.tab.locator("h1").inner_text() == EVIL.replace("'", "'")
    page.close()


def test_keys_the_address_and_playing(browser, tmp_path):
    found = explain(network(), clip(8, 32))
    page = Page(browser, found, tmp_path, "#block=res3.0_nonlocal&t=2&h=3&w=1&links=5&opacity=0.3&frame=6")
    check(page, found, found.blocks[0].nearest(2, 3, 1), 0)
    assert page.tab.locator("#big .tile").get_attribute("data-tile") == "6"
    frames = page.tab.locator("#frames")
    for key in ("ArrowRight", "ArrowDown", "PageDown"):
        frames.press(key)
    check(page, found, found.blocks[0].nearest(3, 4, 2), 0)
    address = page.tab.url
    assert "t=3&h=4&w=2" in address
    frames.press(" ")
    before = page.tab.locator("#big .tile").get_attribute("data-tile")
    deadline = time.monotonic() + 10
    while page.tab.locator("#big .tile").get_attribute("data-tile") == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    frames.press(" ")
    page.tab.goto("about:blank")
    page.said.clear()
    page.asked.clear()
    page.tab.goto(address)  # the same view, elsewhere
    page.tab.wait_for_selector("html[data-ready]")
    check(page, found, found.blocks[0].nearest(3, 4, 2), 0)
    # a click holds a position, and the pointer then tells of keys
    page.tile(3).click(position={"x": 3, "y": 3})
    page.hover(found.blocks[0].size, 5, 4, 4)
    held = found.blocks[0].nearest(3, 0, 0)
    check(page, found, held, 0)
    said = float(re.search(r"pointer: (\S+)", page.tab.locator("#here").inner_text())[1])
    assert said == pytest.approx(float(found.blocks[0].row(held)[(5 * 4 + 2) * 4 + 2]), rel=0.01)
    page.close()


@pytest.mark.parametrize(
    "view", [{}, {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}]
)
def test_nothing_is_cut_off_and_a_finger_chooses(browser, tmp_path, view):
    found = explain(network(), clip(8, 32), deletion=False)
    page = Page(browser, found, tmp_path, **view)
    assert page.tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    if view:
        page.tile(5).tap(position={"x": 2, "y": 2})
        check(page, found, found.blocks[1].nearest(5, 0, 0), 1)
    page.close()


def test_a_large_map_opens_and_answers_quickly(browser, tmp_path):
    """32 frames of 14 x 14: 2 s to open, 50 ms for a hover, by the page's own clock."""
    found = explain(network(), clip(32, 56), deletion=False, blocks=["res3.1_nonlocal"], most_bytes=8 << 20)
    assert found.blocks[0].size == (32, 14, 14)
    page = Page(browser, found, tmp_path)
    assert page.opened_s <= 2
    took = page.tab.evaluate(
        """async () => {
          const tiles = [...document.querySelectorAll("#frames .tile")], took = [];
          for (let k = 0; k < 60; k++) {
            const box = tiles[k % 32].getBoundingClientRect(), began = performance.now();
            tiles[k % 32].dispatchEvent(new PointerEvent("pointermove", { bubbles: true, pointerType: "mouse",
              clientX: box.left + (k * 7 % box.width), clientY: box.top + (k * 11 % box.height) }));
            took.push(performance.now() - began);
            await new Promise(requestAnimationFrame);
          }
          return took.sort((a, b) => a - b);
        }"""
    )
    (tmp_path / "took.json").write_text(json.dumps(took))
    assert took[len(took) // 2] <= 50
    page.close()
