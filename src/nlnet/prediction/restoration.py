"""Images as a denoiser restores them, each as a picture, and a list of them as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from nlnet import limits
from nlnet.checkpoints.pretrained import saved
from nlnet.data.media.images import ImageError, check_formats
from nlnet.data.restoration.pixels import read_pixels
from nlnet.limits import TooLarge
from nlnet.models.restoration.denoiser import Denoiser
from nlnet.models.restoration.tiles import restore
from nlnet.prediction.images import ImageFile, find_images
from nlnet.prediction.own_output import mark, pictures_folder, without_own
from nlnet.prediction.results import each_input, not_finite, write_results
from nlnet.reading import read_bytes
from nlnet.saving import replacing
from nlnet.text import say


class Restorer:
    """The network of a checkpoint that `nlnet.tasks.restoration` left, with the tiles it was evaluated in."""

    def __init__(self, content: Mapping[str, Any], file: Path, device: torch.device) -> None:
        task = content["hyper_parameters"]["task"]
        self.net = cast(Denoiser, saved(content, file).build().to(device))
        self.channels = self.net.channels
        self.tile, self.overlap, self.device = task["tile"], task["overlap"], device

    @torch.inference_mode()
    def restored(self, pixels: np.ndarray) -> np.ndarray | None:
        """The image (3, H, W) uint8, or (1, H, W); None where what the network says is not finite.

        A network for gray images restores the channels of color one by one.
        """
        images = torch.from_numpy(pixels).to(self.device).float()[None] / 255
        if self.channels == 1:
            images = images.transpose(0, 1)
        found = restore(self.net, images, tile=self.tile, overlap=self.overlap)
        if not found.isfinite().all():
            return None
        if self.channels == 1:
            found = found.transpose(0, 1)
        return (found[0].clamp(0, 1) * 255).round().byte().cpu().numpy()


def predict_restored(cfg: DictConfig, file: Path, content: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The images of `cfg.source`, restored, in a folder beside `cfg.out`, where they are listed.

    Args:
        cfg: of configs/predict.yaml.
        file: the checkpoint of a denoiser.
        content: what is in it.
        device: where to compute.

    Raises UserError if no image can be read.
    """
    formats = check_formats(cfg.image_formats, "image_formats")
    pictures = pictures_folder(cfg.out, str(cfg.source))
    restorer = Restorer(content, file, device)

    def look(image_file: ImageFile) -> dict[str, Any]:
        data = read_bytes(image_file.path, limits.SAMPLE)
        pixels = read_pixels(data, 3, formats)
        if gray := bool((pixels == pixels[:1]).all()):
            pixels = pixels[:1] if restorer.channels == 1 else pixels
        found = restorer.restored(pixels)
        if found is None:
            raise not_finite(cfg, image_file.name)
        picture = pictures / f"{image_file.name}.png"
        shown = Image.fromarray(found[0] if gray else found.transpose(1, 2, 0))
        with replacing(picture) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            shown.save(temporary, format="png", pnginfo=mark())
        change = float(np.sqrt(np.mean((found.astype(float) - pixels) ** 2)))
        say(f"{image_file.name}: changed by {change:.1f} levels")
        height, width = pixels.shape[1:]
        return {"name": image_file.name, "width": width, "height": height, "change": change, "picture": str(picture)}

    inputs = without_own(find_images(Path(str(cfg.source)).expanduser(), formats), pictures, str(cfg.source))
    found = each_input(cfg, inputs, "image", look, (ImageError, TooLarge, OSError))
    return write_results(cfg, found, "restoration", "images", f", pictures in {pictures}")
