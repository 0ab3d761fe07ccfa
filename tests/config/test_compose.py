"""Composition: what unknown names are told, and the keys that exist."""

from pathlib import Path

import pytest

from nlnet.config.compose import compose, groups, keys, options
from nlnet.config.resolve import load
from nlnet.errors import UserError

FROZEN = Path(__file__).with_name("config_keys.txt")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("experiment=charades_ml", "charades_nl"),
        ("modle.nonlocal_blocks=5", "model.nonlocal_blocks"),
        ("model.nonlocal_block=5", "model.nonlocal_blocks"),
        ("trainr=ddp", "trainer"),
        ("trainer=ddpp", "ddp"),
        ("optim/schedule=cosin", "cosine"),
        ("data.batchsize=5", "data.batch_size"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(override, expected):
    with pytest.raises(UserError) as raised:
        compose([override])
    message = str(raised.value)
    assert expected in message
    assert override.split("=")[0] in message
    assert "\n" not in message


def test_the_keys_of_the_default_configuration_are_frozen():
    """A new or renamed key is a change of the interface: write it to config_keys.txt on purpose."""
    assert sorted(keys()) == FROZEN.read_text().split()


def test_every_group_has_the_words_people_type():
    assert {"data", "model", "task", "optim", "trainer", "callbacks", "logger", "experiment", "debug", "size"} <= set(
        groups()
    )
    assert {"default", "fdr", "limit", "overfit", "profiler"} == set(options("debug"))
    assert {"cpu", "gpu", "mps", "ddp", "ddp_sim", "multinode"} <= set(options("trainer"))


@pytest.mark.parametrize("typed", ["model.block_options={recurrence: 3}", "model.block_options.recurrence=3"])
def test_keys_of_a_dictionary_of_the_users_own_are_typed_plainly(typed):
    cfg = load(["experiment=cityscapes_ccnet", typed, "data.shards=/images"])
    assert cfg.model.block_options == {"recurrence": 3}


def test_such_keys_are_unknown_where_the_configuration_has_no_such_dictionary():
    with pytest.raises(UserError, match=r"model\.block_options: there is no such key in this configuration; nearest: "):
        load(["experiment=coco_mask_nl", "size=demo", "model.block_options.recurrence=3"])
