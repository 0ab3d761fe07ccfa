"""Detectors on images from the command line: the figures, the pictures, and what cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.coco import TURN_LEFT, write_image
from helpers.detection import save_detector
from nlnet.cli.predict import main
from nlnet.data.annotations.coco_masks import rle_mask
from nlnet.models.detection.resized import detect


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_objects_are_those_of_the_network_in_pixels_of_the_image(
    tmp_path: Path, command: Callable[..., Any], kind: str
) -> None:
    net = save_detector(tmp_path / "x.ckpt", kind)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_image(tmp_path / "in" / "a.png", 128, 96, 1)
    write_image(tmp_path / "in" / "deep" / "a.jpg", 60, 90, 2, mode="L", orientation=TURN_LEFT)
    (tmp_path / "in" / "b.jpg").write_bytes(b"no image")
    out = tmp_path / "out" / "found.json"
    arguments = f"ckpt_path={tmp_path / 'x.ckpt'}", f"source={tmp_path / 'in'}", f"out={out}", "device=cpu"
    code, _, err = command(main, *arguments, "threshold=0.0")
    assert code == 0, err
    assert "1 of 3 images could not be read: b.jpg (undecodable)" in err
    content = json.loads(out.read_text())
    assert content["kind"] == "detection"
    assert [(row["name"], row["width"], row["height"]) for row in content["images"]] == [
        ("a.png", 128, 96),
        ("deep/a.jpg", 90, 60),  # upright, as people see it
    ]
    for row in content["images"]:
        drawn = np.asarray(Image.open(row["picture"]))
        assert drawn.shape == (row["height"], row["width"], 3)
    image = Image.open(tmp_path / "in" / "a.png").convert("RGB").resize((85, 64), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        [wanted] = detect(net, [pixels], [(96, 128)])
    objects = content["images"][0]["objects"]
    assert len(objects) == len(wanted["scores"]) > 0
    assert [one["class"] for one in objects] == [["cat", "dog", "bird"][label - 1] for label in wanted["labels"]]
    assert [one["score"] for one in objects] == pytest.approx(wanted["scores"].tolist(), abs=1e-4)
    for one, box in zip(objects, wanted["boxes"].tolist(), strict=True):
        x, y, width, height = one["box"]
        assert [x, y, x + width, y + height] == pytest.approx(box, abs=0.02)
    if kind == "mask":
        for one, mask in zip(objects, wanted["masks"], strict=True):
            assert np.array_equal(rle_mask(one["segmentation"]), (mask[0] >= 0.5).numpy())
    else:
        points = [[point[:2] for point in rows] for rows in wanted["keypoints"].tolist()]
        assert np.array([one["keypoints"] for one in objects]) == pytest.approx(np.array(points), abs=0.01)
    assert not np.array_equal(np.asarray(Image.open(content["images"][0]["picture"])),
                              np.asarray(Image.open(tmp_path / "in" / "a.png")))  # fmt: skip


def test_what_cannot_be_done(tmp_path: Path, command: Callable[..., Any]) -> None:
    save_detector(tmp_path / "x.ckpt", "mask")
    ckpt, out = f"ckpt_path={tmp_path / 'x.ckpt'}", f"out={tmp_path / 'found.json'}"
    (tmp_path / "in").mkdir()
    for source, words in (
        (tmp_path / "in", "no image in it; images are .jfif, .jpe, .jpeg, .jpg, .mpo, .png files"),
        (tmp_path / "gone", "there is no such file or folder"),
        (tmp_path / "x.ckpt", "no image could be read"),
    ):
        code, _, err = command(main, ckpt, f"source={source}", out, "device=cpu")
        assert code == 1
        assert words in err
        assert "Traceback" not in err
    assert not (tmp_path / "found.json").exists()
    write_image(tmp_path / "in" / "a.png", 64, 48, 1)
    code, said, _ = command(main, ckpt, f"source={tmp_path / 'in'}", out, "device=cpu", "threshold=0.99")
    assert code == 0
    assert said.startswith("a.png: nothing\n")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    del content["state_dict"]["net.rpn.head.cls_logits.bias"]
    torch.save(content, tmp_path / "x.ckpt")
    code, _, err = command(main, ckpt, f"source={tmp_path / 'in'}", out, "device=cpu")
    assert code == 1
    assert "its weights are not those of the network it names" in err


def test_pictures_of_a_prediction_are_no_images_to_look_at(tmp_path: Path, command: Callable[..., Any]) -> None:
    """Whichever prediction drew them, and wherever they were moved to."""
    save_detector(tmp_path / "x.ckpt", "mask")
    folder = tmp_path / "in"
    folder.mkdir()
    write_image(folder / "a.png", 64, 48, 1)
    common = f"ckpt_path={tmp_path / 'x.ckpt'}", f"source={folder}", "device=cpu"
    for out in ("found.json", "found.json", "again.json"):  # all within the folder
        code, said, err = command(main, *common, f"out={folder / out}")
        assert code == 0, err
        assert [row["name"] for row in json.loads((folder / out).read_text())["images"]] == ["a.png"]
    assert "left out: 1 pictures that a prediction drew, such as found/a.png.png" in said
    (folder / "again" / "a.png.png").rename(folder / "moved.png")
    (folder / "found" / "b.png").write_bytes((folder / "a.png").read_bytes())  # anybody's, where this one draws
    code, said, _ = command(main, *common, f"out={folder / 'found.json'}")
    assert "left out: 3 pictures" in said
    for source in (folder / "moved.png", folder / "again.json", folder / "found"):
        code, _, err = command(main, common[0], f"source={source}", "device=cpu", f"out={folder / 'other.json'}")
        assert code == (0 if source.name == "found" else 1)  # b.png is an image there
        if source.name == "moved.png":
            assert "nothing but pictures that a prediction drew; give the images themselves" in err


@pytest.mark.parametrize(
    ("out", "words"),
    [("in/a.png", "would replace an image or a video"), ("in.json", "among the images to look at; give another out")],
)
def test_results_replace_no_image(out: str, words: str, tmp_path: Path, command: Callable[..., Any]) -> None:
    save_detector(tmp_path / "x.ckpt", "mask")
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", 64, 48, 1)
    before = (tmp_path / "in" / "a.png").read_bytes()
    ckpt, source = f"ckpt_path={tmp_path / 'x.ckpt'}", f"source={tmp_path / 'in'}"
    code, _, err = command(main, ckpt, source, f"out={tmp_path / out}", "device=cpu")
    assert code == 1
    assert words in err
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.png"]
    assert (tmp_path / "in" / "a.png").read_bytes() == before
