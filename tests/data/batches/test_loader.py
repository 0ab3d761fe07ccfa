"""Batches by position: the same for any number of ranks and workers, and resumed between any two of them."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.processes import run_process
from nlnet.data.batches.clip_transforms import center_crop, color_factors, prepare_clips, random_crop
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice, read_video
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.media.decode import decode_clip
from nlnet.data.shards.find import load_manifest


def loader(shards, *, train=True, batch_size=8, rank=0, world=1, accumulate=1, workers=0, seed=1):
    manifest = load_manifest(str(shards), "charades", "train" if train else "test")
    view = ClipSettings(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=True, train=train)
    part = RankSlice(batch_size, rank, world, accumulate)
    batches = ClipBatches(manifest, str(shards), view, part, seed, window=2)
    return BatchLoader(batches, workers)


def same(a, b):
    assert a.keys() == b.keys()
    for name in a.keys() - {"reading"}:  # how long it took
        if isinstance(a[name], torch.Tensor):
            assert torch.equal(a[name], b[name]), name
        else:
            assert all(np.array_equal(x, y) for x, y in zip(a[name], b[name], strict=True)), name


def test_workers_do_not_change_a_batch_over_two_epochs(charades_shards):
    one, two = loader(charades_shards), loader(charades_shards, workers=2)
    for _ in range(2):
        for a, b in zip(one, two, strict=True):
            same(a, b)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches_of_one(charades_shards, world):
    whole = list(loader(charades_shards))
    parts = [list(loader(charades_shards, rank=rank, world=world)) for rank in range(world)]
    for t, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[t]["indices"] for part in parts]), batch["indices"])
        assert torch.equal(torch.cat([part[t]["targets"] for part in parts]), batch["targets"])


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (1, 4), (2, 1), (2, 2), (4, 2)])
def test_a_step_has_the_same_samples_on_any_number_of_ranks_and_parts(charades_shards, world, accumulate):
    whole = loader(charades_shards)
    ranks = [loader(charades_shards, rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    assert [len(rank) for rank in ranks] == [4 * accumulate] * world  # 34 samples: those left out are the same, too
    for _ in range(2):
        parts = [[batch["indices"] for batch in rank] for rank in ranks]
        for step, batch in enumerate(whole):
            of_step = range(step * accumulate, (step + 1) * accumulate)
            assert torch.equal(torch.cat([parts[rank][t] for t in of_step for rank in range(world)]), batch["indices"])


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_between_any_two_batches(charades_shards, workers):
    reference = loader(charades_shards)
    expected = [batch for _ in range(2) for batch in reference]
    running = loader(charades_shards)
    states = []
    for _ in range(2):
        for _ in running:
            states.append(running.state_dict())
    assert states[-5:] == [{"epoch": 1, "t": 0}, *({"epoch": 1, "t": t} for t in (1, 2, 3)), {"epoch": 2, "t": 0}]
    for done in (1, 4, 6):
        resumed = loader(charades_shards, workers=workers)
        resumed.load_state_dict(states[done - 1])
        rest = [batch for _ in range(2 if done < 4 else 1) for batch in resumed]
        for a, b in zip(expected[done:], rest, strict=True):
            same(a, b)


def take_one_and_die(shards, note):
    running = loader(shards, workers=1)
    next(iter(running))
    (worker,) = running._loader._iterator._workers
    note.write_text(str(worker.pid))
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_do_not_outlive_a_training_that_was_killed(charades_shards, tmp_path):
    assert run_process(take_one_and_die, charades_shards, tmp_path / "pid") == -signal.SIGKILL
    worker = Path(f"/proc/{(tmp_path / 'pid').read_text()}")
    deadline = time.monotonic() + 10
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.exists()


def test_a_pass_that_is_left_early_is_followed_by_the_next_epoch(charades_shards):
    running = loader(charades_shards)
    next(iter(running))
    again = list(running)
    assert len(again) == 4
    epoch_1 = list(loader(charades_shards))
    fresh = loader(charades_shards)
    list(fresh)
    for a, b in zip(again, fresh, strict=True):
        same(a, b)
    assert not torch.equal(again[0]["indices"], epoch_1[0]["indices"])


def test_an_epoch_has_no_sample_twice_and_evaluation_pads_with_weight_zero(charades_shards):
    seen = torch.cat([batch["indices"] for batch in loader(charades_shards)])
    assert len(seen) == len(set(seen.tolist())) == 32
    batches = list(loader(charades_shards, train=False))
    real = torch.cat([batch["indices"][batch["weights"] > 0] for batch in batches])
    assert sorted(real.tolist()) == list(range(20))
    assert batches[-1]["padding"].tolist() == [False] * 4 + [True] * 4
    assert torch.equal(batches[-1]["weights"] == 0, batches[-1]["padding"])


def test_crops_match_the_paper_in_source_pixels():
    rng = np.random.default_rng(0)
    crops = [random_crop(240, 320, 224, (256, 320), True, rng) for _ in range(400)]
    assert {crop.side for crop in crops} <= set(range(168, 211))  # 224 / 320 x 240 and 224 / 256 x 240
    assert min(crop.side for crop in crops) <= 170
    assert max(crop.side for crop in crops) >= 208
    assert all(0 <= crop.top <= 240 - crop.side and 0 <= crop.left <= 320 - crop.side for crop in crops)
    assert 150 < sum(crop.flip for crop in crops) < 250
    middle = center_crop(240, 320, 224, 256)
    assert (middle.side, middle.top, middle.left, middle.flip) == (210, 15, 55, False)


def test_the_device_half_equals_a_clip_by_clip_reference():
    rng = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 256, (3, side, side, 3), generator=rng, dtype=torch.uint8) for side in (32, 40, 24)]
    flips = torch.tensor([False, True, False])
    inputs = prepare_clips(clips, flips, 24)
    assert inputs.shape == (3, 3, 3, 24, 24)
    for clip, flip, ours in zip(clips, flips, inputs, strict=True):
        for t, frame in enumerate(clip):
            image = frame.permute(2, 0, 1)[None].double()
            scaled = torch.nn.functional.interpolate(
                image, size=24, mode="bilinear", align_corners=False, antialias=True
            )[0]
            expected = scaled.flip(-1) if flip else scaled
            pixels = ours[:, t].double() * 57.375 + 114.75
            torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)  # whole numbers, on a CPU
            assert (pixels - expected).abs().max() <= 1.01
            assert 10 * torch.log10(255**2 / (pixels - expected).square().mean()) > 55


def test_a_batch_shows_the_frames_of_its_samples(charades_shards):
    manifest = load_manifest(str(charades_shards), "charades", "test")
    batch = next(iter(loader(charades_shards, train=False)))
    for slot, index in enumerate(batch["indices"].tolist()):
        video = read_video(manifest, str(charades_shards), manifest.samples[index])
        frames = decode_clip(video, range(1, 7))  # the middle 6 of 8
        assert np.array_equal(batch["clips"][slot].numpy(), frames)  # short side 32 is the lower end of the scale, 24


def test_colors_change_as_torchvision_changes_them():
    from torchvision.transforms.v2 import functional as V

    rng = np.random.default_rng(0)
    colors = np.stack([color_factors(0.4, rng) for _ in range(3)])
    assert np.array_equal(color_factors(0.0, rng), np.ones(3))
    assert ((colors >= 0.6) & (colors <= 1.4)).all()
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 256, (3, side, side, 3), generator=generator, dtype=torch.uint8) for side in (32, 24, 40)]
    inputs = prepare_clips(clips, torch.zeros(3, dtype=torch.bool), 24, torch.tensor(colors, dtype=torch.float32))
    plain = prepare_clips(clips, torch.zeros(3, dtype=torch.bool), 24)
    for (brightness, contrast, saturation), before, ours in zip(colors, plain, inputs, strict=True):
        frames = (before * 0.225 + 0.45).transpose(0, 1).double()
        expected = V.adjust_saturation(V.adjust_contrast(V.adjust_brightness(frames, brightness), contrast), saturation)
        torch.testing.assert_close(ours.transpose(0, 1).double(), (expected - 0.45) / 0.225, atol=1e-3, rtol=0)


def test_colors_are_drawn_for_training_from_the_sample_alone(charades_shards):
    manifest = load_manifest(str(charades_shards), "charades", "train")

    def drawn(train, batch_size):
        view = ClipSettings(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=True, train=train, color_jitter=0.4)
        batches = ClipBatches(manifest, str(charades_shards), view, RankSlice(batch_size), 1, 2)
        return {
            int(i): c for batch in BatchLoader(batches) for i, c in zip(batch["indices"], batch["colors"], strict=True)
        }

    eights, fours = drawn(True, 8), drawn(True, 4)
    assert all(torch.equal(eights[i], fours[i]) for i in eights)
    assert len({tuple(c.tolist()) for c in eights.values()}) == len(eights)
    view = ClipSettings(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=True, train=False, color_jitter=0.4)
    assert "colors" not in next(
        iter(BatchLoader(ClipBatches(manifest, str(charades_shards), view, RankSlice(8), 1, 2)))
    )


def test_an_iterator_that_is_not_used_reads_nothing(charades_shards):
    """As a trainer makes one before it restores the position."""
    running = loader(charades_shards, workers=1)
    iter(running)
    assert running._loader._iterator is None
    running.load_state_dict({"epoch": 1, "t": 2})
    assert [len(batch["indices"]) for batch in running] == [8, 8]
    assert running.state_dict() == {"epoch": 2, "t": 0}
    running.close()
