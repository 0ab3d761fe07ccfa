"""A real photograph with its annotations, from COCO's file to shards, to a network that knows it by heart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.ops import MultiScaleRoIAlign

from nlnet.cli.predict import main as predict
from nlnet.cli.prepare import main as prepare
from nlnet.cli.train import main as train
from nlnet.data.annotations.coco_masks import polygon_mask, rle_mask
from nlnet.models.detection import build as detection

STEPS, SIDE = 150, 192
SETTINGS = (
    "size=demo",
    "data.train_split=coco_785",
    "data.val_split=coco_785",
    "data.batch_size=1",
    "data.eval_batch_size=1",
    "data.num_workers=0",
    f"data.short_sides=[{SIDE}]",
    f"data.eval_short_side={SIDE}",
    f"data.max_size={2 * SIDE}",
    "data.flip=false",
    f"trainer.max_epochs={STEPS}",
    "trainer.val_check_interval=null",
    f"trainer.check_val_every_n_epoch={STEPS}",
)


@pytest.fixture
def fine_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo network with masks of 28 x 28, as the full networks have them; its own are half as fine."""
    coarse = detection.demo_parts

    def fine(kind: str, *sizes: int) -> dict[str, Any]:
        parts = coarse(kind, *sizes)
        return parts | ({"mask_roi_pool": MultiScaleRoIAlign(list("0123"), 14, 2)} if kind == "mask" else {})

    monkeypatch.setattr(detection, "demo_parts", fine)


@pytest.mark.full
@pytest.mark.usefixtures("fine_masks")
@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_image_785_is_learnt_by_heart(media: Path, tmp_path: Path, command: Callable[..., Any], kind: str) -> None:
    source, shards, run = media / "image", tmp_path / "shards", tmp_path / "run"
    annotations = json.loads((source / "coco_785.json").read_text())["annotations"]
    listed = f"annotations={source / 'coco_785.json'}"
    code, said, err = command(prepare, "dataset=coco", f"source={source}", listed, f"out={shards}")
    assert code == 0, err
    assert said.startswith("coco coco_785: 1 images in 1 shard")
    code, _, err = command(
        train, f"experiment=coco_{kind}_nl", f"data.shards={shards}", f"paths.run_dir={run}", *SETTINGS
    )
    assert code == 0, err
    best = json.loads((run / "summary.json").read_text())["metrics"]
    if kind == "mask":
        assert best["val/box_AP"] >= 0.99
        assert best["val/mask_AP"] >= 0.9 - 1e-6  # logged in float32; a mask of 28 x 28 allows no more on this image
    else:
        assert best["val/box_AP"] >= 0.99
        assert best["val/keypoint_AP"] >= 0.99

    photo, out = source / "000000000785.jpg", tmp_path / "found.json"
    code, said, err = command(predict, f"ckpt_path={run}", f"source={photo}", f"out={out}", "device=cpu")
    assert code == 0, err
    [image] = json.loads(out.read_text())["images"]
    assert said.startswith(f"000000000785.jpg: person {image['objects'][0]['score']:.2f}\n")
    [person] = image["objects"]
    assert person["box"] == pytest.approx(annotations[0]["bbox"], abs=8)
    if kind == "mask":
        mask = polygon_mask(annotations[0]["segmentation"], 425, 640).astype(bool)
        found = rle_mask(person["segmentation"]).astype(bool)
        assert (mask & found).sum() / (mask | found).sum() >= 0.9
    else:
        points = np.array(annotations[0]["keypoints"]).reshape(-1, 3)[:, :2]
        assert np.abs(np.array(person["keypoints"]) - points).mean() < 5
    drawn, original = np.asarray(Image.open(image["picture"])), np.asarray(Image.open(photo))
    assert drawn.shape == original.shape
    assert (drawn != original).any(-1).sum() > 300
