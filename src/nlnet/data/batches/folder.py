"""Batches of images that lie in a folder as files, without shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlnet.data.batches.images import ImageBatches
from nlnet.data.prepare.folder import FolderSplit
from nlnet.data.shards.manifest import Sample
from nlnet.data.shards.reader import Located, Outcome, SampleError, SampleReader
from nlnet.data.shards.storage import Traffic


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
            data = self.paths[sample.key].read_bytes()
        except OSError as error:
            cause = "missing file" if isinstance(error, FileNotFoundError) else "unreadable"
            return SampleError(cause, f"{sample.key}: {error}")
        self.traffic.add(len(data))
        return data
