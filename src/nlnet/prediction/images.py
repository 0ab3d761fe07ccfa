"""What a detector sees in images, drawn on each of them, and as JSON."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from nlnet import limits
from nlnet.checkpoints.mismatch import check_outline, filled
from nlnet.data.batches.images import frame
from nlnet.data.media.images import ImageError, check_formats, upright_image
from nlnet.data.media.suffixes import IMAGE_FORMATS, READ_ALWAYS, image_suffixes
from nlnet.errors import UserError
from nlnet.evaluation.coco import encode_mask
from nlnet.limits import TooLarge
from nlnet.models.detection.build import build_detector
from nlnet.models.detection.resized import detect, scorers
from nlnet.models.finite import watched
from nlnet.prediction.drawing import draw
from nlnet.prediction.own_output import mark, pictures_folder, without_own
from nlnet.prediction.results import each_input, not_finite, write_results
from nlnet.reading import read_bytes
from nlnet.saving import replacing
from nlnet.text import say


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
            check_outline(partial(build_detector, **options), state, f"ckpt_path={path}")
            net = build_detector(**options)
        except TypeError as error:
            raise UserError(f"ckpt_path={path}: the network it names cannot be built: {error}") from error
        self.net = filled(net, state, f"ckpt_path={path}").to(device)

    @torch.inference_mode()
    def look(self, image: Image.Image, threshold: float) -> dict[str, Tensor] | None:
        """The objects that score at least `threshold`, in pixels of the image, the surest first.

        None where what the network says is not finite.
        """
        placed = frame(image.width, image.height, self.short_side, self.max_size, flip=False)
        pixels = placed.image(image).to(self.device).float() / 255
        bad: list[Tensor] = []
        with watched(scorers(self.net), bad.append):
            [found] = detect(self.net, [pixels], [(image.height, image.width)])
        if bad:
            return None
        kept = found["scores"] >= threshold
        return {name: value[kept].cpu() for name, value in found.items()}


def predict_images(cfg: DictConfig, file: Path, content: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What is in the images of `cfg.source`, as it is written to `cfg.out`, with a picture of each in a folder beside.

    Args:
        cfg: of configs/predict.yaml.
        file: the checkpoint of a detector.
        content: what is in it.
        device: where to compute.

    Raises UserError if no image can be read.
    """
    formats = check_formats(cfg.image_formats, "image_formats")
    pictures = pictures_folder(cfg.out, str(cfg.source))
    detector = Detector(content, str(file), device)

    def look(image_file: ImageFile) -> dict[str, Any]:
        image = upright_image(read_bytes(image_file.path, limits.SAMPLE), formats)
        found = detector.look(image, cfg.threshold)
        if found is None:
            raise not_finite(cfg, image_file.name)
        picture = pictures / f"{image_file.name}.png"
        drawn = draw(np.asarray(image), found, classes=detector.classes, skeleton=detector.skeleton, threshold=0)
        with replacing(picture) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(temporary, format="png", pnginfo=mark())
        record = _record(image_file.name, image, found, detector.classes) | {"picture": str(picture)}
        say(_line(record))
        return record

    inputs = without_own(find_images(Path(str(cfg.source)).expanduser(), formats), pictures, str(cfg.source))
    found = each_input(cfg, inputs, "image", look, (ImageError, TooLarge, OSError))
    return write_results(cfg, found, "detection", "images", f", pictures in {pictures}")


class ImageFile(NamedTuple):
    """An image by its name below the folder that was named."""

    name: str
    path: Path


def find_images(source: Path, formats: Sequence[str] = READ_ALWAYS) -> list[ImageFile]:
    """An image, or those of these formats in a folder and all its folders. Raises UserError where there are none."""
    if source.is_file():
        return [ImageFile(source.name, source)]
    files = [path for path in sorted(source.rglob("*")) if path.name[:2] != "._" and path.is_file()]  # macOS' shadows
    suffixes = image_suffixes(formats)
    found = [path for path in files if path.suffix.lower() in suffixes]
    if not found:
        what = "no image in it" if source.is_dir() else "there is no such file or folder"
        others = sorted({path.suffix.lower() for path in files} & image_suffixes(IMAGE_FORMATS))
        more = f"; for {', '.join(others)} set image_formats=[...]" if others else ""
        raise UserError(f"source={source}: {what}; images are {', '.join(sorted(suffixes))} files{more}")
    return [ImageFile(str(path.relative_to(source)), path) for path in found]


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
