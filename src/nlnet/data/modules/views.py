"""The LightningDataModule of a test with many views of each video."""

from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.loader import BatchLoader
from nlnet.data.batches.views import ViewBatches
from nlnet.data.modules.base import DataModule
from nlnet.data.modules.clips import ClipDataModule


class ViewDataModule(DataModule):
    """The validation videos of `data` for a test of `clips` clips each: one video at a time on every rank."""

    def __init__(self, data: ClipDataModule, clips: int, starts: str) -> None:
        super().__init__()
        self.data, self.clips, self.starts = data, clips, starts
        self.worker_timeout_s = data.worker_timeout_s

    def val_dataloader(self) -> BatchLoader:
        data = self.data
        rank, world_size = self.ranks()
        batches = ViewBatches(
            data.val,
            data.val_root,
            RankSlice(world_size, rank, world_size),
            data.geometry,
            clips=self.clips,
            starts=self.starts,
            decoder=data.decoder,
            settings=data.settings,
        )
        return self.hand_out(batches, data.num_workers)
