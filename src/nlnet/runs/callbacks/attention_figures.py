"""What the last non-local block attends to, of a few fixed validation clips, while the network learns it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from nlnet.attention.explanation import explain
from nlnet.attention.pictures import figure, sharpest
from nlnet.runs.loggers import log_images
from nlnet.saving import replacing


class AttentionFigures(Callback):
    """After the validation of every n-th epoch draws the paper's Figure 3 of the first clips of the validation split.

    `folder`/step-000123-0.png is of the first clip, of the position whose strongest link is the strongest; the loggers
    get the same. The clips are those of rank 0's first batches, the same ones each time. Nothing of the training
    depends on it: no random number is drawn.

    Args:
        folder: is made where it is not there.
        clips: how many.
        every_n_epochs: between two drawings.
        links: arrows in a picture.
    """

    def __init__(self, folder: str, clips: int = 4, every_n_epochs: int = 1, links: int = 10) -> None:
        self.folder, self.clips, self.every_n_epochs, self.links = Path(folder), clips, every_n_epochs, links
        self._inputs: list[Tensor] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._inputs = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._is_due(trainer) or len(self._inputs) >= self.clips:
            return
        readable = [k for k, weight in enumerate(batch["weights"].tolist()) if weight > 0]
        self._inputs += [batch["inputs"][k].clone() for k in readable[: self.clips - len(self._inputs)]]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        drawn = []
        for number, inputs in enumerate(self._inputs):
            found = explain(pl_module.net, inputs, deletion=False)  # type: ignore[arg-type]
            block = found.blocks[-1]
            picture = figure(found.frames, block, sharpest(block), self.links)
            path = self.folder / f"step-{trainer.global_step:06d}-{number}.png"
            with replacing(path) as temporary:
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(picture)
            drawn.append(np.asarray(Image.open(path).convert("RGB")))
        log_images(trainer.loggers, "val/attention", drawn, trainer.global_step)
        self._inputs = []

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return (
            trainer.is_global_zero and not trainer.sanity_checking and trainer.current_epoch % self.every_n_epochs == 0
        )
