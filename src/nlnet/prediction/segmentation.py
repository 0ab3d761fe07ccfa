"""The class of every pixel of images: as masks of ids, as pictures with a legend, and as JSON."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, ImageDraw
from torch import Tensor

from nlnet import limits
from nlnet.checkpoints.pretrained import saved
from nlnet.data.media.images import ImageError, check_formats, upright_image
from nlnet.data.segmentation.crops import resized_size
from nlnet.data.segmentation.masks import check_picture
from nlnet.limits import TooLarge
from nlnet.models.segmentation.inference import Views, labels, scores
from nlnet.prediction.images import ImageFile, find_images
from nlnet.prediction.own_output import mark, pictures_folder, without_own
from nlnet.prediction.results import each_input, not_finite, write_results
from nlnet.reading import read_bytes
from nlnet.saving import replacing
from nlnet.text import say

_STRENGTH = 0.6  # of a class's color over the image
_LINE, _SWATCH = 14, 10  # pixels of the legend


class MaskPredictor:
    """The network of a checkpoint that `nlnet.tasks.segmentation` left, with what it was trained on."""

    def __init__(self, content: Mapping[str, Any], file: Path, device: torch.device) -> None:
        settings = content["hyper_parameters"]
        self.classes: list[str] = list(content["classes"])
        task = settings["task"]
        self.scale = tuple(settings["data"]["scale"])
        window, stride = (None if task[key] is None else tuple(task[key]) for key in ("window", "stride"))
        self.views = Views(window, stride, tuple(task["scales"]), bool(task["flip"]))
        self.net, self.device = saved(content, file).build().to(device), device

    def pixels(self, image: Image.Image) -> Tensor:
        """The image as it is looked at: (3, H, W) uint8."""
        size = resized_size(image.width, image.height, self.scale)
        return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR))).permute(2, 0, 1)

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network is given for them: (1, 3, H, W)."""
        return pixels[None].to(self.device).float() / 255

    @torch.inference_mode()
    def look(self, image: Image.Image) -> np.ndarray | None:
        """The labels (H, W) uint8 at the pixels of the image; None where what the network says is not finite."""
        found = scores(self.net, self.inputs(self.pixels(image)), self.views)
        if not found.isfinite().all():
            return None
        return labels(found, (image.height, image.width))[0].cpu().numpy()


def predict_masks(cfg: DictConfig, file: Path, content: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The classes in the images of `cfg.source`, as it is written to `cfg.out`, with pictures in a folder beside.

    Args:
        cfg: of configs/predict.yaml.
        file: the checkpoint of a network for segmentation.
        content: what is in it.
        device: where to compute.

    Raises UserError if no image can be read.
    """
    formats = check_formats(cfg.image_formats, "image_formats")
    pictures = pictures_folder(cfg.out, str(cfg.source))
    predictor = MaskPredictor(content, file, device)

    def look(image_file: ImageFile) -> dict[str, Any]:
        data = read_bytes(image_file.path, limits.SAMPLE)
        check_picture(data, formats)
        image = upright_image(data, formats)
        found = predictor.look(image)
        if found is None:
            raise not_finite(cfg, image_file.name)
        picture, mask = (pictures / f"{image_file.name}{end}" for end in (".png", ".mask.png"))
        _save(Image.fromarray(overlay(np.asarray(image), found, predictor.classes)), picture)
        _save(palette_image(found), mask)
        record = _record(image_file.name, found, predictor.classes)
        say(f"{image_file.name}: {', '.join(f'{k} {share:.0%}' for k, share in list(record['classes'].items())[:5])}")
        return record | {"picture": str(picture), "mask": str(mask)}

    inputs = without_own(find_images(Path(str(cfg.source)).expanduser(), formats), pictures, str(cfg.source))
    found = each_input(cfg, inputs, "image", look, (ImageError, TooLarge, OSError))
    return write_results(cfg, found, "segmentation", "images", f", pictures and masks in {pictures}")


def class_color(label: int) -> tuple[int, int, int]:
    """The color of a label, far in hue from those of its neighbors: a golden section of the circle apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65 if label % 2 else 0.9, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def palette_image(labels_HW: np.ndarray) -> Image.Image:
    """A palette image whose indices are the labels: what VOC's masks are, and a plain folder's may be."""
    image = Image.fromarray(labels_HW)
    image.putpalette([channel for label in range(256) for channel in class_color(label)])
    return image


def overlay(pixels_HWC: np.ndarray, labels_HW: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The image with the colors of the classes over it, and below it which color is which, the most frequent first."""
    colors = np.array([class_color(label) for label in range(256)])
    mixed = (1 - _STRENGTH) * pixels_HWC + _STRENGTH * colors[labels_HW]
    legend = _legend([label for label, _ in _by_size(labels_HW)], classes, pixels_HWC.shape[1])
    return np.concatenate([np.rint(mixed).astype(np.uint8), legend])


def _legend(shown: Sequence[int], classes: Sequence[str], width: int) -> np.ndarray:
    """(H, width, 3) uint8: a swatch and a name for each class, in as many lines as they need."""
    places: list[tuple[int, int]] = []
    x = line = 0
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    for label in shown:
        needed = _SWATCH + 4 + int(pen.textlength(classes[label])) + 8
        if x and x + needed > width:
            x, line = 0, line + 1
        places.append((x + 2, line * _LINE + 2))
        x += needed
    sheet = Image.new("RGB", (width, (line + 1) * _LINE + 2), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for label, (left, top) in zip(shown, places, strict=True):
        pen.rectangle([left, top, left + _SWATCH, top + _SWATCH], fill=class_color(label))
        pen.text((left + _SWATCH + 4, top - 1), classes[label], fill=(0, 0, 0))
    return np.asarray(sheet)


def _by_size(labels_HW: np.ndarray) -> list[tuple[int, int]]:
    """The labels that are there with their pixels, the most frequent first."""
    found, counts = np.unique(labels_HW, return_counts=True)
    return sorted(zip(found.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])


def _record(name: str, labels_HW: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """An image, and the fraction of its pixels that each class has."""
    shares = {classes[label]: round(count / labels_HW.size, 4) for label, count in _by_size(labels_HW)}
    return {"name": name, "width": labels_HW.shape[1], "height": labels_HW.shape[0], "classes": shares}


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        image.save(temporary, format="png", pnginfo=mark())
