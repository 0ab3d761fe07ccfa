"""What `prepare` is asked for, checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlnet.data.annotations.readers import READERS
from nlnet.data.media.images import check_formats
from nlnet.data.media.suffixes import READ_ALWAYS
from nlnet.errors import UserError, nearest
from nlnet.trust.schema import FPS

ENCODINGS = ("h264", "copy")
TUNES = ("fastdecode", None)
SHORT_SIDE = 288
"""Of stored videos: the middle of the 256 to 320 that the recipes for Kinetics scale to."""
SHORT_SIDES = {"charades": 411}
"""The same by data set, where its recipes ask for more: charades_nl scales to 329 to 411, and tests at 320."""


@dataclass(frozen=True)
class Settings:
    """What `prepare` is asked for; configs/prepare.yaml describes each."""

    dataset: str
    out: Path | str
    annotations: Path | tuple[Path, ...]
    videos: Path
    encode: str = "h264"
    short_side: int | None = None
    gop: int = 32
    crf: int = 20
    tune: str | None = "fastdecode"
    fps: float | None = None
    samples_per_shard: int | None = None
    seed: int = 0
    limit: int | None = None
    workers: int | None = None
    part: str | None = None
    merge: bool = False
    reader: str | None = None
    image_formats: Sequence[str] = READ_ALWAYS

    def __post_init__(self) -> None:
        if self.reader is None and self.dataset not in READERS:
            raise UserError(
                f"dataset={self.dataset}: no such data set; {nearest(str(self.dataset), READERS)};"
                " for one of your own name a function that reads its annotations: reader=package.function"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(self.dataset)):
            raise UserError(f"dataset={self.dataset}: file names begin with it; expected letters, digits, _ and -")
        if self.encode not in ENCODINGS:
            raise UserError(f"encode={self.encode}: no such encoding; {nearest(str(self.encode), ENCODINGS)}")
        if self.tune not in TUNES:
            raise UserError(f"tune={self.tune}: expected {' or '.join(name or 'null' for name in TUNES)}")
        self._check_fps()
        if self.part is not None and self.merge:
            raise UserError(f"part={self.part} and merge=true: make all parts first, then merge without part=")
        _ = self.part_numbers, self.formats
        for name, (low, high) in {"short_side": (16, 4320), "gop": (1, 1000), "crf": (0, 51)}.items():
            value = self._choice(name)
            if not isinstance(value, int) or not low <= value <= high:
                raise UserError(f"{name}={value}: expected a whole number from {low} to {high}")
        for name in ("samples_per_shard", "limit", "workers"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"{name}={value}: expected a whole number from 1, or null")

    def _check_fps(self) -> None:
        if self.fps is None:
            return
        if not FPS.fits(self.fps):
            raise UserError(f"fps={self.fps}: expected {FPS.expected}, or null")
        if self.encode == "copy":
            raise UserError(f"fps={self.fps}: encode=copy stores the files as they are; set encode=h264 or fps=null")

    @property
    def stored_side(self) -> int:
        """Pixels of the shorter side of a stored video, if it has as many: `short_side`, or what the data set needs."""
        return SHORT_SIDES.get(self.dataset, SHORT_SIDE) if self.short_side is None else self.short_side

    @property
    def part_numbers(self) -> tuple[int, int]:
        """(i, n) for the part "i/n" of the shards, from (1, 1) to (n, n)."""
        return part_numbers(self.part)

    @property
    def formats(self) -> tuple[str, ...]:
        """Of images that are read."""
        return check_formats(self.image_formats, "image_formats")

    def choices(self, *, images: bool) -> dict[str, str | float | None]:
        """What changes the bytes of the shards, apart from the annotations and the files themselves."""
        names = ["dataset"]
        if self.reader is not None:
            names.append("reader")
        if not images:
            names.append("encode")
            names += () if self.encode == "copy" else ("short_side", "gop", "crf", "tune")
            names += () if self.fps is None else ("fps",)
        return {name: self._choice(name) for name in (*names, "samples_per_shard", "seed", "limit")}

    def _choice(self, name: str) -> str | int | float | None:
        value: str | int | float | None = self.stored_side if name == "short_side" else getattr(self, name)
        return value


def part_numbers(part: str | None) -> tuple[int, int]:
    """(i, n) of "i/n", (1, 1) of None. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(part or "1/1"))
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"part={part}: expected i/n with 1 <= i <= n, such as 3/16")
    return number, count
