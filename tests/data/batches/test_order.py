import numpy as np
import pytest

from nlnet.data.batches import order as module
from nlnet.data.batches.order import Shards, epoch_order, eval_batch, train_batch

SHARD_OF = np.repeat(np.arange(7), [5, 11, 3, 8, 1, 9, 6])
N = len(SHARD_OF)
SHARDS = Shards(SHARD_OF)


BOTH_WAYS = pytest.mark.parametrize("whole", [module.WHOLE, 0], ids=["whole", "windowed"], indirect=True)


@pytest.fixture
def whole(request, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", request.param)


def first_order(shard_of, seed, epoch, window):
    """The order of the first version, which every later one has to keep: a run that goes on has it half behind it."""
    rng = np.random.default_rng((seed, epoch))
    names, position_of = np.unique(shard_of, return_inverse=True)
    turn = np.empty(len(names), dtype=np.int64)
    turn[rng.permutation(len(names))] = np.arange(len(names))
    window_of = turn[position_of] // window
    shuffled = rng.permutation(len(shard_of))
    return shuffled[np.argsort(window_of[shuffled], kind="stable")]


def test_the_order_is_that_of_every_earlier_version():
    rng = np.random.default_rng(0)
    for case in range(200):
        shard_of = rng.integers(0, rng.integers(1, 30), rng.integers(1, 400)) + case % 5
        shard_of = shard_of if case % 2 else np.sort(shard_of)
        window = int(rng.integers(1, 40))
        found = epoch_order(Shards(shard_of.astype(np.int32)), case, case % 7, window)
        assert np.array_equal(found, first_order(shard_of, case, case % 7, window))


def test_the_windowed_order_of_a_seed_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 0)
    assert epoch_order(SHARDS, 5, 1, 2)[:12].tolist() == [17, 27, 18, 16, 40, 3, 41, 1, 0, 39, 37, 42]


def test_a_part_of_the_windowed_order_is_that_part_of_the_whole(monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 0)
    rng = np.random.default_rng(1)
    for case in range(100):
        shard_of = rng.integers(0, rng.integers(1, 30), rng.integers(1, 400))
        order = epoch_order(Shards(shard_of), case, 3, int(rng.integers(1, 40)))
        everything = order[:].copy()
        assert sorted(everything.tolist()) == list(range(len(shard_of))) == list(range(len(order)))
        for begin, end in rng.integers(0, len(shard_of) + 2, (20, 2)):
            assert np.array_equal(order[begin:end], everything[begin:end])


def test_of_a_set_beyond_the_limit_only_windows_are_made():
    """Four million samples and more, on 4,096 ranks: every sample once, and a few thousand numbers in memory."""
    shards, size = Shards(np.repeat(np.arange(4300, dtype=np.int32), 1000)), 4096 * 4
    order = epoch_order(shards, 0, 0, 8)
    seen = np.zeros(len(shards), np.int64)
    for t in range(len(shards) // size):
        seen[train_batch(order, t, size, 0, 1)] += 1
        assert sum(len(made) for made in order._made.values()) <= 3 * 8 * 1000
    seen[order[len(shards) // size * size :]] += 1
    assert (seen == 1).all()
    parts = [train_batch(order, 100, size, rank, 4096) for rank in range(4096)]
    assert np.array_equal(np.concatenate(parts), order[100 * size : 101 * size])


@BOTH_WAYS
def test_an_epoch_is_a_permutation_and_every_epoch_and_seed_has_its_own(whole):
    orders = {(seed, epoch): tuple(epoch_order(SHARDS, seed, epoch, 3)[:]) for seed in (0, 1) for epoch in range(4)}
    assert all(sorted(order) == list(range(N)) for order in orders.values())
    assert len(set(orders.values())) == len(orders)
    assert orders[0, 2] == tuple(epoch_order(SHARDS, 0, 2, 3)[:])


@BOTH_WAYS
def test_samples_stay_within_their_window_of_shards(whole):
    shards = SHARD_OF[epoch_order(SHARDS, 0, 0, 2)[:]]
    open_shards, seen = [], []
    for shard in shards:
        if shard not in seen:
            seen.append(shard)
    for k in range(0, 7, 2):
        window = set(seen[k : k + 2])
        positions = [i for i, shard in enumerate(shards) if shard in window]
        open_shards.append((min(positions), max(positions)))
        assert positions == list(range(positions[0], positions[-1] + 1))
    assert open_shards == sorted(open_shards)


@BOTH_WAYS
@pytest.mark.parametrize("batch_size", [4, 8])
def test_global_batches_do_not_depend_on_the_number_of_ranks(whole, batch_size):
    order = epoch_order(SHARDS, 5, 1, 4)
    for t in range(N // batch_size):
        whole = train_batch(order, t, batch_size, 0, 1)
        for world in (2, 4):
            parts = [train_batch(order, t, batch_size, rank, world) for rank in range(world)]
            assert np.array_equal(np.concatenate(parts), whole)


def test_the_samples_left_out_of_an_epoch_are_n_mod_b_and_differ():
    left_out = [frozenset(epoch_order(SHARDS, 0, epoch, 3)[N // 8 * 8 :].tolist()) for epoch in range(6)]
    assert all(len(rest) == N % 8 for rest in left_out)
    assert len(set(left_out)) > 1


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_evaluation_sees_every_sample_once_on_any_number_of_ranks(world):
    batch_size = 2 * world
    seen = []
    for t in range(-(-N // batch_size)):
        shapes = set()
        for rank in range(world):
            indices, real = eval_batch(N, t, batch_size, rank, world)
            shapes.add(indices.shape)
            seen += indices[real].tolist()
        assert shapes == {(2,)}
    assert sorted(seen) == list(range(N))
