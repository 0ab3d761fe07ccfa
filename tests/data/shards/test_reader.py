"""Which samples come in one request, and what the reader does while they come."""

import threading
import time
import zlib
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from nlnet.data.shards.reader import GAP, LONGEST, SampleError, SampleReader, ShardSamples, merge
from nlnet.data.shards.storage import Traffic


def sample(offset, length, shard=0, content=None):
    crc32 = zlib.crc32(bytes(length) if content is None else content)
    return SimpleNamespace(key=f"{shard}/{offset}", shard=shard, offset=offset, length=length, crc32=crc32)


def end(of):
    return of.offset + of.length


class Shards:
    """Zeros, which take a while; at most `size` bytes a shard."""

    def __init__(self, seconds=0.0, size=1 << 40):
        self.seconds, self.size, self.traffic, self.urls = seconds, size, Traffic(), ["a.tar", "b.tar", "c.tar"]
        self.asked, self.at_once, self.most = [], 0, 0
        self.lock = threading.Lock()

    def read(self, shard, offset, length):
        with self.lock:
            self.asked.append((shard, offset, length))
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.seconds)
        with self.lock:
            self.at_once -= 1
        if offset + length > self.size:
            raise EOFError(f"the shard has {self.size} bytes")
        return bytes(length)


@pytest.mark.parametrize("seed", range(20))
def test_a_request_brings_neighbors_and_nothing_is_lost_or_brought_twice(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LONGEST // 3, 60)
    gaps = rng.choice([0, 512, GAP, GAP + 1, 3 * GAP], 60)
    offsets = np.cumsum(lengths + gaps) - lengths
    samples = [sample(int(o), int(n), int(rng.integers(3))) for o, n in zip(offsets, lengths, strict=True)]
    samples = [samples[k] for k in rng.permutation(60)]
    groups = merge(samples)
    assert sorted(slot for group in groups for slot in group) == list(range(60))
    for group in groups:
        parts = [samples[slot] for slot in group]
        assert len({part.shard for part in parts}) == 1
        for before, after in pairwise(parts):
            assert 0 <= after.offset - end(before) <= GAP
        assert end(parts[-1]) - parts[0].offset <= LONGEST
    for before, after in pairwise(groups):  # two are two for a reason
        first, last, following = samples[before[0]], samples[before[-1]], samples[after[0]]
        apart = following.offset - end(last) > GAP or end(following) - first.offset > LONGEST
        assert apart or following.shard != last.shard


def test_a_sample_longer_than_a_request_for_several_comes_alone():
    long = sample(512, 3 * LONGEST)
    assert merge([sample(0, 512), long, sample(512 + long.length, 512)]) == [[0], [1], [2]]


def test_several_requests_are_in_flight_and_no_more_than_allowed():
    shards = Shards(seconds=0.05)
    reader = SampleReader(ShardSamples(shards), parallel=3, ahead_bytes=1e9)
    batches = [(t, [sample(4 * GAP * k, 100, shard=t) for k in range(4)]) for t in range(3)]
    reader.ahead(batches)
    began = time.monotonic()
    for t, samples in batches:
        assert reader.take(t) == [bytes(100)] * len(samples)
    assert shards.most == 3
    assert time.monotonic() - began < 12 * 0.05
    assert len(shards.asked) == 12
    reader.close()


def test_batches_that_are_no_longer_wanted_are_not_read():
    shards = Shards(seconds=0.1)
    reader = SampleReader(ShardSamples(shards), parallel=1, ahead_bytes=1e9)
    reader.ahead([(t, [sample(0, 10, shard=0), sample(4 * GAP, 10)]) for t in range(8)])
    reader.ahead([(100, [sample(0, 10, shard=2)])])
    assert reader.take(100) == [bytes(10)]
    assert len(shards.asked) <= 2  # the one under way when the wish changed, and the new one
    reader.close()


def test_a_shard_that_ends_early_costs_only_the_samples_beyond_its_end():
    reader = SampleReader(ShardSamples(Shards(size=1000)), parallel=1, ahead_bytes=1e9)
    reader.ahead([(0, [sample(600, 600), sample(0, 500), sample(500, 400)])])
    lost, first, second = reader.take(0)
    assert isinstance(lost, SampleError)
    assert lost.cause == "truncated shard"
    assert (first, second) == (bytes(500), bytes(400))
    reader.close()


def test_bytes_that_are_not_the_samples_are_asked_for_again_and_then_given_up():
    shards = Shards()
    reader = SampleReader(ShardSamples(shards), parallel=1, ahead_bytes=1e9)
    reader.ahead([(0, [sample(0, 8, content=b"other"), sample(8, 8)])])
    lost, good = reader.take(0)
    assert (lost.cause, good) == ("checksum", bytes(8))
    assert shards.asked == [(0, 0, 16), *[(0, 0, 8)] * 3]
    assert shards.traffic.take() == (0, 3)
    reader.close()


def test_a_programming_error_in_a_thread_is_raised_where_the_batch_is_taken():
    shards = Shards()
    shards.read = lambda *_: [][0]
    reader = SampleReader(ShardSamples(shards), parallel=1, ahead_bytes=1e9)
    reader.ahead([(0, [sample(0, 8)])])
    with pytest.raises(IndexError):
        reader.take(0)
    reader.close()
