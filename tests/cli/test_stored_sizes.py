"""From videos of 640 x 480 to what the recipes cut from their shards, with the command of the README."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from nlnet.cli.prepare import main as prepare
from nlnet.cli.train import main as train
from nlnet.config.compose import compose
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.clip_transforms import random_crop
from nlnet.data.media.encode import encode_frames
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.prepare.settings import Settings
from nlnet.runs.build import make_data

WIDTH, HEIGHT, FRAMES = 640, 480, 4
SIZE, LOW, HIGH = 288, 329, 411  # of charades_nl: 256 to 320 x 288 / 224
SOURCE_PIXELS = 320  # that a crop takes at least
WARNING = "training videos are stored with a short side of less than the 329 pixels of data.scale"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder as the README asks for it."""
    folder = tmp_path / "Charades"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT // 16, WIDTH // 16, 3), np.uint8)
    video = encode_frames(images.repeat(16, 1).repeat(16, 2), 24.0)
    for split, names in (("train", ("AAAAA", "BBBBB")), ("test", ("CCCCC",))):
        rows = "".join(f"{name},c001 0 1,1\n" for name in names)
        (folder / f"Charades_v1_{split}.csv").write_text(f"id,actions,length\n{rows}")
        for name in names:
            (folder / f"{name}.mp4").write_bytes(video)
    return folder


def from_readme(source: Path, out: Path) -> list[str]:
    """The arguments of the README's command for Charades, with these folders in place of its own."""
    lines = (ROOT / "README.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("python src/prepare.py dataset=charades "))
    places = {"/data/Charades": str(source), "/data/shards/charades": str(out)}
    words = [word.partition("=") for word in shlex.split(line)[2:]]
    return [f"{key}={places.get(value, value)}" for key, _, value in words]


def module(shards: Path) -> ClipDataModule:
    frames = [f"data.frames={FRAMES}", "data.batch_size=2", "data.num_workers=0"]
    return make_data(compose(["experiment=charades_nl", f"data.shards={shards}", *frames]))


def crops(data: ClipDataModule) -> tuple[int, int]:
    """The smallest and the largest side in stored pixels that the recipe cuts, from the manifest's sizes."""
    rng, sizes = np.random.default_rng(0), {(s.height, s.width) for s in data.train.samples}
    sides = [random_crop(*size, SIZE, (LOW, HIGH), True, rng).side for size in sizes for _ in range(2000)]
    return min(sides), max(sides)


def test_charades_as_the_readme_prepares_it(command: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    code, _, err = command(prepare, *from_readme(source, out))
    assert code == 0, err
    data = module(out)
    assert {(s.width, s.height) for s in [*data.train.samples, *data.val.samples]} == {(548, 412)}  # even sides
    assert crops(data) == (289, 361)  # 288 x 412 / 411 to 288 x 412 / 329: nothing is enlarged
    assert min(crops(data)) * HEIGHT / 412 >= SOURCE_PIXELS
    batches = data.batches(RankSlice(2), train=True)
    cut = [clip.shape[1] for epoch in range(5) for clip in batches[epoch, 0]["clips"]]
    assert all(SIZE <= side <= 361 for side in cut)
    assert data.remarks == []


def test_shards_that_are_too_small_are_named_once(command: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    code, _, err = command(prepare, *from_readme(source, out), "short_side=288")
    assert code == 0, err
    data = module(out)
    assert crops(data) == (202, 252)
    assert data.remarks == [
        f"2 of 2 {WARNING}, most of them 288: of these, crops of 202 to 252 pixels are enlarged to 288. If their files"
        " are larger, prepare them again with short_side=411"
    ]
    code, said, err = command(
        train,
        *("experiment=charades_nl", "size=demo", f"data.shards={out}", f"paths.log_dir={tmp_path}/logs"),
        *("data.scale=[329,411]", "data.batch_size=2", "data.eval_batch_size=1", "data.num_workers=0"),
        *("trainer.max_epochs=1", "callbacks.progress=null"),
    )
    assert code == 0, err
    assert (said + err).count(WARNING) == 1


@pytest.mark.parametrize(
    ("dataset", "given", "stored"),
    [("charades", None, 411), ("kinetics", None, 288), ("charades", 300, 300), ("kinetics", 411, 411)],
)
def test_the_stored_side_follows_the_data_set(dataset: str, given: int | None, stored: int) -> None:
    settings = Settings(dataset, "out", Path(), Path(), short_side=given)
    assert (settings.stored_side, settings.choices(images=False)["short_side"]) == (stored, stored)
