"""One sample of a manifest."""

from dataclasses import dataclass

from nlnet.data.annotations.records import Labels
from nlnet.data.media.times import Times


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip in a shard.

    `shard` is an index into `Manifest.shards`. The byte range [offset, offset + length) of that tar goes from the
    header of the sample's first member to the end of the padding of its last one; `crc32` is of exactly that range.
    `labels` are (class index, start s, end s); a multi-class sample has one entry that spans the clip. An image is one
    frame at one a second, with an entry for each class that it shows. `table` is the table of `times`, on the clock of
    the labels; nothing where frame k is at k / fps.
    """

    key: str
    shard: int
    offset: int
    length: int
    crc32: int
    frames: int
    fps: float
    width: int
    height: int
    labels: Labels
    table: tuple[int, ...] = ()

    @property
    def times(self) -> Times:
        """When each frame is shown."""
        return Times(self.frames, self.fps, self.table)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last: frames / fps."""
        return self.frames / self.fps
