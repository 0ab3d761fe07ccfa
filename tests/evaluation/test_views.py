"""The views of a test: which frames, which pixels, which scores."""

import math

import av
import numpy as np
import pytest
import torch

from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.sampling import STARTS, ClipGeometry, clip_frames
from nlnet.data.batches.views import ViewBatches
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.video import probe
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.errors import UserError
from nlnet.evaluation.views import Views, combine, cut, make_views, resize_short_side, training_window, view_scores
from nlnet.models import build_model


def slow_frames(rule, T, stride, n, fps, clips):
    """The rules of the programs, one frame at a time."""
    rows = []
    for j in range(clips):
        if rule == "official":
            rows.append([(int(j * n / clips) % n + k * stride) % n for k in range(T)])
        elif rule == "slowfast":
            length = stride * T / 30 * fps
            start = max(n - length, 0) * j / clips
            ends = start, start + length - 1
            places = [ends[0] + (ends[1] - ends[0]) * k / (T - 1) for k in range(T)]
            rows.append([int(min(max(place, 0), n - 1)) for place in places])
        elif rule == "lfb":
            centres = round(n / clips * (j + 0.5))  # Python rounds halves to even, as NumPy does
            rows.append([min(max(centres - stride * T // 2 + k * stride, 0), n - 1) for k in range(T)])
        else:
            gap = max(n - ((T - 1) * stride + 1), 0) / (clips - 1)
            rows.append([(round(j * gap) + k * stride) % n for k in range(T)])
    return rows


@pytest.mark.parametrize("rule", STARTS)
@pytest.mark.parametrize(("n", "fps"), [(300, 30.0), (280, 28.0), (250, 25.0), (64, 30.0), (32, 30.0), (7, 6.0)])
def test_clip_frames_are_those_of_each_program(rule, n, fps):
    for T, stride in ((8, 8), (32, 2), (32, 4)):
        frames = clip_frames(rule, ClipGeometry(T, stride), n, fps, 10)
        assert frames.tolist() == slow_frames(rule, T, stride, n, fps, 10)
        assert frames.min() >= 0
        assert frames.max() < n


def test_clip_frames_by_hand():
    """The official test's last clips go on at the beginning; SlowFast's stay inside; mmaction2's reach the end; LFB's
    are around the centres of equal parts."""
    official = clip_frames("official", ClipGeometry(8, 8), 100, 30.0, 10)
    assert official[:, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert official[9].tolist() == [90, 98, 6, 14, 22, 30, 38, 46]
    slowfast = clip_frames("slowfast", ClipGeometry(8, 8), 100, 30.0, 10)
    assert slowfast[9].tolist() == [32, 41, 50, 59, 68, 77, 86, 95]  # from 32.4 in steps of 9
    assert clip_frames("slowfast", ClipGeometry(8, 8), 40, 30.0, 10)[4].tolist() == [0, 9, 18, 27, 36, 39, 39, 39]
    mmaction2 = clip_frames("mmaction2", ClipGeometry(8, 8), 100, 30.0, 10)
    assert mmaction2[9].tolist() == [43, 51, 59, 67, 75, 83, 91, 99]
    assert clip_frames("mmaction2", ClipGeometry(8, 8), 20, 30.0, 10)[3].tolist() == [0, 8, 16, 4, 12, 0, 8, 16]
    assert clip_frames("mmaction2", ClipGeometry(8, 8), 100, 30.0, 1)[0, 0] == 21
    lfb = clip_frames("lfb", ClipGeometry(8, 4), 100, 30.0, 10)
    assert lfb[5].tolist() == [39, 43, 47, 51, 55, 59, 63, 67]  # around 55
    assert lfb[0].tolist() == [0, 0, 0, 1, 5, 9, 13, 17]
    assert lfb[9].tolist() == [79, 83, 87, 91, 95, 99, 99, 99]
    with pytest.raises(ValueError, match="'center' are none of official"):
        clip_frames("center", ClipGeometry(8, 8), 100, 30.0, 10)


def shards_of(folder, path):
    """One sample, a real video."""
    data = path.read_bytes()
    info = probe(data)
    raw = RawSample(path.stem, data, info, ((0, 0.0, info.duration),))
    shard, samples = write_shard(folder / "real-val-000000.tar", 0, [raw])
    return Manifest("real", "val", "multiclass", ("a", "b"), {}, (shard,), tuple(samples)), info


def triangle(size_in, size_out):
    """(size_out, size_in) weights of linear interpolation, widened to a low-pass filter where the picture shrinks."""
    ratio = size_in / size_out
    reach = max(ratio, 1.0)
    weights = np.zeros((size_out, size_in))
    for i in range(size_out):
        for j in range(size_in):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * ratio) / reach)
        weights[i] /= weights[i].sum()
    return weights


def slow_view(frames_NHWC, indices, crop, scale, size):
    """(3, T, size, size) float64: resize whole frames, cut, normalize."""
    height, width = frames_NHWC.shape[1:3]
    short = min(height, width)
    rows, columns = (triangle(side, side * scale // short) for side in (height, width))
    clip_THWC = np.einsum("ih,thwc,jw->tijc", rows, frames_NHWC[indices].astype(np.float64), columns, optimize=True)
    down, right = clip_THWC.shape[1] - size, clip_THWC.shape[2] - size
    along = [0, max(down, right) // 2, max(down, right)][crop]
    top, left = (along, right // 2) if down > right else (down // 2, along)
    cut_THWC = clip_THWC[:, top : top + size, left : left + size]
    return ((cut_THWC / 255 - 0.45) / 0.225).transpose(3, 0, 1, 2)


@pytest.mark.parametrize(("name", "scale", "off"), [("arm_wrestling", 256, 1e-6), ("wide_426x240", 192, 1e-4)])
def test_thirty_views_of_a_real_video_come_from_one_decoding(name, scale, off, media, tmp_path, monkeypatch):
    manifest, info = shards_of(tmp_path, media / "video" / f"{name}.mp4")
    calls = []

    def counting(data, indices, **options):
        calls.append(len(indices))
        return decode_clip(data, indices, **options)

    monkeypatch.setattr("nlnet.data.batches.clips.decode_clip", counting)
    geometry = ClipGeometry(2, 16)
    batches = ViewBatches(manifest, str(tmp_path), RankSlice(1), geometry, clips=10)
    batch = batches[0, 0]
    batches.close()
    assert len(calls) == 1
    views = Views(10, "official", scale, "three", scale, clips_per_forward=4)
    made = {}
    for numbers, inputs in make_views(batch["videos"][0], batch["frame_indices"][0], views):
        made.update(zip(numbers, inputs, strict=True))
    assert sorted(made) == list(range(30)) == list(range(views.per_video))

    with av.open(str(media / "video" / f"{name}.mp4")) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(frames) == info.frames
    for number in (0, 4, 9, 10, 17, 29):
        crop, clip = divmod(number, 10)
        indices = [(clip * info.frames // 10 + 16 * k) % info.frames for k in range(2)]
        expected = slow_view(frames, indices, crop, scale, scale)
        assert made[number].shape == expected.shape
        assert np.abs(made[number].numpy() - expected).max() < off  # of values with a standard deviation of about 1


def test_a_short_video_wraps_and_a_broken_one_is_named(media, tmp_path):
    manifest, _ = shards_of(tmp_path, media / "video" / "short_32_frames.mp4")
    geometry = ClipGeometry(32, 2)
    batches = ViewBatches(manifest, str(tmp_path), RankSlice(2), geometry, clips=3)
    batch = batches[0, 0]
    assert batch["weights"].tolist() == [1, 0]  # the second slot only pads
    assert [tuple(clips.shape) for clips in batch["frame_indices"]] == [(3, 32)]
    assert batch["frame_indices"][0][0].tolist() == batch["frame_indices"][0][0].tolist()[:16] * 2
    (tmp_path / "real-val-000000.tar").write_bytes(bytes(manifest.shards[0].bytes))
    broken = ViewBatches(manifest, str(tmp_path), RankSlice(1), geometry, clips=3)[0, 0]
    assert broken["failures"] == [("short_32_frames", "checksum")]
    assert broken["videos"] == []
    assert broken["weights"].tolist() == [0]


def test_crops_follow_the_longer_side():
    upright = torch.arange(10)[:, None].expand(10, 4)
    assert [crop[0, 0].item() for crop in cut(upright, "three", 4)] == [0, 3, 6]
    assert [crop[0, 0].item() for crop in cut(upright.T, "three", 4)] == [0, 3, 6]
    assert [crop[0, 0].item() for crop in cut(upright.T, "center", 4)] == [3]
    assert [tuple(crop.shape) for crop in cut(upright, "whole", 4)] == [(10, 4)]
    assert resize_short_side(torch.zeros(1, 3, 240, 426, dtype=torch.uint8), 256).shape == (1, 3, 256, 454)
    assert resize_short_side(torch.zeros(1, 3, 426, 240, dtype=torch.uint8), 256).shape == (1, 3, 454, 256)


@pytest.fixture(scope="module")
def i3d():
    """The released network with five blocks; its last block would be the identity at the start."""
    torch.manual_seed(0)
    net = build_model("i3d_r50", nonlocal_blocks=5, num_classes=12, geometry="sparse", pool1_padding=0).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("bn3.weight", "norm.weight")):
                parameter.fill_(0.3)
        net.fc.weight.normal_(std=0.5)
    return net


def test_fullconv_on_256x340_is_the_dense_evaluation_by_hand(i3d):
    """Windows of 7x7 positions, one apart, as released: at 256x340 the map is 8x11, so 2x5 positions."""
    window = training_window(i3d, (3, 4, 224, 224))
    assert window == (7, 7)
    video = torch.randint(0, 256, (3, 256, 340, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    clips, views = torch.tensor([[0, 2, 1, 0]]), Views(1, "official", 256, "whole", 256)
    with torch.no_grad():
        inputs = ((video[clips].permute(0, 4, 1, 2, 3) / 255 - 0.45) / 0.225).float()
        map_CTHW = i3d.features(inputs)[0].double().numpy()
        scores = {k: view_scores(i3d, video, clips, views, k, window)[0] for k in ("multiclass", "multilabel")}
    assert map_CTHW.shape[1:] == (2, 8, 11)
    weight, bias = i3d.fc.weight.detach().double().numpy(), i3d.fc.bias.detach().double().numpy()
    by_hand = {"multiclass": [], "multilabel": []}
    for top in range(2):
        for left in range(5):
            logits = weight @ map_CTHW[:, :, top : top + 7, left : left + 7].mean((1, 2, 3)) + bias
            odds = np.exp(logits - logits.max())
            by_hand["multiclass"].append(odds / odds.sum())
            by_hand["multilabel"].append(1 / (1 + np.exp(-logits)))
    for kind, found in by_hand.items():
        assert np.ptp(found, axis=0).max() > 1e-3  # the positions do differ
        assert np.abs(scores[kind].numpy() - np.mean(found, 0)).max() < 1e-5


def test_a_training_crop_has_one_place_with_the_logits_of_forward(i3d):
    clip = torch.randn(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        window = training_window(i3d, (3, 2, 64, 64))
        dense = i3d.dense(clip, window)
        assert dense.shape == (1, 1, 12)
        torch.testing.assert_close(dense[:, 0], i3d(clip), rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match=r"a window of \(7, 7\) does not fit"):
            i3d.dense(clip, (7, 7))


def test_views_smaller_than_the_training_crop_are_refused_before_the_test(i3d):
    clip = (3, 2, 64, 64)
    assert training_window(i3d, clip, Views(1, "official", 64, "three", 64)) == (2, 2)
    for views in (Views(1, "official", 64, "three", 32), Views(1, "official", 32, "whole", 32)):
        with pytest.raises(UserError, match=r"of a view, 1 x 1, is smaller than the 2 x 2 .*data\.size=64"):
            training_window(i3d, clip, views)


class Pooled(torch.nn.Module):
    """A network of clips of any size, without `dense`: the means of the three colors."""

    def forward(self, x):
        return x.mean((2, 3, 4))


def test_networks_without_positions_see_squares_as_a_whole_and_no_whole_frames():
    whole, square = (Views(1, "official", 32, crops, 32) for crops in ("whole", "three"))
    with pytest.raises(UserError, match="Pooled has no method dense"):
        training_window(Pooled(), (3, 8, 32, 32), whole)
    assert training_window(Pooled(), (3, 8, 32, 32), square) is None
    video = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    scores = view_scores(Pooled(), video, torch.tensor([[0, 1]]), square, "multiclass", None)
    crops = [video[:, :, left : left + 32] for left in (0, 8, 16)]
    expected = [((crop.double() / 255 - 0.45) / 0.225).mean((0, 1, 2)).softmax(0) for crop in crops]
    torch.testing.assert_close(scores.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_views_are_combined_by_sum_or_maximum():
    views = np.random.default_rng(0).random((30, 40), dtype=np.float32)
    exact = [np.float32(math.fsum(map(float, column))) for column in views.T]
    assert combine(views, "multiclass").tolist() == exact
    assert combine(views, "multilabel").tolist() == [max(column) for column in views.T.tolist()]
