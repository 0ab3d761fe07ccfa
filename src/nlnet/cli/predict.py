"""`python src/predict.py ckpt_path=... source=video.mp4`: the top classes of videos over time, as a table and JSON.

For the checkpoint of a detector: the objects in images (`nlnet.cli.predict_images`).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from nlnet.checkpoints.pretrained import checkpoint_file, saved
from nlnet.checkpoints.source import load
from nlnet.cli.errors import run
from nlnet.data.clips import ClipGeometry
from nlnet.data.inputs import Input, find_videos
from nlnet.data.reader import SampleError
from nlnet.data.video import VideoError
from nlnet.errors import UserError
from nlnet.evaluation.figures import KINDS
from nlnet.evaluation.timeline import Recognizer, Timeline, top_classes
from nlnet.evaluation.views import PAPER_SCALE, training_window
from nlnet.models import optimize_for_inference
from nlnet.runs.config import compose

USAGE = """usage: python src/predict.py ckpt_path=CKPT source=SOURCE [KEY=VALUE ...]

Prints the top classes of each video over time and writes predictions.json. SOURCE is a video file, a folder of videos,
prepared shards (folder or URL), or tar files (x-{000..009}.tar). CKPT is a run's folder or checkpoint, or a file of
nlnet-convert, which needs frames=, stride=, crop= and classes=FILE (one name a line) besides.

With a detector's CKPT, SOURCE is an image or a folder of images; boxes, masks and skeletons are drawn on copies."""

_CLIPS = {"frames": "frames", "stride": "stride", "crop": "size"}  # our keys -> those of a run's data
_PATHS = ("ckpt_path", "source", "out", "classes")


def recognizer(cfg: DictConfig, file: Path, content: Any) -> tuple[Recognizer, list[str]]:
    """The network in `content` of `file`, and the names of its classes. Raises UserError for what nobody says."""
    network = saved(content, file)
    known = _trained_with(content)
    settings: dict[str, Any] = {key: known.get(key) if cfg[key] is None else cfg[key] for key in (*_CLIPS, "kind")}
    unknown = [f"{key}=" for key in _CLIPS if not settings[key]]
    if unknown:
        raise UserError(f"ckpt_path={file} does not say which clips it was trained on; give {' '.join(unknown)}")
    kind = settings["kind"] or "multiclass"
    if kind not in KINDS:
        raise UserError(f"kind={kind}: give {' or '.join(KINDS)}")
    geometry, side = ClipGeometry(int(settings["frames"]), int(settings["stride"])), int(settings["crop"])
    scale = cfg.scale or min(PAPER_SCALE, known.get("scale", PAPER_SCALE))
    net = network.build()
    names = _class_names(cfg.classes, content, net.get_parameter("fc.weight").shape[0])
    window = training_window(net, (3, geometry.frames, side, side))
    device = torch.device(cfg.device or _best_device())
    net = optimize_for_inference(net) if device.type == "cpu" else net.to(device)
    return Recognizer(net, kind, geometry, int(scale), window, device), names


def predict(cfg: DictConfig) -> dict[str, Any]:
    """What is in the videos of `cfg.source`, as it is written to `cfg.out`; in its images, if it is a detector.

    Raises UserError if none can be read.
    """
    file = checkpoint_file(Path(cfg.ckpt_path).expanduser())
    content = load(file)
    if _is_detector(content):
        from nlnet.cli.predict_images import predict_images  # with torchvision, which clips do without

        return predict_images(cfg, content, torch.device(cfg.device or _best_device()))
    network, names = recognizer(cfg, file, content)
    videos, failures = [], []
    for video in islice(find_videos(str(cfg.source), cfg.split), cfg.limit):
        try:
            timeline = network.timeline(video.read(), cfg.every)
        except (VideoError, SampleError, OSError, IndexError) as error:
            failures.append({"name": video.name, "cause": getattr(error, "cause", "unreadable"), "message": str(error)})
            continue
        videos.append(_record(video, timeline, names, cfg.top))
        for line in _table(videos[-1]):
            print(line, flush=True)
    if failures:
        named = ", ".join(f"{failure['name']} ({failure['cause']})" for failure in failures)
        print(f"{len(failures)} of {len(videos) + len(failures)} videos could not be read: {named}", file=sys.stderr)
    if not videos:
        raise UserError(f"source={cfg.source}: no video could be read")
    result = {"checkpoint": str(cfg.ckpt_path), "source": str(cfg.source), "kind": network.kind, "videos": videos}
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result | {"failures": failures}, indent=2) + "\n")
    print(f"written: {out}")
    return result | {"failures": failures}


def _is_detector(content: Any) -> bool:
    """Whether a run of a detector left this."""
    settings = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    task = settings.get("task") if isinstance(settings, Mapping) else None
    return isinstance(task, Mapping) and task.get("kind") == "detection"


def _trained_with(content: Any) -> dict[str, Any]:
    """The clips and the kind of task that the checkpoint of a run was trained with; nothing for a converted file."""
    settings = content.get("hyper_parameters") or {}
    data, task = settings.get("data") or {}, settings.get("task") or {}
    known = {key: data[name] for key, name in _CLIPS.items() if name in data}
    return known | ({"scale": int(data["scale"][0])} if "scale" in data else {}) | {"kind": task.get("kind")}


def _class_names(file: str | None, content: Any, count: int) -> list[str]:
    names = content.get("classes")
    if file is not None:
        try:
            names = Path(file).expanduser().read_text().splitlines()
        except OSError as error:
            raise UserError(f"classes={file}: cannot be read: {error.strerror}") from error
    if names is None:
        return [f"class {k}" for k in range(count)]
    if len(names) != count:
        raise UserError(f"classes={file}: {len(names)} names, but the network has {count} classes")
    return list(names)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _record(video: Input, timeline: Timeline, names: Sequence[str], count: int) -> dict[str, Any]:
    clips = [
        {"start": round(m.start, 3), "end": round(m.end, 3), "top": top_classes(m.scores, names, count)}
        for m in timeline.moments
    ]
    info = {"frames": timeline.info.frames, "fps": round(timeline.info.fps, 3)}
    return {"name": video.name, **info, "top": top_classes(timeline.scores, names, count), "clips": clips}


def _table(record: dict[str, Any]) -> list[str]:
    """A line a clip: its seconds, and the classes with their scores."""
    rows = [(f"{clip['start']:.1f} - {clip['end']:.1f} s", clip["top"]) for clip in record["clips"]]
    rows.append(("all", record["top"]))
    seconds = record["frames"] / record["fps"]
    lines = [f"{record['name']}: {record['frames']} frames, {seconds:.1f} s"]
    for when, top in rows:
        lines.append(f"  {when:>17}  " + "  ".join(f"{entry['class']} {entry['score']:.2f}" for entry in top))
    return lines


def _settings(overrides: Sequence[str]) -> DictConfig:
    cfg = compose([_quoted(override) for override in overrides], "predict")
    for key in ("ckpt_path", "source"):
        if OmegaConf.is_missing(cfg, key):
            raise UserError(f"{key} is missing\n{USAGE}")
    return cfg


def _quoted(override: str) -> str:
    """An override whose value is a path, in quotes: file names may hold what Hydra would read as its grammar."""
    key, _, value = override.partition("=")
    if key not in _PATHS or value[:1] in ("'", '"', ""):
        return override
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def main() -> None:
    """The command `python src/predict.py`."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run(lambda: predict(_settings(arguments)), "predict")
