"""Batches of patches with noise to train on, and of whole images with noise to be scored on."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from nlnet.data.batches.base import Batch, RankSlice, ShardBatches
from nlnet.data.batches.folder import FileSamples
from nlnet.data.media.images import ImageError
from nlnet.data.media.suffixes import READ_ALWAYS
from nlnet.data.restoration.folder import ImageFolder
from nlnet.data.restoration.noise import EVALUATION, generator, noisy
from nlnet.data.restoration.pixels import read_pixels
from nlnet.data.shards.manifest import Samples, Shard
from nlnet.data.shards.reader import Located, SampleError, SampleReader
from nlnet.data.shards.source import DEFAULTS, ReadSettings

_KEPT = 256 << 20  # bytes of pixels that a process keeps decoded


@dataclass(frozen=True)
class NoiseSettings:
    """What becomes of an image.

    Args:
        sigma: the deviation of the noise is drawn between these, in levels of 8 bits.
        channels: 1 for gray, 3 for color.
        patch_size: side of a training patch.
        patches_per_image: how many of an image are an epoch's.
        flip: turn patches by quarters and mirror them.
        formats: of images that are read.
    """

    sigma: tuple[float, float]
    channels: int = 1
    patch_size: int = 43
    patches_per_image: int = 40
    flip: bool = True
    formats: tuple[str, ...] = READ_ALWAYS


class Patch(NamedTuple):
    """One of the patches of an image, as the reader sees it; or, with the number 0, the image."""

    key: str
    shard: int
    offset: int
    length: int
    crc32: int
    number: int


class Patches(Sequence[Patch]):
    """So many of every image, one image after the other."""

    def __init__(self, images: Samples, of_each: int) -> None:
        self.images, self.of_each = images, of_each

    def __len__(self) -> int:
        return len(self.images) * self.of_each

    @overload
    def __getitem__(self, k: int) -> Patch: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Patch]: ...
    def __getitem__(self, k: int | slice) -> Patch | Sequence[Patch]:
        if isinstance(k, slice):
            return [self[j] for j in range(*k.indices(len(self)))]
        image = self.images[k // self.of_each]
        return Patch(image.key, image.shard, image.offset, image.length, image.crc32, k % self.of_each)

    def __iter__(self) -> Iterator[Patch]:
        return (self[k] for k in range(len(self)))


@dataclass(frozen=True)
class _Listing:
    samples: Patches
    shards: tuple[Shard, ...] = ()


class Pair(NamedTuple):
    """An image or a patch without its noise and with it, (C, H, W) in [0, 1], and the deviation of the noise."""

    clean: Tensor
    noisy: Tensor
    sigma: float


class NoisyBatches(ShardBatches[Patch, Pair]):
    """In training: `inputs` (B, C, P, P) with noise, `targets` (B, C, P, P) without, `sigma` (B,).

    In evaluation `inputs` and `targets` are lists of whole images (C, H, W), as their sizes differ. A slot whose image
    cannot be read, or that pads, has zeros.

    Crop, turn, deviation and noise of a patch are drawn by (seed, epoch, image, number of the patch), those of an image
    in evaluation by its name alone.
    """

    suffixes = ()

    def __init__(
        self,
        folder: ImageFolder,
        settings: NoiseSettings,
        rank_slice: RankSlice,
        *,
        seed: int,
        window: int,
        train: bool,
        reading: ReadSettings = DEFAULTS,
    ) -> None:
        listing = _Listing(Patches(folder.manifest.columns, settings.patches_per_image if train else 1))
        super().__init__(listing, "", rank_slice, seed=seed, window=window, train=train, settings=reading)
        self.paths, self.noise = folder.paths, settings
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def make_reader(self) -> SampleReader:
        return SampleReader(FileSamples(self.paths), self.settings.parallel, self.settings.ahead_mb * 1e6)

    def members(self, sample: Located, data: bytes) -> dict[str, bytes]:
        return {"image": data}

    def decode(self, sample: Patch, members: dict[str, bytes], epoch: int) -> Pair:
        pixels = self._pixels(sample, members["image"])
        seed, of_epoch = (self.seed, epoch) if self.train else (EVALUATION, 0)
        rng = generator(seed, of_epoch, sample.key, sample.number)
        if self.train:
            pixels = random_patch(pixels, self.noise.patch_size, rng, flip=self.noise.flip)
        low, high = self.noise.sigma
        sigma = float(rng.uniform(low, high))
        clean = pixels.astype(np.float32) / np.float32(255)
        return Pair(torch.from_numpy(clean), torch.from_numpy(noisy(clean, sigma, rng)), sigma)

    def collate(self, indices: np.ndarray, items: Sequence[Pair | None]) -> Batch:
        side = self.noise.patch_size
        nothing = torch.zeros(self.noise.channels, side, side)
        blank = Pair(nothing, nothing, 0.0)
        whole = [item or blank for item in items]
        inputs, targets = [item.noisy for item in whole], [item.clean for item in whole]
        sigma = torch.tensor([item.sigma for item in whole])
        if not self.train:
            return {"inputs": inputs, "targets": targets, "sigma": sigma}
        return {"inputs": torch.stack(inputs), "targets": torch.stack(targets), "sigma": sigma}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": OrderedDict()}

    def _pixels(self, sample: Patch, data: bytes) -> np.ndarray:
        """(C, H, W) uint8, from memory where an image was decoded not long ago."""
        if sample.key in self._kept:
            self._kept.move_to_end(sample.key)
            return self._kept[sample.key]
        try:
            pixels = read_pixels(data, self.noise.channels, self.noise.formats)
        except ImageError as error:
            raise SampleError(error.cause, f"{self.paths[sample.key]}: {error}") from error
        if self.train and min(pixels.shape[1:]) < self.noise.patch_size:
            raise SampleError("mismatch", f"{self.paths[sample.key]}: smaller than it was when the run began")
        self._kept[sample.key] = pixels
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        return pixels


def random_patch(pixels: np.ndarray, side: int, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """A `side` x `side` patch of an image (C, H, W), in one of its eight orientations with `flip`."""
    top, left = (int(rng.integers(0, n - side + 1)) for n in pixels.shape[1:])
    patch = pixels[:, top : top + side, left : left + side]
    if not flip:
        return patch
    patch = np.rot90(patch, int(rng.integers(4)), (1, 2))
    return patch[:, :, ::-1] if rng.integers(2) else patch
