"""The first lines of a run: what the network is and costs, and what is odd about the data."""

import pytorch_lightning as pl

from nlnet.data.module import ClipDataModule
from nlnet.models.flops import describe


def introduce(task: pl.LightningModule, data: pl.LightningDataModule) -> list[str]:
    """Lines to print before anything is trained or evaluated."""
    if not isinstance(data, ClipDataModule):
        from nlnet.models.detection_cost import describe_detector  # with torchvision, which clips do without

        side = data.eval_short_side  # type: ignore[attr-defined]
        # 4:3, the shape of most photographs, in multiples of 32 as the network pads
        width = min(-(-side * 4 // 3 // 32) * 32, -(-data.max_size // 32) * 32)  # type: ignore[attr-defined]
        return [str(describe_detector(task.net, (-(-side // 32) * 32, width)))]  # type: ignore[arg-type]
    lines = [str(describe(task.net, data.clip_shape))]  # type: ignore[arg-type]
    if short := data.short_videos():
        lines.append(
            f"{short} of {len(data.train.samples)} training videos are shorter than the clip; their frames repeat"
        )
    return lines
