"""What a network sees in a video over time: clip after clip of whole frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from nlnet import limits
from nlnet.data.batches.sampling import ClipGeometry, frame_indices
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.times import Resampled, Times
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
        side: of the square crops that it was trained on.
    """

    net: nn.Module
    kind: str
    geometry: ClipGeometry
    scale: int
    window: tuple[int, int] | None
    device: torch.device
    side: int

    def timeline(self, video: bytes, every: float | None = None, times: Times | None = None) -> Timeline:
        """The scores of an encoded video, a clip every so many seconds; one after the other for None.

        Args:
            video: the file.
            every: seconds from the beginning of one clip to that of the next.
            times: of its frames, where they are known better than from the file.

        Raises `nlnet.data.media.video.VideoError` for a video that cannot be read, `nlnet.limits.TooLarge` for one of
        more frames at the rate of the clips than a video may have.
        """
        info, span = probe(video), self.geometry.span
        stored = times if times and times.frames == info.frames else info.times
        sampled = stored.resampled(self.geometry.fps)
        count = sampled.times.frames
        limits.FRAMES.check(count, f"at fps={self.geometry.fps}")
        starts = clip_starts(count, span, span) if every is None else starts_every(sampled.times, span, every)
        moments = []
        for part in self._parts(starts, info):
            frames_CT = np.stack([frame_indices(self.geometry, count, start) for start in part])
            for start, scores in zip(part, self._scores(video, sampled.stored(frames_CT)), strict=True):
                moments.append(Moment(*clip_span(sampled, start, start + span), scores))
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
    return _with_rest(list(range(0, max(frames - span, 0) + 1, hop)), frames, span)


def starts_every(times: Times, span: int, every: float) -> list[int]:
    """The same for clips every so many seconds: from the frames that are nearest to these times, each once."""
    first, last = times.seconds([0, max(times.frames - span, 0)])
    count = int((last - first) / every * (1 + 1e-12)) + 1
    wanted = first + np.arange(min(count, limits.FRAMES.most)) * every
    return _with_rest([int(k) for k in np.unique(times.nearest(wanted))], times.frames, span)


def _with_rest(starts: list[int], frames: int, span: int) -> list[int]:
    last = max(frames - span, 0)
    return starts if starts[-1] == last or starts[-1] + span >= frames else [*starts, last]


def clip_span(video: Resampled, first: int, behind: int) -> tuple[float, float]:
    """The seconds from frame `first` to frame `behind`, or to the end of the video."""
    times = video.times
    end = video.source.end if behind >= times.frames else float(times.seconds(behind))
    return float(times.seconds(first)), end


def top_classes(scores_K: np.ndarray, classes: Sequence[str], count: int) -> list[dict[str, str | float]]:
    """The `count` highest scores, highest first, as {"class", "score"}."""
    order = np.argsort(-scores_K, kind="stable")[:count]
    return [{"class": classes[k], "score": round(float(scores_K[k]), 6)} for k in order]
