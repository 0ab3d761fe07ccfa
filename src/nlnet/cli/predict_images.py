"""The images' part of `python src/predict.py`: what a detector sees, drawn on each image, and as JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, ImageOps
from torch import Tensor

from nlnet.data.image_batches import frame
from nlnet.data.images import ImageError, open_image
from nlnet.errors import UserError
from nlnet.evaluation.coco import encode_mask
from nlnet.evaluation.drawing import draw
from nlnet.models.detection import build_detector, detect

SUFFIXES = {".jpeg", ".jpg", ".png"}


class Detector:
    """The network of a checkpoint that `nlnet.tasks.DetectionTask` left, with what it was trained on."""

    def __init__(self, content: Mapping[str, Any], path: str, device: torch.device) -> None:
        settings = content["hyper_parameters"]
        self.classes: list[str] = list(content["classes"])
        self.skeleton: list[Sequence[int]] = list(content.get("skeleton", ()))
        data, model = settings["data"], settings["model"]
        self.short_side = int(data["eval_short_side"] or data["short_sides"][-1])
        self.max_size, self.device = int(data["max_size"]), device
        state = {key.removeprefix("net."): value for key, value in content["state_dict"].items() if key[:4] == "net."}
        points = state.get("roi_heads.keypoint_predictor.kps_score_lowres.bias", ())
        options = {key: value for key, value in model.items() if not key.startswith("_")}
        options |= {"num_classes": len(self.classes)} | ({"num_keypoints": len(points)} if len(points) else {})
        try:
            self.net = build_detector(**options)
            self.net.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise UserError(f"ckpt_path={path}: its weights are not those of the network it names: {error}") from error
        self.net.transform.resized = True
        self.net.to(device).eval()

    @torch.inference_mode()
    def look(self, image: Image.Image, threshold: float) -> dict[str, Tensor]:
        """The objects that score at least `threshold`, in pixels of the image, the surest first."""
        placed = frame(image.width, image.height, self.short_side, self.max_size, flip=False)
        pixels = placed.image(image).to(self.device).float() / 255
        [found] = detect(self.net, [pixels], [(image.height, image.width)])
        kept = found["scores"] >= threshold
        return {name: value[kept].cpu() for name, value in found.items()}


def predict_images(cfg: DictConfig, content: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What is in the images of `cfg.source`, as it is written to `cfg.out`, with a picture of each in a folder beside.

    Raises UserError if none can be read.
    """
    detector, out = Detector(content, str(cfg.ckpt_path), device), Path(cfg.out)
    pictures, source = out.with_suffix(""), Path(str(cfg.source)).expanduser()
    images: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for path in islice(find_images(source), cfg.limit):
        name = str(path.relative_to(source)) if source.is_dir() else path.name
        try:
            image = upright(path.read_bytes())
        except (ImageError, OSError) as error:
            cause = getattr(error, "cause", "unreadable")
            failures.append({"name": name, "cause": cause, "message": str(error)})
            continue
        found = detector.look(image, cfg.threshold)
        picture = pictures / f"{name}.png"
        images.append(_record(name, image, found, detector.classes) | {"picture": str(picture)})
        drawn = draw(np.asarray(image), found, classes=detector.classes, skeleton=detector.skeleton, threshold=0)
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(picture)
        print(_line(images[-1]), flush=True)
    if failures:
        named = ", ".join(f"{failure['name']} ({failure['cause']})" for failure in failures)
        print(f"{len(failures)} of {len(images) + len(failures)} images could not be read: {named}", file=sys.stderr)
    if not images:
        raise UserError(f"source={cfg.source}: no image could be read")
    result = {"checkpoint": str(cfg.ckpt_path), "source": str(cfg.source), "kind": "detection", "images": images}
    out.write_text(json.dumps(result | {"failures": failures}, indent=2) + "\n")
    print(f"written: {out}, pictures in {pictures}")
    return result | {"failures": failures}


def find_images(source: Path) -> list[Path]:
    """An image, or those in a folder and all folders below it. Raises UserError where there are none."""
    if source.is_file():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        what = "no image in it" if source.is_dir() else "there is no such file or folder"
        raise UserError(f"source={source}: {what}; a detector looks at {', '.join(sorted(SUFFIXES))} files")
    return found


def upright(data: bytes) -> Image.Image:
    """The image in RGB as it is meant to be seen: turned as its EXIF says. Raises ImageError."""
    try:
        return ImageOps.exif_transpose(open_image(data)).convert("RGB")
    except (OSError, SyntaxError, EOFError) as error:
        raise ImageError("undecodable", str(error)) from error


def _record(name: str, image: Image.Image, found: Mapping[str, Tensor], classes: Sequence[str]) -> dict[str, Any]:
    """An image and its objects, in COCO's terms: boxes x, y, width, height; masks as run lengths."""
    objects = []
    for k, label in enumerate(found["labels"].tolist()):
        x1, y1, x2, y2 = (round(value, 2) for value in found["boxes"][k].tolist())
        one: dict[str, Any] = {"class": classes[label - 1], "score": round(float(found["scores"][k]), 4)}
        one["box"] = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
        if "masks" in found:
            one["segmentation"] = encode_mask(found["masks"][k, 0] >= 0.5)
        if "keypoints" in found:
            one["keypoints"] = [[round(x, 2), round(y, 2)] for x, y, _ in found["keypoints"][k].tolist()]
        objects.append(one)
    return {"name": name, "width": image.width, "height": image.height, "objects": objects}


def _line(record: Mapping[str, Any]) -> str:
    names = ", ".join(f"{one['class']} {one['score']:.2f}" for one in record["objects"][:8])
    more = f", and {len(record['objects']) - 8} more" if len(record["objects"]) > 8 else ""
    return f"{record['name']}: {names or 'nothing'}{more}"
