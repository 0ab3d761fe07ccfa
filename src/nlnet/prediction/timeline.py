"""What a network sees in a video over time: clip after clip of whole frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from nlnet.data.batches.sampling import ClipGeometry, frame_indices
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.video import VideoInfo, probe
from nlnet.evaluation.views import Views, combine, view_scores

_BYTES = 256 << 20  # of frames that are decoded in one go


class Moment(NamedTuple):
    """The seconds from the first to behind the last frame of a clip, and the classes' scores (K)."""

    start: float
    end: float
    scores: np.ndarray


@dataclass(frozen=True)
class Timeline:
    """What is in a video: its clips in order, and the mean (multilabel: the maximum) of their scores (K)."""

    info: VideoInfo
    moments: list[Moment]
    scores: np.ndarray


@dataclass(frozen=True)
class Recognizer:
    """Scores the clips of a video.

    Args:
        net: with `dense` as `nlnet.models.resnet3d.ResNet3d` has it, or any network of clips.
        kind: "multilabel" or "multiclass".
        geometry: the clips that it was trained on.
        scale: the short side in pixels that frames are resized to.
        window: what `dense` averages over, the feature map of a training crop; None for a network without it, which
            sees the square in the middle of the frames.
        device: where it computes.
    """

    net: nn.Module
    kind: str
    geometry: ClipGeometry
    scale: int
    window: tuple[int, int] | None
    device: torch.device

    def timeline(self, video: bytes, every: float | None = None) -> Timeline:
        """The scores of an encoded video, a clip every so many seconds; one after the other for None.

        Raises `nlnet.data.media.video.VideoError` for a video that cannot be read.
        """
        info = probe(video)
        hop = self.geometry.span if every is None else max(1, round(every * info.fps))
        starts = clip_starts(info.frames, self.geometry.span, hop)
        moments = []
        for part in self._parts(starts, info):
            frames_CT = np.stack([frame_indices(self.geometry, info.frames, start) for start in part])
            for start, scores in zip(part, self._scores(video, frames_CT), strict=True):
                end = min(start + self.geometry.span, info.frames)
                moments.append(Moment(start / info.fps, end / info.fps, scores))
        combined = combine(np.stack([moment.scores for moment in moments]), self.kind)
        return Timeline(info, moments, combined if self.kind == "multilabel" else combined / len(moments))

    def _parts(self, starts: Sequence[int], info: VideoInfo) -> Iterator[Sequence[int]]:
        """The clips that are decoded together."""
        clip_bytes = min(self.geometry.frames, info.frames) * info.height * info.width * 3
        step = max(1, _BYTES // clip_bytes)
        return (starts[first : first + step] for first in range(0, len(starts), step))

    def _scores(self, video: bytes, indices_CT: np.ndarray) -> np.ndarray:
        wanted, index_of = np.unique(indices_CT, return_inverse=True)
        frames = torch.from_numpy(decode_clip(video, wanted)).to(self.device)
        crops = "whole" if self.window else "center"
        views = Views(len(indices_CT), "official", self.scale, crops, self.scale)
        with torch.inference_mode():
            clips_CT = torch.from_numpy(index_of.reshape(indices_CT.shape)).to(self.device)
            return view_scores(self.net, frames, clips_CT, views, self.kind, self.window).cpu().numpy()


def clip_starts(frames: int, span: int, hop: int) -> list[int]:
    """The first frames of clips every `hop` frames, and of one that ends with the video where those leave a rest."""
    last = max(frames - span, 0)
    starts = list(range(0, last + 1, hop))
    return starts if starts[-1] == last or starts[-1] + span >= frames else [*starts, last]


def top_classes(scores_K: np.ndarray, classes: Sequence[str], count: int) -> list[dict[str, str | float]]:
    """The `count` highest scores, highest first, as {"class", "score"}."""
    order = np.argsort(-scores_K, kind="stable")[:count]
    return [{"class": classes[k], "score": round(float(scores_K[k]), 6)} for k in order]
