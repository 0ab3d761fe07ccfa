"""Batches of images that lie in a folder as files, without shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlnet import limits
from nlnet.data.batches.images import ImageBatches
from nlnet.data.prepare.folder import FolderSplit
from nlnet.data.shards.manifest import Sample
from nlnet.data.shards.reader import Located, Outcome, SampleError, SampleReader
from nlnet.data.shards.storage import Traffic
from nlnet.limits import TooLarge
from nlnet.reading import read_bytes


class FolderBatches(ImageBatches):
    """Batches of the images of a split that lies in a folder.

    Args:
        split: the files.
        arguments: those of `ImageBatches` after the manifest and the root.
    """

    def __init__(self, split: FolderSplit, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.split = split

    def make_reader(self) -> SampleReader:
        return SampleReader(FileSamples(self.split.paths), self.settings.parallel, self.settings.ahead_mb * 1e6)

    def members(self, sample: Sample, data: bytes) -> dict[str, bytes]:
        return {"jpg": data, "json": self.split.notes[sample.key]}


class FileSamples:
    """Samples that are whole files, by key."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths, self.traffic = paths, Traffic()

    def read_samples(self, group: Sequence[Located]) -> list[Outcome]:
        """The bytes of each file, or why it cannot be read."""
        return [self._read(sample) for sample in group]

    def _read(self, sample: Located) -> Outcome:
        try:
            data = read_bytes(self.paths[sample.key], limits.SAMPLE)
        except TooLarge as error:
            return SampleError(error.cause, f"{sample.key}: {error}")
        except OSError as error:
            causes = {FileNotFoundError: "missing file", PermissionError: "permission denied"}
            cause = causes.get(type(error), "unreadable")
            return SampleError(cause, f"{sample.key}: {error}")
        self.traffic.add(len(data))
        return data
