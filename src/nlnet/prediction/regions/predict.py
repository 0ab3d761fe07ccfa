"""The top classes of videos by the regions in them, with a picture of these and their links."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from nlnet.data.batches.clip_transforms import center_crop, prepare_clips
from nlnet.data.batches.sampling import frame_indices
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.times import Resampled
from nlnet.data.media.video import VideoError, VideoInfo, probe
from nlnet.data.regions.batches import clip_boxes, region_frames
from nlnet.data.shards.reader import SampleError
from nlnet.data.shards.regions.boxes import VideoRegions
from nlnet.data.shards.regions.given import GivenRegions
from nlnet.data.shards.regions.stored import all_stored_regions
from nlnet.errors import UserError
from nlnet.evaluation.views import combine
from nlnet.limits import TooLarge
from nlnet.models.graphs.network import Attention
from nlnet.prediction.inputs import Input, find_videos
from nlnet.prediction.own_output import mark, pictures_folder
from nlnet.prediction.regions.links import picture, strongest_links
from nlnet.prediction.regions.proposals import ProposalNetwork
from nlnet.prediction.results import each_input, not_finite, write_results
from nlnet.prediction.timeline import Recognizer, clip_span, clip_starts, starts_every, top_classes
from nlnet.prediction.videos import recognizer, table
from nlnet.saving import replacing
from nlnet.text import say
from nlnet.trust.schema import CLASS_FIELDS

_FIELDS = CLASS_FIELDS["nlnet.data.regions.module.RegionDataModule"]
_SHORT_SIDE = 800  # pixels, of frames that proposals are looked for in

RegionsOf = Callable[[Input, bytes, VideoInfo, np.ndarray], VideoRegions]
"""(input, its bytes, what they are, stored frames) -> its regions, of these frames at least."""


class Seen(NamedTuple):
    """A clip: the cropped frames that have regions (R, side, side, 3), their numbers in the video, scores, links."""

    frames: np.ndarray
    numbers: np.ndarray
    scores: np.ndarray
    links: Attention


def predict_regions(cfg: DictConfig, file: Path, content: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What is in the videos of `cfg.source`, as it is written to `cfg.out`, with a picture of each in a folder beside.

    A video's clips are looked at in the middle square, as training validates. Of the one with the highest score the
    regions and the strongest links (`graph.attention`) are written, too.

    Raises UserError if no video can be read, or if there are no regions for them.
    """
    pictures = pictures_folder(cfg.out, str(cfg.source))
    network, names = recognizer(cfg, file, content, device)
    shape = _shape(content, file)
    regions_of = _regions(cfg, device, shape[1])

    def look(video: Input) -> dict[str, Any]:
        data = video.read()
        info = probe(data)
        times = (video.times if video.times and video.times.frames == info.frames else info.times).resampled(
            network.geometry.fps
        )
        count, span = times.times.frames, network.geometry.span
        starts = clip_starts(count, span, span) if cfg.every is None else starts_every(times.times, span, cfg.every)
        clips = []
        for start in starts:
            stored = times.stored(frame_indices(network.geometry, count, start))
            clips.append(_look(network, data, info, stored, regions_of(video, data, info, stored), shape))
        scores = np.stack([clip.scores for clip in clips])
        if not np.isfinite(scores).all():
            raise not_finite(cfg, video.name)
        best = int(scores.max(1).argmax())
        where = pictures / f"{Path(video.name).stem}.png"
        with replacing(where) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(clips[best].frames, clips[best].links)).save(temporary, "png", pnginfo=mark())
        whole = combine(scores, network.kind) / (1 if network.kind == "multilabel" else len(scores))
        record = {"name": video.name, "frames": info.frames, "fps": round(info.fps, 3)}
        record |= {"top": top_classes(whole, names, cfg.top)}
        record |= {"clips": _clips(times, starts, span, scores, names, cfg.top)}
        for line in table(record):
            say(line)
        return record | {"picture": str(where), "regions": {"clip": best} | _numbers(clips[best])}

    unreadable = (VideoError, SampleError, TooLarge, OSError, IndexError, EOFError)
    found = each_input(cfg, find_videos(str(cfg.source), cfg.split), "video", look, unreadable)
    return write_results(cfg, found, network.kind, "videos", f"; pictures: {pictures}")


@torch.inference_mode()
def _look(
    network: Recognizer,
    data: bytes,
    info: VideoInfo,
    stored: np.ndarray,
    regions: VideoRegions,
    shape: tuple[int, int, int],
) -> Seen:
    crop = center_crop(info.height, info.width, network.side, network.scale)
    frames = decode_clip(data, stored, crop=(crop.top, crop.left, crop.side, crop.side))
    clip = torch.from_numpy(frames).to(network.device)
    inputs = prepare_clips([clip], torch.zeros(1, dtype=torch.bool, device=network.device), network.side)
    boxes: Tensor = torch.from_numpy(clip_boxes(regions, stored, (info.height, info.width), crop, shape))[None]
    boxes = boxes.to(network.device)
    net: Any = network.net
    logits = net(inputs, boxes)[0].float()
    scores = (logits.sigmoid() if network.kind == "multilabel" else logits.softmax(0)).cpu().numpy()
    chosen = region_frames(len(stored), shape[0])
    return Seen(frames[chosen], stored[chosen], scores, net.attention(inputs, boxes))


def _regions(cfg: DictConfig, device: torch.device, most: int) -> RegionsOf:
    """Where the regions of an input are found. Raises UserError where nothing says."""
    if cfg.regions and cfg.proposals:
        raise UserError(f"regions={cfg.regions} and proposals={cfg.proposals}: give one of them")
    if cfg.proposals:
        network = ProposalNetwork(cfg.proposals, top=most, short_side=_SHORT_SIDE, frozen_eps=1e-5, device=device)

        def propose(video: Input, data: bytes, info: VideoInfo, stored: np.ndarray) -> VideoRegions:
            numbers = np.unique(stored)
            return network.regions(numbers, decode_clip(data, numbers))

        return propose
    if cfg.regions and str(cfg.regions).endswith(".json"):
        given = GivenRegions(Path(cfg.regions).expanduser())

        def listed(video: Input, data: bytes, info: VideoInfo, stored: np.ndarray) -> VideoRegions:
            key = video.name if given.has(video.name) else Path(video.name).stem
            if not given.lists(key, (info.height, info.width), info.frames, f"regions={cfg.regions}"):
                raise UserError(f"regions={cfg.regions}: {key} is not in it; give the file of these videos")
            return given.of(key)

        return listed
    stored_ones = all_stored_regions(str(cfg.regions or cfg.source)) if cfg.regions or _is_folder(cfg.source) else None
    if stored_ones is None:
        raise UserError(
            "regions= is not set: this network looks at regions; give a JSON file or a folder of nlnet-regions, or the"
            " weights of a proposal network with proposals="
        )

    def of_shards(video: Input, data: bytes, info: VideoInfo, stored: np.ndarray) -> VideoRegions:
        try:
            return stored_ones.of(video.name)
        except ValueError as error:
            raise SampleError("no regions", str(error)) from error

    return of_shards


def _is_folder(source: Any) -> bool:
    return "://" in str(source) or Path(str(source)).expanduser().is_dir()


def _shape(content: Mapping[str, Any], file: Path) -> tuple[int, int, int]:
    """(R, N, 4) of the boxes that the network was trained on. Raises UserError where the file says none."""
    settings = content.get("hyper_parameters")
    data = settings.get("data") if isinstance(settings, Mapping) else None
    numbers = list[int]()
    for name in ("region_frames", "regions_per_frame"):
        value: Any = data.get(name) if isinstance(data, Mapping) else None
        if not _FIELDS[name].fits(value):
            raise UserError(f"ckpt_path={file}: data.{name}={value!r:.80}: expected {_FIELDS[name].expected}")
        numbers.append(value)
    return numbers[0], numbers[1], 4


def _clips(
    video: Resampled, starts: Sequence[int], span: int, scores: np.ndarray, names: Sequence[str], top: int
) -> list[dict[str, Any]]:
    clips = []
    for first, row in zip(starts, scores, strict=True):
        start, end = clip_span(video, first, first + span)
        clips.append({"start": round(start, 3), "end": round(end, 3), "top": top_classes(row, names, top)})
    return clips


def _numbers(clip: Seen) -> dict[str, Any]:
    """The boxes of the clip as fractions of the middle square, and the strongest links between them."""
    boxes = clip.links.boxes[0].float().cpu().numpy()
    return {
        "frames": clip.numbers.tolist(),
        "boxes": [[[round(float(v), 4) for v in box] for box in frame if box.any()] for frame in boxes],
        "links": [
            {"from": list(one), "to": list(other), "similarity": round(value, 6)}
            for one, other, value in strongest_links(clip.links)
        ],
    }
