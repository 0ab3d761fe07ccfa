"""Several splits as one training set: their order, their samples, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlnet.config.resolve import load
from nlnet.data.batches.base import RankSlice
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.data.modules.fingerprint import differences
from nlnet.data.shards.manifest import Manifest, joined, manifest_name, write_manifest
from nlnet.errors import UserError
from nlnet.runs.train import train

SMALL: dict[str, Any] = {"frames": 4, "stride": 1, "size": 24, "scale": (28, 32), "batch_size": 9, "num_workers": 0}
BOTH = ["train", "test"]


def module(shards: Path, train_split: Any = BOTH, **more: Any) -> ClipDataModule:
    return ClipDataModule(str(shards), "charades", train_split, "test", **(SMALL | more))


def clips(data: ClipDataModule, epoch: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What an epoch of training shows of each sample."""
    batches, found = data.batches(RankSlice(data.batch_size), train=True), {}
    for t in range(len(batches)):
        batch = batches[epoch, t]
        for index, clip, target, weight in zip(
            batch["indices"], batch["clips"], batch["targets"], batch["weights"], strict=True
        ):
            assert weight == 1
            found[data.train_keys[int(index)]] = (clip, target)
    return found


def test_an_epoch_is_that_of_both(charades_shards: Path) -> None:
    data = module(charades_shards)  # 34 and 20 videos in batches of 9
    assert data.train_keys == [*(f"train{k:04d}" for k in range(34)), *(f"test{k:04d}" for k in range(20))]
    assert (data.train.split, len(data.train.shards)) == ("train+test", 6)
    assert data.remarks == [
        "the validation videos, split test, are also trained on (train+test): their figures say nothing of new videos"
    ]
    shown = clips(data, epoch=1)
    assert sorted(shown) == sorted(data.train_keys)
    for split in BOTH:  # and each sample is what it is when its split is trained on alone
        alone = module(charades_shards, split, batch_size=2)
        for key, (clip, target) in clips(alone, epoch=1).items():
            assert torch.equal(clip, shown[key][0])
            assert torch.equal(target, shown[key][1])
    batches = data.batches(RankSlice(9), train=True)
    mixed = [set(np.array(data.train_keys)[batches[0, t]["indices"]]) for t in range(len(batches))]
    assert any({key[:4] for key in keys} == {"trai", "test"} for keys in mixed)  # shuffled together
    assert module(charades_shards, ["train"]).train == module(charades_shards, "train").train


def test_ranks_share_it_and_see_no_sample_twice(charades_shards: Path) -> None:
    data = module(charades_shards)
    parts = [data.batches(RankSlice(18, rank, 2), train=True) for rank in range(2)]
    seen = [int(index) for part in parts for t in range(len(part)) for index in part[0, t]["indices"]]
    assert sorted(seen) == list(range(54))


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (BOTH, []),
        ("train", ["the number of training samples was 54, is now 34; 20 are not in both, first test0"]),
        (["test", "train"], ["the training samples are in another order, first t"]),
    ],
)
def test_a_run_that_goes_on_knows_them(charades_shards: Path, splits: Any, words: list[str]) -> None:
    first, second = module(charades_shards), module(charades_shards, splits)
    lines = differences(
        first.fingerprint(), second.fingerprint(), lambda a, b: f"was {a}, is now {b}", first.train_keys
    )
    assert len(lines) == len(words)
    assert all(line.startswith(word) for line, word in zip(lines, words, strict=True))


def test_a_run_continued_with_other_splits_is_refused(charades_shards: Path, tmp_path: Path) -> None:
    base = [
        *("experiment=table4_nl_i3d_trainval", "size=demo", f"data.shards={charades_shards}", "data.num_workers=0"),
        *("data.batch_size=9", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"),
        *("callbacks.progress=null", f"paths.run_dir={tmp_path}/run"),
    ]
    train(load(base))
    with pytest.raises(UserError, match="the number of training samples was 54, is now 34") as raised:
        train(load([*base, "ckpt_path=last", "trainer.max_epochs=2", "data.train_split=train"]))
    assert "\n" not in str(raised.value)


def manifests(shards: Path) -> list[Manifest]:
    names = [manifest_name("charades", split) for split in BOTH]
    return [Manifest.from_json((shards / name).read_text(), name) for name in names]


def test_splits_that_do_not_go_together_are_refused_in_one_line(charades_shards: Path, tmp_path: Path) -> None:
    first, second = manifests(charades_shards)
    repeated = replace(second, samples=(replace(second.samples[0], key="train0007"), *second.samples[1:]))
    where = "the splits train, test as one: "
    for other, problem in (
        (replace(second, classes=("c000", "c001", "x", "c003")), "class 2 is c002 in train, x in test; prepare"),
        (replace(second, classes=second.classes[:3]), "train has 4 classes, test 3; prepare"),
        (replace(second, groups={"g": (0,)}), "train and test have other groups; prepare"),
        (repeated, "1 samples are in more than one of them, first train0007; name each split once"),
    ):
        with pytest.raises(UserError) as raised:
            joined([first, other])
        assert str(raised.value).startswith(where + problem)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="the splits train, train as one: 34 samples are in more than one"):
        module(charades_shards, ["train", "train"])
    for manifest in (first, repeated):  # the same from files
        write_manifest(tmp_path, manifest)
    for path in charades_shards.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match="1 samples are in more than one of them, first train0007"):
        module(tmp_path)


def test_where_there_is_one_split_only(charades_shards: Path) -> None:
    pattern = f"{charades_shards}/charades-train-{{000000..000002}}.tar"
    with pytest.raises(
        UserError, match=r"data\.train_split=\[train, test\]: data\.shards=.* names the files themselves"
    ):
        ClipDataModule(pattern, "charades", BOTH, val_shards=pattern, **SMALL)
    with pytest.raises(UserError, match=r"data\.train_split=\[\]: name at least one"):
        module(charades_shards, [])
    with pytest.raises(UserError, match=r"data\.train_split=\['train', 'test'\]: images are trained on from one split"):
        DetectionDataModule(str(charades_shards), train_split=BOTH, batch_size=1)  # type: ignore[arg-type]
    for words in ("[]", "[1]", "{a: 1}"):
        with pytest.raises(UserError, match=r"data\.train_split=.*: expected a word"):
            load(["experiment=charades_nl", "size=demo", f"data.train_split={words}"])
