"""The top classes of videos over time, as a table and as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from nlnet.checkpoints.pretrained import saved
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.video import VideoError
from nlnet.data.shards.reader import SampleError
from nlnet.errors import UserError
from nlnet.evaluation.metrics import KINDS
from nlnet.evaluation.views import PAPER_SCALE, training_window
from nlnet.limits import TooLarge
from nlnet.models import optimize_for_inference
from nlnet.prediction.inputs import Input, find_videos
from nlnet.prediction.own_output import check_out
from nlnet.prediction.results import each_input, not_finite, write_results
from nlnet.prediction.timeline import Recognizer, Timeline, top_classes
from nlnet.reading import read_text
from nlnet.text import say
from nlnet.trust.schema import CLASS_FIELDS

_FIELDS = CLASS_FIELDS["nlnet.data.modules.clips.ClipDataModule"]
_CLIPS = {"frames": "frames", "stride": "stride", "crop": "size", "fps": "fps"}  # our keys -> those of a run's data


def predict_videos(cfg: DictConfig, file: Path, content: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What is in the videos of `cfg.source`, as it is written to `cfg.out`.

    Args:
        cfg: of configs/predict.yaml.
        file: the checkpoint.
        content: what is in it.
        device: where to compute.

    Raises UserError if no video can be read, or for what neither the checkpoint nor `cfg` says.
    """
    check_out(cfg.out)
    network, names = recognizer(cfg, file, content, device)

    def look(video: Input) -> dict[str, Any]:
        timeline = network.timeline(video.read(), cfg.every, video.times)
        if not all(np.isfinite(moment.scores).all() for moment in timeline.moments):
            raise not_finite(cfg, video.name)
        record = _record(video, timeline, names, cfg.top)
        for line in table(record):
            say(line)
        return record

    videos = find_videos(str(cfg.source), cfg.split)
    found = each_input(cfg, videos, "video", look, (VideoError, SampleError, TooLarge, OSError, IndexError, EOFError))
    return write_results(cfg, found, network.kind, "videos")


def recognizer(
    cfg: DictConfig, file: Path, content: Mapping[str, Any], device: torch.device, *, as_trained: bool = False
) -> tuple[Recognizer, list[str]]:
    """The network in `content` of `file`, and the names of its classes. Raises UserError for what nobody says.

    On a CPU it is optimized for inference, unless its modules are wanted `as_trained`.
    """
    network = saved(content, file, cfg.allow_targets)
    known = _trained_with(content, file)
    settings: dict[str, Any] = {key: known.get(key) if cfg[key] is None else cfg[key] for key in (*_CLIPS, "kind")}
    if not _FIELDS["fps"].fits(settings["fps"]):
        raise UserError(f"fps={settings['fps']!s:.80}: expected {_FIELDS['fps'].expected}")
    unknown = [f"{key}=" for key in _CLIPS if key != "fps" and not settings[key]]
    if unknown:
        raise UserError(f"ckpt_path={file} does not say which clips it was trained on; give {' '.join(unknown)}")
    kind = settings["kind"] or "multiclass"
    if kind not in KINDS:
        raise UserError(f"kind={kind}: give {' or '.join(KINDS)}")
    geometry = ClipGeometry(int(settings["frames"]), int(settings["stride"]), settings["fps"])
    side = int(settings["crop"])
    scale = int(cfg.scale or min(PAPER_SCALE, known.get("scale", PAPER_SCALE)))
    net = network.build()
    clip_shape = (3, geometry.frames, side, side)
    with torch.no_grad():
        count = net(torch.zeros(1, *clip_shape)).shape[1]
    names = _class_names(cfg.classes, content, count)
    window = training_window(net, clip_shape)
    net = optimize_for_inference(net) if device.type == "cpu" and not as_trained else net.to(device)
    return Recognizer(net, kind, geometry, scale, window, device, side), names


def _trained_with(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The clips and the kind of task that the checkpoint of a run was trained with; nothing for a converted file.

    Raises UserError where they are none.
    """
    settings = content.get("hyper_parameters") or {}
    parts = [settings.get(part) or {} for part in ("data", "task")] if isinstance(settings, Mapping) else [settings]
    if not all(isinstance(part, Mapping) for part in parts):
        raise UserError(f"ckpt_path={file}: its settings are not those of a run; restore the file")
    data, task = parts
    for name in (*_CLIPS.values(), "scale"):
        if name in data and not _FIELDS[name].fits(data[name]):
            raise UserError(f"ckpt_path={file}: data.{name}={data[name]!r:.80}: expected {_FIELDS[name].expected}")
    known = {key: data[name] for key, name in _CLIPS.items() if name in data}
    return known | ({"scale": data["scale"][0]} if "scale" in data else {}) | {"kind": task.get("kind")}


def _class_names(file: str | None, content: Mapping[str, Any], count: int) -> list[str]:
    names = content.get("classes")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError("the checkpoint's class names are no list of texts; give classes=FILE, one name a line")
    if file is not None:
        try:
            names = read_text(Path(file).expanduser()).splitlines()
        except OSError as error:
            raise UserError(f"classes={file}: cannot be read: {error.strerror}") from error
    if names is None:
        return [f"class {k}" for k in range(count)]
    if len(names) != count:
        raise UserError(f"classes={file}: {len(names)} names, but the network has {count} classes")
    return list(names)


def _record(video: Input, timeline: Timeline, names: Sequence[str], count: int) -> dict[str, Any]:
    clips = [
        {"start": round(m.start, 3), "end": round(m.end, 3), "top": top_classes(m.scores, names, count)}
        for m in timeline.moments
    ]
    info = {"frames": timeline.info.frames, "fps": round(timeline.info.fps, 3)}
    return {"name": video.name, **info, "top": top_classes(timeline.scores, names, count), "clips": clips}


def table(record: dict[str, Any]) -> list[str]:
    """A line a clip: its seconds, and the classes with their scores."""
    rows = [(f"{clip['start']:.1f} - {clip['end']:.1f} s", clip["top"]) for clip in record["clips"]]
    rows.append(("all", record["top"]))
    seconds = record["frames"] / record["fps"]
    lines = [f"{record['name']}: {record['frames']} frames, {seconds:.1f} s"]
    for when, top in rows:
        lines.append(f"  {when:>17}  " + "  ".join(f"{entry['class']} {entry['score']:.2f}" for entry in top))
    return lines
