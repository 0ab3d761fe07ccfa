"""`explain`: the attention of a checkpoint's network in one clip or image, as a page, pictures and numbers."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from nlnet import limits
from nlnet.attention.capture import find_blocks
from nlnet.attention.explanation import Explanation, explain
from nlnet.attention.pictures import figure, heat_video, sharpest
from nlnet.attention.source import ClipInput, find_clip
from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.pretrained import checkpoint_file
from nlnet.config.instantiate import import_modules
from nlnet.data.batches.images import frame
from nlnet.data.media.images import ImageError, upright_image
from nlnet.errors import UserError
from nlnet.prediction.images import Detector, find_images
from nlnet.prediction.predict import best_device, task_of
from nlnet.prediction.segmentation import MaskPredictor
from nlnet.prediction.videos import recognizer
from nlnet.reading import read_bytes
from nlnet.saving import write_bytes
from nlnet.text import say

_CHEAP_S = 3.0  # of one pass of the network; the deletion test takes ten


def explain_source(cfg: DictConfig) -> Explanation:
    """What the network of `cfg.ckpt_path` attends to in `cfg.source`, written to the folder `cfg.out`.

    Raises UserError where the network has no non-local block, or nothing can be read.
    """
    file = checkpoint_file(Path(cfg.ckpt_path).expanduser())
    content = read_file(file, "ckpt_path=")
    import_modules(cfg.imports, cfg.allow_targets)
    device = torch.device(cfg.device or best_device())
    blocks = [cfg.blocks] if isinstance(cfg.blocks, str) else list(cfg.blocks) if cfg.blocks else None
    most = round(cfg.most_mb * (1 << 20))
    if (task := task_of(content)) in _IMAGES:
        found = _of_image(cfg, _IMAGES[task](content, file, device), blocks, most)
    elif task in _WITHOUT:
        raise UserError(f"ckpt_path={file}: {_WITHOUT[task]} has no page; explain shows {_SHOWN}")
    else:
        network, names = recognizer(cfg, file, content, device, as_trained=True)
        find_blocks(network.net, blocks)  # before anything is decoded
        clip = find_clip(str(cfg.source), cfg.key, cfg.split, cfg.start, network.geometry, network.side, network.scale)
        found = explain(
            network.net,
            clip.inputs,
            classes=names,
            kind=network.kind,
            blocks=blocks,
            title=clip.name,
            seconds=clip.seconds,
            most_bytes=most,
            deletion=_deletes(cfg, network.net, clip),
        )
    _write(cfg, found)
    return found


def _write(cfg: DictConfig, found: Explanation) -> None:
    chosen = {block.name: block for block in found.blocks}
    block = chosen[cfg.block] if cfg.block in chosen else found.blocks[-1]
    if cfg.block not in (None, *chosen):
        raise UserError(f"block={cfg.block}: the blocks that were looked at are {', '.join(chosen)}")
    number = sharpest(block) if cfg.position is None else block.nearest(*_position(cfg, block.size))
    folder = found.save(cfg.out)
    write_bytes(folder / "explain.png", figure(found.frames, block, number, cfg.links))
    written = ["explain.html", "explain.png", "explain.json"]
    if len(found.frames) > 1:
        times = found.seconds
        fps = (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else 8.0
        write_bytes(folder / "explain.mp4", heat_video(found.frames, block, number, min(max(fps, 1.0), 60.0)))
        written.append("explain.mp4")
    for line in _lines(found):
        say(line)
    say(f"written: {folder}: {', '.join(written)}")


def _position(cfg: DictConfig, size: tuple[int, int, int]) -> tuple[int, int, int]:
    given: list[Any] = [cfg.position] if isinstance(cfg.position, str | int) else list(cfg.position)
    if len(given) != 3 or not all(type(x) is int and 0 <= x < n for x, n in zip(given, size, strict=False)):
        raise UserError(f"position={given}: give [frame, row, column] within the block's map of {list(size)}")
    return given[0], given[1], given[2]


def _deletes(cfg: DictConfig, net: nn.Module, clip: ClipInput) -> bool:
    """Whether the deletion test is made: as asked, and otherwise where it takes no longer than half a minute."""
    if cfg.deletion is not None:
        return bool(cfg.deletion)
    began = time.monotonic()
    with torch.no_grad():
        net(clip.inputs.to(next(net.parameters()).device))
    seconds = time.monotonic() - began
    if seconds > _CHEAP_S:
        say(f"the deletion test is left out: it would take about {10 * seconds:.0f} s; deletion=true makes it")
    return seconds <= _CHEAP_S


def _lines(found: Explanation) -> list[str]:
    """A line for each block, and one for the deletion test."""
    lines = []
    for block in found.numbers["blocks"]:
        lines.append(
            f"{block['name']}: {block['distance_space']:.2f} frame sides and {block['distance_time']:.2f} clip lengths"
            f" away on average, {block['same_frame']:.0%} in the same frame, entropy {block['entropy']:.2f},"
            f" query dependence {block['query_dependence']:.3f}"
        )
    if deletion := found.numbers.get("deletion"):
        lines.append(
            f"the highest logit {deletion['logit']:.2f} becomes {deletion['without_top']:.2f} without the"
            f" {sum(deletion['removed'].values())} most attended keys, {deletion['without_random']:.2f} without as many"
            " random ones"
        )
    return lines


class _Seen(NamedTuple):
    """A network of images, and what it is given for one: `pixels` (3, H, W) uint8 for the page, then `inputs`."""

    net: nn.Module
    pixels: Callable[[Image.Image], Tensor]
    inputs: Callable[[Tensor], Tensor]


def _detector(content: Mapping[str, Any], file: Path, device: torch.device) -> _Seen:
    """A detector's backbone, and the image as the detector sees it."""
    detector = Detector(content, str(file), device)
    net: Any = detector.net

    def pixels(image: Image.Image) -> Tensor:
        return frame(image.width, image.height, detector.short_side, detector.max_size, flip=False).image(image)

    return _Seen(net.backbone, pixels, lambda seen: net.transform.normalize(seen.to(device).float() / 255)[None])


def _segmenter(content: Mapping[str, Any], file: Path, device: torch.device) -> _Seen:
    predictor = MaskPredictor(content, file, device)
    return _Seen(predictor.net, predictor.pixels, predictor.inputs)


_IMAGES = {
    "nlnet.tasks.detection.DetectionTask": _detector,
    "nlnet.tasks.segmentation.task.SegmentationTask": _segmenter,
}
_WITHOUT = {
    "nlnet.tasks.regions.RegionTask": "a network of regions",
    "nlnet.tasks.restoration.RestorationTask": "a network that restores images",
}
_SHOWN = "networks of clips, detectors and networks for segmentation"


def _of_image(cfg: DictConfig, seen: _Seen, blocks: list[str] | None, most: int) -> Explanation:
    """The image `cfg.source`, or the first of that folder."""
    find_blocks(seen.net, blocks)
    image_file = find_images(Path(str(cfg.source)).expanduser())[0]
    try:
        pixels = seen.pixels(upright_image(read_bytes(image_file.path, limits.SAMPLE)))
    except (ImageError, limits.TooLarge, OSError) as error:
        raise UserError(f"source={cfg.source}: {image_file.name}: {error}") from error
    title = image_file.name
    found = explain(seen.net, seen.inputs(pixels), blocks=blocks, title=title, most_bytes=most, deletion=False)
    shown = pixels.permute(1, 2, 0)[None].numpy()
    return Explanation(found.title, shown, found.seconds, (), found.blocks, None)
