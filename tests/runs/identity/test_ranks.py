"""Two gloo ranks that have not the same: one line on each of them before the first step, and nothing hangs."""

import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed

from helpers.processes import run_ranks, train_rank
from nlnet.data.modules.base import DataModule
from nlnet.errors import UserError
from nlnet.runs.identity.ranks import compare


class Named(DataModule):
    """Data of which only the names are known."""

    def __init__(self, classes: str = "ab", keys: str = "pqrs") -> None:
        super().__init__()
        self.classes, self.train_keys, self.val_keys = classes, list(keys), ["v"]


def facts(seed=0, classes="ab", keys="pqrs", version="1.0", lr="0.1", **more):
    return {
        "settings": {"seed": str(seed), "optim.optimizer.lr": lr} | more,
        "code": {"nlnet": version, "torch": "2.11"},
        "data": Named(classes, keys).fingerprint(),
    }


CASES = {
    "the same": ({}, ""),
    "seed": ({"seed": 1}, "the ranks do not agree: seed is 0 on rank 0, 1 on rank 1. Start all"),
    "a setting": ({"lr": "0.2"}, "optim.optimizer.lr is 0.1 on rank 0, 0.2 on rank 1. Start"),
    "one more": ({"new.key": "x"}, "new.key is None on rank 0, x on rank 1. Start"),
    "code": ({"version": "1.1"}, "nlnet is 1.0 on rank 0, 1.1 on rank 1. Start"),
    "classes": ({"classes": "ba"}, "class names in another order: 0 is a on rank 0, b on rank 1. Start"),
    "data": ({"keys": "pqr"}, "the number of training samples is 4 on rank 0, 3 on rank 1; 1 are not in both, first s"),
    "order": ({"keys": "pqsr"}, "the training samples are in another order, first s. Start"),
    "much": ({"seed": 1, **{f"k{i}": "x" for i in range(6)}}, "k3 is None on rank 0, x on rank 1; and 3 more. Start"),
}


def compare_all(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    said = {}
    for name, (changes, _) in CASES.items():
        began = time.monotonic()
        try:
            compare(facts(**(changes if rank else {})), [*"pqrs", "v"])
            said[name] = ""
        except UserError as error:
            said[name] = str(error)
        assert time.monotonic() - began < 10
    torch.save(said, folder / f"{rank}.pt")


def test_every_difference_is_the_same_line_on_both_ranks(tmp_path):
    assert run_ranks(compare_all, 2, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    for name, (_, words) in CASES.items():
        assert words in first[name], name
        assert "\n" not in first[name]
        assert bool(words) == bool(first[name])


def train_apart(rank: int, world: int, port: int, common: list[str], own: list[list[str]], log: str) -> None:
    """A rank with words of its own."""
    if "helpers.other_code" in own[rank]:
        from nlnet.runs.identity import code

        code.code()["files"] = "0123456789abcdef"
    train_rank(rank, world, port, [*common, *(word for word in own[rank] if "=" in word)], log)


def said_by_both(tmp_path: Path, shards: Path, own: list[str], *more: str) -> list[str]:
    """The last lines of two ranks, the second with words of its own; both have failed, in less than a minute."""
    common = [
        "experiment=charades_nl", "size=demo", "trainer=ddp_sim", f"data.shards={shards}", "data.batch_size=8",
        "data.eval_batch_size=6", "data.num_workers=0", "trainer.max_epochs=1", "callbacks.progress=null",
        f"paths.log_dir={tmp_path}/logs", *more,
    ]  # fmt: skip
    log = tmp_path / "log"
    assert run_ranks(train_apart, 2, common, [[], own], str(log), timeout=60) == [1, 1]
    said = [Path(f"{log}.{rank}").read_text().strip().splitlines() for rank in (0, 1)]
    assert not any("Traceback" in line for lines in said for line in lines), said
    assert not list(tmp_path.rglob("*.ckpt"))
    return [lines[-1] for lines in said]


@pytest.mark.full
def test_a_rank_without_its_shards_ends_both_in_words(charades_shards, tmp_path):
    first, second = said_by_both(tmp_path, charades_shards, [f"data.shards={tmp_path}/nowhere"])
    assert second.startswith(f"error: data.shards={tmp_path}/nowhere: there is no such folder")
    assert first == f"error: rank 1 could not start: {second.removeprefix('error: ')}"


@pytest.mark.full
@pytest.mark.parametrize(
    ("own", "words"),
    [
        (["seed=1"], "seed is 0 on rank 0, 1 on rank 1"),
        (["data.batch_size=16"], "data.batch_size is 8 on rank 0, 16 on rank 1"),
        (["trainer.max_epochs=2"], "trainer.max_epochs is 1 on rank 0, 2 on rank 1"),
        (["callbacks.best.save_top_k=2"], "callbacks.best.save_top_k is 1 on rank 0, 2 on rank 1"),
        (["helpers.other_code"], "files is "),
        (["data.train_split=test"], "the number of training samples is 34 on rank 0, 20 on rank 1"),
    ],
)
def test_ranks_that_were_started_apart_stop_before_the_first_step(charades_shards, tmp_path, own, words):
    first, second = said_by_both(tmp_path, charades_shards, own)
    assert first == second
    assert first.startswith("error: the ranks do not agree: ")
    assert words in first


@pytest.mark.full
def test_a_copy_of_the_data_that_was_changed_on_one_rank(charades_shards, tmp_path):
    other = shutil.copytree(charades_shards, tmp_path / "other")
    manifest = other / "charades-train-manifest.json"
    manifest.write_text(manifest.read_text().replace('"c000", "c001"', '"c001", "c000"'))
    test = other / "charades-test-manifest.json"
    test.write_text(test.read_text().replace('"c000", "c001"', '"c001", "c000"'))
    first, second = said_by_both(tmp_path, charades_shards, [f"data.shards={other}"])
    assert first == second
    assert "class names in another order: 0 is c000 on rank 0, c001 on rank 1" in first
