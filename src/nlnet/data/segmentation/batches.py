"""Batches of images with their labels, read from pairs of files."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nlnet import limits
from nlnet.data.batches.base import Batch, Listing, RankSlice, ShardBatches
from nlnet.data.media.images import ImageError
from nlnet.data.segmentation.crops import CropSettings, Labeled, cut, whole
from nlnet.data.segmentation.layouts import IGNORED, Layout, Pair
from nlnet.data.segmentation.masks import read_mask, read_picture
from nlnet.data.shards.manifest import Sample
from nlnet.data.shards.reader import Located, Outcome, SampleError, SampleReader
from nlnet.data.shards.source import DEFAULTS, ReadSettings
from nlnet.data.shards.storage import Traffic
from nlnet.limits import TooLarge
from nlnet.reading import read_bytes

_LENGTH = 8  # bytes before an image that say how long it is


class SegmentationBatches(ShardBatches[Sample, Labeled]):
    """Batches of `images`, a list of (3, H, W) uint8, and `labels`, a list of (H, W) uint8, `IGNORED` where none is.

    In training both are of the crop's size; in evaluation an image is resized and its labels are of the size of the
    file. A slot whose sample failed, or that pads, is black and ignored all over.

    Args:
        manifest, root, rank_slice, seed, window, train, settings: see `ShardBatches`.
        pairs: the files of each key.
        layout: what the numbers in masks mean.
        crops: how images are handed out.
    """

    suffixes = ("image", "mask")

    def __init__(
        self,
        manifest: Listing[Sample],
        root: str,
        rank_slice: RankSlice,
        *,
        pairs: Mapping[str, Pair],
        layout: Layout,
        crops: CropSettings,
        seed: int,
        window: int,
        train: bool,
        settings: ReadSettings = DEFAULTS,
    ) -> None:
        super().__init__(manifest, root, rank_slice, seed=seed, window=window, train=train, settings=settings)
        self.pairs, self.layout, self.crops = pairs, layout, crops

    def make_reader(self) -> SampleReader:
        return SampleReader(FilePairs(self.pairs), self.settings.parallel, self.settings.ahead_mb * 1e6)

    def members(self, sample: Sample, data: bytes) -> dict[str, bytes]:
        end = _LENGTH + int.from_bytes(data[:_LENGTH])
        return {"image": data[_LENGTH:end], "mask": data[end:]}

    def decode(self, sample: Sample, members: dict[str, bytes], epoch: int) -> Labeled:
        pair = self.pairs[sample.key]
        try:
            path = pair.mask
            labels_HW = read_mask(members["mask"], self.layout)
            path = pair.image
            image = read_picture(members["image"], labels_HW.shape[1], labels_HW.shape[0])
        except ImageError as error:
            raise SampleError(error.cause, f"{path}: {error}") from error
        if not self.train:
            return whole(image, labels_HW, self.crops)
        # From (seed, epoch, sample): what a sample looks like depends on no other sample and on no history.
        rng = np.random.default_rng((self.seed, epoch, zlib.crc32(sample.key.encode(errors="surrogatepass"))))
        return cut(image, labels_HW, self.crops, rng)

    def collate(self, indices: np.ndarray, items: Sequence[Labeled | None]) -> Batch:
        height, width = self.crops.crop if self.train else (64, 64)
        labels = torch.full((height, width), IGNORED, dtype=torch.uint8)
        blank = Labeled(torch.zeros(3, height, width, dtype=torch.uint8), labels)
        made = [item or blank for item in items]
        return {"images": [item.image for item in made], "labels": [item.labels for item in made]}


class FilePairs:
    """Samples that are an image and a mask, by key: the image's length, its bytes, and those of the mask."""

    def __init__(self, pairs: Mapping[str, Pair]) -> None:
        self.pairs, self.traffic = pairs, Traffic()

    def read_samples(self, group: Sequence[Located]) -> list[Outcome]:
        """The bytes of each, or why one of its files cannot be read."""
        return [self._read(self.pairs[sample.key]) for sample in group]

    def _read(self, pair: Pair) -> Outcome:
        image, mask = (read_file(path) for path in (pair.image, pair.mask))
        for outcome in (image, mask):
            if isinstance(outcome, SampleError):
                return outcome
        assert isinstance(image, bytes)
        assert isinstance(mask, bytes)
        self.traffic.add(len(image) + len(mask))
        return len(image).to_bytes(_LENGTH) + image + mask


def read_file(path: Path) -> bytes | SampleError:
    """The bytes of a file, or why there are none."""
    try:
        return read_bytes(path, limits.SAMPLE)
    except TooLarge as error:
        return SampleError(error.cause, f"{path}: {error}")
    except OSError as error:
        causes = {FileNotFoundError: "missing file", PermissionError: "permission denied"}
        return SampleError(causes.get(type(error), "unreadable"), f"{path}: {error.strerror or error}")
