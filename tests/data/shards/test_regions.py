"""Regions beside the shards and in a file of the user: of these videos, and of no others."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nlnet.data.regions.module import RegionDataModule
from nlnet.data.shards.manifest import Manifest, manifest_name
from nlnet.data.shards.regions.given import GivenRegions
from nlnet.data.shards.regions.stored import RegionManifest, regions_name, stored_regions
from nlnet.data.synthetic import meetings
from nlnet.errors import UserError

SIZE = meetings.SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("regions") / "whole"
    meetings.build(out, "charades", {"train": 48, "test": 48})
    return out


def manifest(folder: Path, split: str = "train") -> Manifest:
    path = folder / manifest_name("charades", split)
    return Manifest.from_json(path.read_text(), str(path))


def given(tmp_path: Path, key: str = "train000000", width: float = SIZE, height: float = SIZE, **frames: list) -> Path:
    path = tmp_path / "mine.json"
    named = {name.removeprefix("f"): boxes for name, boxes in frames.items()}
    path.write_text(json.dumps({key: {"width": width, "height": height, "frames": named}}))
    return path


def test_what_is_stored_is_what_was_drawn(folder: Path) -> None:
    stored = stored_regions(str(folder), "charades", ["train"])
    samples = manifest(folder).samples
    stored.check(samples, "here")
    for sample in samples[:5]:
        _, boxes = meetings.render("train", int(sample.key.removeprefix("train")))
        found = stored.of(sample.key)
        assert found.frames.tolist() == list(range(meetings.FRAMES))
        np.testing.assert_allclose(found.boxes.reshape(boxes.shape) * SIZE, boxes, atol=SIZE / 65535)


def test_a_batch_has_the_boxes_of_its_clips(folder: Path, tmp_path: Path) -> None:
    sizes = {"frames": 3, "stride": 1, "size": SIZE, "scale": (SIZE, SIZE), "flip": False, "region_frames": 3}
    sizes |= {"val_split": "test", "batch_size": 8, "num_workers": 0}
    data = RegionDataModule(str(folder), "charades", regions_per_frame=5, **sizes)
    for batch in data.val_dataloader():
        assert batch["boxes"].shape == (8, 3, 5, 4)
        for index, boxes in zip(batch["indices"].tolist(), batch["boxes"], strict=True):
            _, drawn = meetings.render("test", int(data.val_keys[index].removeprefix("test")))
            np.testing.assert_allclose(boxes[:, :4] * SIZE, drawn, atol=1e-3)
            assert not boxes[:, 4].any()
    mine = given(tmp_path, "test000003", f0=[[0, 10, 20, 30]])
    keys = {key: {"width": SIZE, "height": SIZE, "frames": {}} for key in data.train_keys}
    mine.write_text(json.dumps(json.loads(mine.read_text()) | keys))
    other = RegionDataModule(str(folder), "charades", regions=str(mine), **sizes)
    batch = next(iter(other.val_dataloader()))
    for index, boxes in zip(batch["indices"].tolist(), batch["boxes"], strict=True):
        listed = data.val_keys[index] == "test000003"
        assert boxes[:, 0].tolist() == ([[0.0, 0.25, 0.5, 0.75]] * 3 if listed else [[0.0] * 4] * 3)
    assert data.fingerprint()["val"]["keys"].equal(other.fingerprint()["val"]["keys"])
    assert not data.fingerprint()["val"]["content"].equal(other.fingerprint()["val"]["content"])
    assert data.digest() != other.digest()
    with pytest.raises(UserError, match=r"data\.region_frames=4: a clip has 3 frames"):
        RegionDataModule(str(folder), "charades", **(sizes | {"region_frames": 4}))


def test_regions_of_other_videos_are_refused(folder: Path, tmp_path: Path) -> None:
    samples = manifest(folder).samples
    stored = stored_regions(str(folder), "charades", ["train"])
    with pytest.raises(UserError, match=r"^here: the regions of train000001 are of another clip of that name"):
        stored.check([samples[0], replace(samples[1], crc32=7)], "here")
    with pytest.raises(UserError, match=r"^here: no regions of the video elsewhere; they are of other data"):
        stored.check([replace(samples[0], key="elsewhere")], "here")
    with pytest.raises(UserError, match=r"no kinetics-train-regions\.json there; python src/regions\.py"):
        stored_regions(str(folder), "kinetics", ["train"])
    shutil.copy(folder / regions_name("charades", "test"), tmp_path / regions_name("charades", "train"))
    with pytest.raises(UserError, match="it is of charades test, not of charades train"):
        stored_regions(str(tmp_path), "charades", ["train"])


def test_damaged_regions_are_noticed(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = next(broken.glob("charades-train-*.regions"))
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    sample = manifest(folder).samples[0]
    with pytest.raises(ValueError, match="the regions of train000000 are damaged"):
        stored_regions(str(broken), "charades", ["train"]).of(sample.key)
    file.write_bytes(content[:10])
    with pytest.raises(EOFError):
        stored_regions(str(broken), "charades", ["train"]).of(sample.key)


WHOLE = {"format": 1, "dataset": "a", "split": "a", "files": [], "videos": {}, "made": {}}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "no JSON",
        json.dumps(WHOLE | {"format": 2}),
        json.dumps(WHOLE | {"dataset": 3}),
        json.dumps(WHOLE | {"videos": {"k": [0, 0, 0, 0, 0]}}),
        json.dumps({key: value for key, value in WHOLE.items() if key != "files"}),
    ],
)
def test_what_is_no_manifest_of_regions_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^here: not a manifest of regions"):
        RegionManifest.from_json(text.encode(), "here")


NAN = float("nan")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"f0": [[10, 10, 5, 20]]}, r"train000000, frame 0: box 0: \[10, 10, 5, 20\] has no area; expected left, top"),
        ({"f0": [[1, 1, 2, 2], [1, 9, 20, 9]]}, r"frame 0: box 1: .* has no area"),
        ({"f2": [[NAN, 1, 2, 2]]}, r"frame 2: box 0: \[nan, 1, 2, 2\] are not all finite"),
        ({"f0": [[1, 1, SIZE + 5, 9]]}, rf"is outside of the {SIZE} x {SIZE} frame; clip it"),
        ({"f0": [[-3, 1, 5, 9]]}, r"is outside of the"),
        ({"f0": [[1, 2, 3]]}, r"are not the four numbers left, top, right, bottom"),
        ({"f0": [[1, 2, 3, "4"]]}, r"are not the four numbers"),
        ({"f0": {}}, r"frame 0: expected a list of boxes"),
        ({"fx": []}, r"frame 'x': expected its number"),
    ],
)
def test_what_is_no_box_is_refused_with_its_file(frames: dict, message: str, tmp_path: Path) -> None:
    path = given(tmp_path, **frames)
    with pytest.raises(UserError, match=message) as raised:
        GivenRegions(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_file_of_another_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    samples = manifest(folder).samples
    box = [[1, 1, 9, 9]]
    for what, message in (
        ({"key": "other", "f0": box}, r"none of its videos \(the first is other\) is in the data"),
        ({"f7": box}, r"train000000: boxes of frame 7, and the video has 3 frames; .* another clip"),
        ({"width": 80, "f0": box}, r"boxes are of a picture of 80 x 40, and the video has 40 x 40"),
        ({"width": 0, "f0": box}, r"width=0: expected the pixels"),
    ):
        path = given(tmp_path, **what)
        with pytest.raises(UserError, match=message):
            GivenRegions(path).check(samples, f"data.regions={path}")
    for text in ("[]", "{", '{"a": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"mine\.json"):
            GivenRegions(path)
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        GivenRegions(tmp_path / "nowhere.json")


def test_boxes_of_a_larger_picture_of_the_same_proportions_fit(folder: Path, tmp_path: Path) -> None:
    mine = GivenRegions(given(tmp_path, width=400, height=400, f1=[[100, 0, 200, 400]]))
    sample = manifest(folder).samples[0]
    mine.check([sample], "here")
    np.testing.assert_allclose(mine.of(sample.key).boxes, [[0.25, 0, 0.5, 1]])
