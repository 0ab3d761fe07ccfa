"""Several clips of a video from one decoding: each is what it is alone, and the order is exact."""

import zlib

import numpy as np
import pytest
import torch

from nlnet.data.batches import clips as module
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice, read_video
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.decode import decode_clip
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.shards.find import load_manifest
from nlnet.errors import UserError

VIEW = ClipSettings(ClipGeometry(3, 2), size=16, scale=(20, 28), flip=True, train=True, color_jitter=0.4)


def batches(shards, repeats, *, size=8, rank=0, world=1, parts=1, view=VIEW):
    manifest = load_manifest(str(shards), "charades", "train")
    return ClipBatches(manifest, str(shards), view, RankSlice(size, rank, world, parts), 1, 2, repeats=repeats)


def test_every_clip_is_what_it_is_alone(charades_shards):
    made, drawn = batches(charades_shards, 4), []
    for t in range(len(made)):
        batch = made[(2, t)]
        assert len(set(batch["indices"].tolist())) == 2
        for slot, index in enumerate(batch["indices"].tolist()):
            sample = made.manifest.samples[index]
            rng = np.random.default_rng((1, 2, zlib.crc32(sample.key.encode())))
            for _ in range(slot % 4 + 1):
                crop, frames, colors = made._draw(sample, sample.frames, rng)
            box = (crop.top, crop.left, crop.side, crop.side)
            alone = decode_clip(read_video(made.manifest, str(charades_shards), sample), frames, crop=box)
            assert np.array_equal(batch["clips"][slot], alone)
            assert bool(batch["flips"][slot]) == crop.flip
            assert np.allclose(batch["colors"][slot], colors)
            drawn.append((sample.key, crop, tuple(frames)))
    assert len(set(drawn)) > 0.9 * len(drawn)


def test_the_first_of_several_is_the_one_alone(charades_shards):
    one, four = batches(charades_shards, 1, size=2), batches(charades_shards, 4)
    for t in range(4):
        single, several = one[(0, t)], four[(0, t)]
        assert several["indices"].tolist() == np.repeat(single["indices"].numpy(), 4).tolist()
        assert several["weights"].tolist() == [1.0] * 8
        assert all(torch.equal(a, b) for a, b in zip(single["clips"], several["clips"][::4], strict=True))
        assert torch.equal(single["targets"], several["targets"][::4])


def test_an_epoch_has_each_video_so_often_on_any_ranks_and_after_a_resume(charades_shards):
    whole = batches(charades_shards, 2)
    samples = len(whole.manifest.samples)
    assert len(whole) == samples * 2 // 8
    seen = np.concatenate([whole[(1, t)]["indices"].numpy() for t in range(len(whole))])
    assert np.bincount(seen, minlength=samples)[np.unique(seen)].tolist() == [2] * (len(whole) * 4)
    parts = [
        batches(charades_shards, 2, rank=rank, world=2, parts=2)[(1, t)]["indices"].numpy()
        for t in range(2)
        for rank in range(2)
    ]
    assert sorted(np.concatenate(parts)) == sorted(whole[(1, 0)]["indices"].numpy())
    loader = BatchLoader(whole, 1)
    first = [batch["indices"].tolist() for batch in loader]
    resumed = BatchLoader(batches(charades_shards, 2), 0)
    resumed.load_state_dict({"epoch": 0, "t": 3})
    assert [batch["indices"].tolist() for batch in resumed] == first[3:]
    loader.close()


def test_a_video_is_read_and_decoded_once(charades_shards, monkeypatch):
    decoded = []
    monkeypatch.setattr(module, "decode_clip", lambda *a, **k: decoded.append(k["crop"]) or decode_clip(*a, **k))
    made = batches(charades_shards, 4)
    first = made[(0, 0)]
    assert len(decoded) == 2
    samples = [made.manifest.samples[i] for i in set(first["indices"].tolist())]
    assert sum(s.length for s in samples) <= first["reading"]["bytes"]


def test_a_broken_video_has_no_weight_in_all_of_its_slots(charades_shards, monkeypatch):
    made = batches(charades_shards, 4)
    bad = made.manifest.samples[int(made[(0, 0)]["indices"][0])].key
    member = module.video_member
    monkeypatch.setattr(module, "video_member", lambda s, m: b"no video" if s.key == bad else member(s, m))
    batch = made[(0, 0)]
    assert batch["weights"].tolist() == [0.0] * 4 + [1.0] * 4
    assert batch["failures"] == [(bad, "undecodable")] * 4


def test_a_number_that_does_not_divide_is_refused(charades_shards):
    data = ClipDataModule(str(charades_shards), "charades", "train", "test", batch_size=8, clips_per_video=3, frames=3,
                          stride=1, size=16, scale=(20, 28), num_workers=0)  # fmt: skip
    with pytest.raises(UserError, match=r"^data.clips_per_video=3 does not divide the 8 clips that a device works on"):
        data.train_dataloader()
    assert len(data.val_dataloader()) > 0
