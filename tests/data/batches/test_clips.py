"""The same global batches on any number of ranks and workers, every sample once, failures where they are."""

import dataclasses

import pytest
import torch

from helpers.counting import UNEVEN, Numbers, write_numbers
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.loader import BatchLoader
from nlnet.data.shards.source import ReadSettings

N, B, EPOCHS = sum(UNEVEN), 8, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("numbers")


@pytest.fixture(scope="module")
def manifest(folder):
    return write_numbers(folder)


def passes(manifest, folder, world, workers, epochs=EPOCHS, train=True, batch_size=B):
    """The global batches of each epoch: what the ranks' shares hold, put together."""
    loaders = [
        BatchLoader(Numbers(manifest, str(folder), RankSlice(batch_size, rank, world), train=train), workers)
        for rank in range(world)
    ]
    result = []
    for _ in range(epochs):
        parts = [list(loader) for loader in loaders]
        assert len({len(part) for part in parts}) == 1
        result.append([torch.cat([part[t]["numbers"] for part in parts]).tolist() for t in range(len(parts[0]))])
    for loader in loaders:
        loader.close()
    return result


@pytest.fixture(scope="module")
def expected(manifest, folder):
    return passes(manifest, folder, 1, 0)


QUICK = [(1, 1), (1, 4), (2, 0), (2, 3), (4, 0), (4, 2)]
REST = [(r, w) for r in (1, 2, 4) for w in range(5) if (r, w) not in QUICK and (r, w) != (1, 0)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with few cores
@pytest.mark.parametrize(("world", "workers"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.full) for c in REST)])
def test_global_batches_depend_on_neither_ranks_nor_workers(manifest, folder, expected, world, workers):
    assert passes(manifest, folder, world, workers) == expected


def test_an_epoch_has_no_sample_twice_and_leaves_n_mod_b_out_others_each_time(expected):
    left_out = []
    for batches in expected:
        seen = [number for batch in batches for number in batch]
        assert len(seen) == len(set(seen)) == N // B * B
        left_out.append(frozenset(range(N)) - set(seen))
    assert all(len(rest) == N % B > 0 for rest in left_out)
    assert len(set(left_out)) == EPOCHS


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_evaluation_reads_every_sample_once_on_any_number_of_ranks(manifest, folder, world):
    ((*batches,),) = passes(manifest, folder, world, 0, epochs=1, train=False, batch_size=3 * world)
    real = [number for batch in batches for number in batch if number >= 0]
    assert sorted(real) == list(range(N))
    assert all(len(batch) == 3 * world for batch in batches)


def test_reading_ahead_stays_within_its_bound_and_forgets_what_is_not_wanted(manifest, folder, monkeypatch):
    length = manifest.samples[0].length
    settings = ReadSettings(ahead_mb=(2.5 * B * length) / 1e6)
    batches = Numbers(manifest, str(folder), RankSlice(B), settings=settings)
    batches[0, 0]
    assert set(batches._reader._pending) == {(0, 1)}  # the batch itself and one more fit; the third does not
    batches[1, 2]
    assert set(batches._reader._pending) == {(1, 3)}
    batches[1, N // B - 1]
    assert not batches._reader._pending
    batches.close()


def test_a_failed_sample_keeps_its_slot_with_weight_zero_and_changes_no_other(manifest, folder, expected):
    bad = dict.fromkeys((3, 20, 21))
    broken = tuple(dataclasses.replace(s, crc32=s.crc32 ^ 1) if k in bad else s for k, s in enumerate(manifest.samples))
    loader = BatchLoader(Numbers(dataclasses.replace(manifest, samples=broken), str(folder), RankSlice(B)))
    for batch, numbers in zip(loader, expected[0], strict=True):
        assert batch["numbers"].tolist() == [-1 if number in bad else number for number in numbers]
        assert batch["weights"].tolist() == [float(number not in bad) for number in numbers]
        assert batch["failures"] == [(f"n{number}", "checksum") for number in numbers if number in bad]


class WithMistake(Numbers):
    def decode(self, sample, members, epoch):
        return [][len(members)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_programming_error_is_never_skipped(manifest, folder, workers):
    loader = BatchLoader(WithMistake(manifest, str(folder), RankSlice(B)), workers)
    with pytest.raises(IndexError):
        next(iter(loader))
    loader.close()
