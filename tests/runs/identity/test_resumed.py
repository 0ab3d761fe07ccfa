"""Runs whose data, code or number of ranks change between a stop and its continuation, or its evaluation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.data.shards.manifest import Manifest
from nlnet.errors import UserError
from nlnet.runs.evaluate import evaluate
from nlnet.runs.identity.resumed import KEY, check_continued
from nlnet.runs.train import train

BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null"]


def words(shards: Path, run: Path, *more: str) -> list[str]:
    return [*BASE, f"data.shards={shards}", f"paths.run_dir={run}", *more]


@pytest.fixture(scope="module")
def stopped(charades_shards, tmp_path_factory):
    """Shards, and the folder of a run that has trained an epoch on them."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(charades_shards, folder / "shards")
    train(load(words(folder / "shards", folder / "run", "trainer.max_epochs=1")))
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    """A copy of both that a test may change, and that says of itself that it is at its place."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["hyper_parameters"]["data"]["shards"] = f"{tmp_path}/shards"
        torch.save(checkpoint, path)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(stopped), str(tmp_path)))
    return tmp_path


def change(shards: Path, split: str, edit) -> None:
    path = shards / f"charades-{split}-manifest.json"
    path.write_text(edit(Manifest.from_json(path.read_text(), str(path))).to_json())


def relabeled(manifest: Manifest) -> Manifest:
    samples = [replace(s, labels=((0, 0.0, 0.5),)) if k % 3 == 1 else s for k, s in enumerate(manifest.samples)]
    return replace(manifest, samples=tuple(samples))


def reordered(manifest: Manifest) -> Manifest:
    return replace(manifest, samples=manifest.samples[::-1])


def reversed_names(manifest: Manifest) -> Manifest:
    return replace(manifest, classes=manifest.classes[::-1])


def shortened(manifest: Manifest) -> Manifest:
    samples = manifest.samples[:10]
    counts = [sum(sample.shard == k for sample in samples) for k in range(len(manifest.shards))]
    shards = tuple(replace(shard, samples=count) for shard, count in zip(manifest.shards, counts, strict=True))
    return replace(manifest, samples=samples, shards=shards)


CHANGES = [
    (relabeled, "labels of {labels} {split} samples differ, first {first}0001"),
    (reordered, "the {split} samples are in another order, first {first}00"),
    (shortened, "the number of {split} samples was {count}, is now 10; "),
    (reversed_names, "class names in another order: 0 was c000, is now c003"),
]


@pytest.mark.parametrize(("edit", "told"), CHANGES)
def test_changed_data_stop_a_continuation_and_an_evaluation_in_one_line(copy, capsys, edit, told):
    both = ("train", "test") if edit is reversed_names else ("train",)
    for split in both:
        change(copy / "shards", split, edit)
    more = ["ckpt_path=last", "trainer.max_epochs=2"]
    with pytest.raises(UserError) as raised:
        train(load(words(copy / "shards", copy / "run", *more)))
    assert told.format(labels=11, split="training", first="train", count=34) in str(raised.value)
    assert "extras.allow_changed_data=true" in str(raised.value)
    assert "\n" not in str(raised.value)
    summary = json.loads((copy / "run" / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", str(raised.value))

    if edit is not reversed_names:
        change(copy / "shards", "test", edit)
    ckpt = [f"ckpt_path={copy}/run/checkpoints/last.ckpt", f"paths.log_dir={copy}/logs"]
    with pytest.raises(UserError) as raised:
        evaluate(load_run_config(ckpt))
    assert told.format(labels=7, split="validation", first="test", count=20) in str(raised.value)
    evaluate(load_run_config([*ckpt, "extras.allow_changed_data=true"]))
    assert "the data have changed (extras.allow_changed_data=true): " in capsys.readouterr().out


def test_what_is_allowed_by_name_goes_on_and_is_told(copy, capsys):
    change(copy / "shards", "train", relabeled)
    more = ["ckpt_path=last", "trainer.max_epochs=2", "extras.allow_changed_data=true"]
    metrics, _ = train(load(words(copy / "shards", copy / "run", *more)))
    assert metrics["val/videos"] == 20
    assert "(extras.allow_changed_data=true): labels of 11 training samples differ" in capsys.readouterr().out


def test_other_code_and_ranks_are_told_and_go_on_and_so_do_older_checkpoints(copy, capsys):
    last = copy / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint[KEY] |= {"code": checkpoint[KEY]["code"] | {"nlnet": "0.0.9"}, "world_size": 2}
    torch.save(checkpoint, last)
    common = words(copy / "shards", copy / "run", "ckpt_path=last", "trainer.max_steps=5", "trainer.max_epochs=-1")
    train(load(common))
    out = capsys.readouterr().out
    assert "continuing with other code than the checkpoint's: nlnet was 0.0.9, is now " in out
    assert "continuing with another number of ranks: it was 2, is now 1" in out

    checkpoint.pop(KEY)
    torch.save(checkpoint, last)
    train(load(common))
    assert "last.ckpt does not say which data it was trained on" in capsys.readouterr().out


def test_another_place_may_have_other_samples_but_not_other_classes(copy, capsys):
    shutil.copytree(copy / "shards", copy / "others")
    change(copy / "others", "test", shortened)
    ckpt = [f"ckpt_path={copy}/run/checkpoints/last.ckpt", f"paths.log_dir={copy}/logs"]
    assert evaluate(load_run_config([*ckpt, f"data.shards={copy}/others"]))["val/videos"] == 10
    assert "other data than in training: the number of validation samples was 20, is now 10" in capsys.readouterr().out
    for split in ("train", "test"):
        change(copy / "others", split, reversed_names)
    with pytest.raises(UserError, match="class names in another order: 0 was c000, is now c003"):
        evaluate(load_run_config([*ckpt, f"data.shards={copy}/others"]))


def test_a_record_of_wrong_types_is_one_line(stopped):
    good = torch.load(stopped / "run" / "checkpoints" / "last.ckpt", weights_only=True)[KEY]
    data = SimpleNamespace(train_keys=[], val_keys=[], fingerprint=lambda: good["data"], digest=lambda: "")
    cfg = load([*BASE, f"data.shards={stopped}"])
    check_continued({KEY: good}, data, good["world_size"], cfg, "x")
    for part in good:
        for value in (None, 3, "text", [1], [[{}]], float("nan"), torch.zeros(2)):
            with pytest.raises(UserError, match=r"^x: .*(none of a run's|have changed)"):
                check_continued({KEY: good | {part: value, "data": value}}, data, 1, cfg, "x")
    for value in (3, "text", [1], {"data": good["data"]}):
        with pytest.raises(UserError, match=r"^x: "):
            check_continued({KEY: value}, data, 1, cfg, "x")
