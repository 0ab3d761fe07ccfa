import numpy as np
import pytest

from nlnet.data.batches.order import epoch_order, eval_batch, train_batch

SHARD_OF = np.repeat(np.arange(7), [5, 11, 3, 8, 1, 9, 6])
N = len(SHARD_OF)


def test_an_epoch_is_a_permutation_and_every_epoch_and_seed_has_its_own():
    orders = {(seed, epoch): tuple(epoch_order(SHARD_OF, seed, epoch, 3)) for seed in (0, 1) for epoch in range(4)}
    assert all(sorted(order) == list(range(N)) for order in orders.values())
    assert len(set(orders.values())) == len(orders)
    assert orders[0, 2] == tuple(epoch_order(SHARD_OF, 0, 2, 3))


def test_samples_stay_within_their_window_of_shards():
    shards = SHARD_OF[epoch_order(SHARD_OF, 0, 0, 2)]
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


@pytest.mark.parametrize("batch_size", [4, 8])
def test_global_batches_do_not_depend_on_the_number_of_ranks(batch_size):
    order = epoch_order(SHARD_OF, 5, 1, 4)
    for t in range(N // batch_size):
        whole = train_batch(order, t, batch_size, 0, 1)
        for world in (2, 4):
            parts = [train_batch(order, t, batch_size, rank, world) for rank in range(world)]
            assert np.array_equal(np.concatenate(parts), whole)


def test_the_samples_left_out_of_an_epoch_are_n_mod_b_and_differ():
    left_out = [frozenset(epoch_order(SHARD_OF, 0, epoch, 3)[N // 8 * 8 :].tolist()) for epoch in range(6)]
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
