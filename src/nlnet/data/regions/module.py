"""The LightningDataModule of clips with regions."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from nlnet.data.batches.base import RankSlice
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.modules.fingerprint import Fingerprint, fingerprint, hashed_samples
from nlnet.data.regions.batches import RegionClipBatches
from nlnet.data.shards.find import folder_of, is_pattern
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.regions.given import GivenRegions
from nlnet.data.shards.regions.stored import StoredRegions, stored_regions
from nlnet.errors import UserError


class RegionDataModule(ClipDataModule):
    """Clips with the regions of their frames: `boxes` (B, region_frames, regions_per_frame, 4) in each batch.

    Args:
        regions: a folder or URL prefix with the files of `nlnet-regions`, or a JSON file of one's own
            (`nlnet.data.shards.regions.given`); None for those beside the shards.
        region_frames: how many frames of a clip have regions: those of the network's last feature map.
        regions_per_frame: the most regions of a frame, the best of those there are.
        clips: the rest; see `ClipDataModule`.
    """

    def __init__(
        self,
        *clips: Any,
        regions: str | None = None,
        region_frames: int = 16,
        regions_per_frame: int = 50,
        **further: Any,
    ) -> None:
        super().__init__(*clips, **further)
        self.region_frames, self.regions_per_frame = region_frames, regions_per_frame
        frames = self.geometry.frames
        if not 1 <= region_frames <= frames:
            raise UserError(
                f"data.region_frames={region_frames}: a clip has {frames} frames (data.frames); give as many or less"
            )
        self._regions = {
            train: self._find_regions(regions, manifest, root)
            for train, manifest, root in ((True, self.train, self.train_root), (False, self.val, self.val_root))
        }

    @property
    def further_shapes(self) -> tuple[tuple[int, ...], ...]:
        """((R, N, 4),), the boxes of one sample."""
        return ((self.region_frames, self.regions_per_frame, 4),)

    def batches(self, rank_slice: RankSlice, *, train: bool) -> RegionClipBatches:
        return RegionClipBatches(
            *self.batch_arguments(rank_slice, train=train),
            regions=self._regions[train],
            frames=self.region_frames,
            per_frame=self.regions_per_frame,
        )

    def fingerprint(self) -> Fingerprint:
        train, val = (
            hashed_samples(manifest, {key: self._regions[train].note(key) for key in manifest.columns.keys})
            for train, manifest in ((True, self.train), (False, self.val))
        )
        return fingerprint(self.classes, self.groups, train, val)

    def digest(self) -> str:
        notes = (
            self._regions[train].note(key)
            for train, manifest in ((True, self.train), (False, self.val))
            for key in manifest.columns.keys
        )
        return blake2b(super().digest().encode() + b"".join(notes), digest_size=16).hexdigest()

    def _find_regions(self, place: str | None, manifest: Manifest, root: str) -> StoredRegions | GivenRegions:
        found: StoredRegions | GivenRegions
        if place and Path(place).suffix == ".json":
            found = GivenRegions(Path(place).expanduser())
        elif place is None and is_pattern(root or self.shards):
            raise UserError(
                f"data.regions is not set, and data.shards={self.shards} has no manifest that regions could lie beside;"
                " give a folder of nlnet-regions, or a JSON file"
            )
        else:
            place = place or folder_of(root or self.shards)
            found = stored_regions(place, manifest.dataset, manifest.split.split("+"))
        found.check(manifest.samples, f"data.regions={place}")
        return found
