"""Small detectors, and batches of images made by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from nlnet.models.detection.build import build_detector
from nlnet.tasks.detection import DetectionTask

CATEGORY_IDS = (1, 4, 9)
SIGMAS = (0.1, 0.05, 0.2)


def demo_net(kind: str = "mask", **options: Any) -> Any:
    """A new demo network for three classes and three keypoints."""
    torch.manual_seed(0)
    settings = {"num_classes": 3, "num_keypoints": 3, "norm": "batch", "trainable_stages": 5} | options
    return build_detector(f"{kind}_rcnn", "demo", **settings)


def target(image_id: int, boxes: list[list[float]], labels: list[int], size: int = 64) -> dict[str, Any]:
    """The target of a square image of `size`: rectangles as masks, keypoints on the diagonal."""
    boxes_n4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes_n4.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    steps = torch.tensor([0.25, 0.5, 0.75])[None, :, None]
    points = boxes_n4[:, None, :2] + steps * (boxes_n4[:, None, 2:] - boxes_n4[:, None, :2])
    return {
        "boxes": boxes_n4,
        "labels": torch.tensor(labels, dtype=torch.long),
        "masks": masks,
        "keypoints": torch.cat([points, torch.full((len(boxes), 3, 1), 2.0)], 2),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.long),
        "area": (boxes_n4[:, 2] - boxes_n4[:, 0]) * (boxes_n4[:, 3] - boxes_n4[:, 1]),
        "image_id": image_id,
        "orig_size": (size, size),
        "scale": 1.0,
    }


def images(count: int, size: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8) for _ in range(count)]


def batch(weights: list[float]) -> dict[str, Any]:
    """Two objects in every image with weight 1, an empty image of zeros in the other slots."""
    pictures = images(len(weights))
    targets = []
    for k, weight in enumerate(weights):
        targets.append(target(k + 11, [[4, 6, 40, 50], [20, 30, 60, 60]], [1, 3]) if weight else target(-1, [], []))
        pictures[k] = pictures[k] if weight else torch.zeros_like(pictures[k])
    return {
        "images": pictures,
        "targets": targets,
        "weights": torch.tensor(weights),
        "padding": torch.zeros(len(weights), dtype=torch.bool),
        "indices": torch.arange(len(weights)),
        "failures": [(f"image{k}", "truncated") for k, weight in enumerate(weights) if not weight],
    }


def task(net: Any, world_size: int = 1, ground_truth: Any = None) -> DetectionTask:
    """The task around `net`, with a trainer that is just a number of processes."""
    made = DetectionTask(
        net,
        "detection",
        monitor="val/box_AP",
        classes="abc",
        category_ids=CATEGORY_IDS,
        ground_truth=ground_truth,
        optimizer=None,
        schedule=None,
        sigmas=SIGMAS,
    )
    made._trainer = SimpleNamespace(world_size=world_size, global_step=7, is_global_zero=True, sanity_checking=False)
    made.logged = {}
    made.log = lambda name, value, **_: made.logged.update({name: float(value)})
    made.log_dict = lambda values, **_: made.logged.update({name: float(value) for name, value in values.items()})
    return made


_MODEL = {
    "_target_": "nlnet.models.detection.build.build_detector",
    "backbone": "demo",
    "norm": "batch",
    "trainable_stages": 5,
    "nonlocal_blocks": 1,
}
_TASK = {"_target_": "nlnet.tasks.detection.DetectionTask", "kind": "detection"}
_DATA = {"short_sides": [48, 64], "eval_short_side": None, "max_size": 96}


def save_detector(path: Path, kind: str) -> Any:
    """A checkpoint as a run leaves it, of a new network, which is returned."""
    net = demo_net(kind, nonlocal_blocks=1)
    settings = {"model": _MODEL | {"name": f"{kind}_rcnn"}, "data": _DATA, "task": _TASK}
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    more = {"classes": ["cat", "dog", "bird"], "skeleton": [[0, 1], [1, 2]]}
    torch.save({"state_dict": state, "hyper_parameters": settings, **more}, path)
    return net.eval()
