"""`data.batch_size` is of one optimizer step, whatever the ranks and the accumulated parts are."""

from types import SimpleNamespace

import pytest

from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.runs.build import make_data

WORDS = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0"]


def data_of(shards, ranks, parts, *more):
    data = make_data(load([*WORDS, f"data.shards={shards}", *more]))
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=ranks, accumulate_grad_batches=parts, overfit_batches=0, limit_train_batches=1.0
    )
    return data


@pytest.mark.parametrize(("ranks", "parts"), [(1, 1), (1, 4), (2, 2), (4, 2), (8, 1)])
def test_the_batch_of_a_device(charades_shards, ranks, parts):
    data = data_of(charades_shards, ranks, parts, "data.eval_batch_size=null")
    assert {len(batch["indices"]) for batch in data.train_dataloader()} == {8 // (ranks * parts)}
    assert {len(batch["indices"]) for batch in data.val_dataloader()} == {8 // (ranks * parts)}


@pytest.mark.parametrize(
    ("ranks", "parts", "message"),
    [
        (3, 1, "data.batch_size=8 does not divide over 3 ranks; use 6 or 9"),
        (1, 3, r"8 does not divide over 3 accumulated parts \(trainer.accumulate_grad_batches\); use 6 or 9"),
        (2, 8, r"8 does not divide over 2 ranks x 8 accumulated parts .*; use 16"),
    ],
)
def test_what_does_not_divide_is_one_line(charades_shards, ranks, parts, message):
    with pytest.raises(UserError, match=message):
        data_of(charades_shards, ranks, parts).train_dataloader()


def test_the_ranks_of_an_evaluation(charades_shards):
    with pytest.raises(UserError, match=r"data\.eval_batch_size=20 does not divide over 3 ranks; use 18 or 21"):
        data_of(charades_shards, 3, 1, "data.batch_size=9", "data.eval_batch_size=20").val_dataloader()
