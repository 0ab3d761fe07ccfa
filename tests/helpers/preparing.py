"""Tiny data sets on disk, and a preparation of them that can be killed."""

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from nlnet.data.media.encode import encode_frames
from nlnet.data.prepare import run as module
from nlnet.data.prepare.settings import Settings


def clip(number: int, frames: int = 8, fps: float = 8.0) -> bytes:
    """A small video that differs from the others in its gray and in every frame."""
    images = np.full((frames, 32, 48, 3), 20 + 7 * number % 200, np.uint8)
    for k in range(frames):
        images[k, :, : 4 + 4 * (k % 8)] = 250
    return encode_frames(images, fps)


def charades(root: Path, count: int, extra: str = "") -> Path:
    """A folder as the Charades release has it, with `count` videos and `extra` rows."""
    (root / "videos").mkdir(parents=True)
    rows = ""
    for i in range(count):
        (root / "videos" / f"V{i:02d}.mp4").write_bytes(clip(i))
        rows += f"V{i:02d},c{i:03d} 0.00 0.50;c100 0.25 1.00,1.0\n"
    (root / "Charades_v1_train.csv").write_text("id,actions,length\n" + rows + extra)
    return root


def settings(source: Path, out: Path | str, dataset: str = "charades", **more: Any) -> Settings:
    """Settings for a source folder, with two workers."""
    defaults = {"dataset": dataset, "out": out, "annotations": source, "videos": source, "workers": 2}
    return Settings(**{**defaults, **more})


def digests(out: Path) -> dict[str, str]:
    """Everything in a folder, by name; locks aside."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("lock")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepare_slowly(source: str, out: str, chosen: dict[str, Any], pause_s: float) -> None:
    """A preparation that takes at least `pause_s` a video: for a process that is to be killed."""
    read = module.read_sample

    def slow(*given: Any) -> Any:
        time.sleep(pause_s)
        return read(*given)

    module.read_sample = slow
    module.prepare(settings(Path(source), Path(out), **chosen))
