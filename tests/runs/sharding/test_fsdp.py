"""Training with everything spread over the ranks, in real processes with gloo: the numbers are those of ddp."""

import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from helpers.processes import run_ranks, train_rank
from helpers.resharding import write_again
from helpers.signalling import killer
from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.shards import KEY, assembled
from nlnet.cli.checkpoints.consolidate import main as consolidate
from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.errors import UserError
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train

# Four steps an epoch, so that the last validation is of the middle of one.
BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null",
        "trainer.max_steps=6", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1",
        "extras.checkpoint_every_n_steps=2"]  # fmt: skip
FSDP = ["trainer=fsdp", "trainer.accelerator=cpu"]
SGD = ["optim=sgd", "optim/schedule=cosine", "optim.optimizer.lr=0.002"]


@pytest.fixture(scope="module")
def base(charades_shards):
    return [*BASE, f"data.shards={charades_shards}"]


def ranks(count, words, folder, expected=0):
    words = [*words, f"trainer.devices={count}", f"paths.run_dir={folder}"]
    codes = run_ranks(train_rank, count, words, f"{folder}.log", timeout=400)
    assert codes == [expected] * count, Path(f"{folder}.log.0").read_text()[-2000:]


def losses(folder):
    return [float(row["train/loss"]) for row in read_rows(folder / "metrics.csv") if row["train/loss"]]


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def of_ddp(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp") / "run"
    ranks(2, [*base, "trainer=ddp_sim"], folder)
    return folder


@pytest.fixture(scope="module")
def of_fsdp(base, tmp_path_factory):
    """Two ranks, of which one gets SIGTERM in the fifth step, and that go on."""
    folder = tmp_path_factory.mktemp("fsdp") / "run"
    ranks(2, [*base, *FSDP, *killer("inside_step", 5, signal.SIGTERM, rank=1)], folder, expected=143)
    assert len(losses(folder)) == 5
    ranks(2, [*base, *FSDP, "ckpt_path=last"], folder)
    return folder


def same(a, b):
    """The tensors in two nested values that differ in a bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return [f"{key}.{name}" for key in a for name in same(a[key], b[key])]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [""]
    return []


@pytest.mark.full
def test_two_ranks_stopped_and_resumed_give_the_losses_weights_and_optimizer_of_ddp(of_ddp, of_fsdp):
    """So the losses are those of ddp, and the stop has changed nothing: with gloo the sums are the same bit for bit."""
    assert read_rows(of_fsdp / "metrics.csv") == read_rows(of_ddp / "metrics.csv")
    whole, plain = read_file(last(of_fsdp)), read_file(last(of_ddp))
    assert list(whole) == list(plain)
    assert same(plain["state_dict"], whole["state_dict"]) == []
    assert same(plain["optimizer_states"][0]["state"], whole["optimizer_states"][0]["state"]) == []


@pytest.mark.full
def test_each_rank_writes_its_part_and_no_more_is_kept_than_is_named(of_fsdp):
    content = torch.load(last(of_fsdp), weights_only=True)
    folder = last(of_fsdp).with_name(content[KEY]["folder"])
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.distcp"))]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes)
    assert content["state_dict"]["net.res3.0.conv1.weight"] is None
    named = {torch.load(path, weights_only=True).get(KEY, {}).get("folder") for path in folder.parent.glob("*.ckpt")}
    assert {path.name for path in folder.parent.glob("*.shards")} == named - {None}


@pytest.mark.full
def test_one_file_of_it_is_what_ddp_would_have_written(of_ddp, of_fsdp, tmp_path, command):
    out = tmp_path / "out.ckpt"
    code, said, _ = command(consolidate, str(last(of_fsdp)), str(out))
    assert code == 0
    assert f"written: {out}" in said
    one, plain = torch.load(out, weights_only=True), torch.load(last(of_ddp), weights_only=True)
    assert list(one) == list(plain)
    assert same(plain["state_dict"], one["state_dict"]) == []
    assert one["optimizer_states"][0]["param_groups"] == plain["optimizer_states"][0]["param_groups"]


@pytest.mark.full
def test_an_evaluation_reads_the_shards(of_ddp, of_fsdp, tmp_path):
    found = [
        evaluate(load_run_config([f"ckpt_path={last(run)}", f"paths.log_dir={tmp_path / run.parent.name}"]))
        for run in (of_ddp, of_fsdp)
    ]
    assert found[0] == found[1]


@pytest.mark.full
def test_damaged_missing_and_foreign_shards_are_one_line(of_fsdp, tmp_path):
    shutil.copytree(of_fsdp, tmp_path / "run")
    file = last(tmp_path / "run")
    content = torch.load(file, weights_only=True)
    shard = next(file.with_name(content[KEY]["folder"]).glob("__1_*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"its shard .*__1_0.distcp is damaged since it was written"):
        read_file(file)
    shutil.rmtree(shard.parent)
    with pytest.raises(
        UserError, match=r"is not there .*copy the folder last-[0-9a-f]{8}.shards beside the checkpoint"
    ):
        read_file(file)
    for folder in ("../last-00000000.shards", "/etc", 5):
        with pytest.raises(UserError, match="does not say where its shards are"):
            assembled({**content, KEY: {**content[KEY], "folder": folder}}, file)


@pytest.mark.full
@pytest.mark.parametrize("count", [1, 2])
def test_losses_are_those_of_ddp_on_as_many_ranks(base, tmp_path, count):
    """To 1e-6 in the first step and 1e-4 in ten, with every option that both have."""
    words = [*base, *SGD, "trainer.max_steps=10", "trainer.gradient_clip_val=0.5", "checkpoint_stages=[res3]"]
    ranks(count, [*words, "trainer=ddp_sim"], tmp_path / "ddp")
    ranks(count, [*words, *FSDP], tmp_path / "fsdp")
    found, expected = losses(tmp_path / "fsdp"), losses(tmp_path / "ddp")
    assert len(found) == 10
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.full
def test_from_one_rank_to_two_and_back_nothing_changes(base, tmp_path):
    """Weights and optimizer states, bit for bit, through shards of another number of ranks."""
    words = [*base, *FSDP, "trainer.limit_val_batches=0", "trainer.max_steps=2"]
    ranks(1, words, tmp_path / "one")
    before, place = read_file(last(tmp_path / "one")), last(tmp_path / "one")
    for count in (2, 1):
        again = [*words, f"trainer.devices={count}", f"ckpt_path={place}", f"paths.run_dir={tmp_path / f'to-{count}'}"]
        place = tmp_path / f"again-{count}.ckpt"
        assert run_ranks(write_again, count, again, str(place), timeout=400) == [0] * count
        assert len(torch.load(place, weights_only=True)[KEY]["files"]) == count
        after = read_file(place)
        assert same(before["state_dict"], after["state_dict"]) == []
        assert same(before["optimizer_states"][0]["state"], after["optimizer_states"][0]["state"]) == []
        assert after["global_step"] == 2


@pytest.mark.full
def test_a_kill_at_any_moment_leaves_a_checkpoint_that_goes_on(base, of_ddp, tmp_path):
    """Killed in a step, and while a checkpoint is written: its shards are there, and no file names them yet."""
    words = [*base, *FSDP]
    for moment, count in (("saving", 1), ("inside_step", 4), ("saving", 2), ("saving", 1)):
        more = ["ckpt_path=last"] if last(tmp_path / "run").exists() else []
        shutil.rmtree(tmp_path / "run") if not more and (tmp_path / "run").exists() else None
        with suppress(AssertionError):  # the other rank notices, and ends in its own way
            ranks(2, [*words, *more, *killer(moment, count, signal.SIGKILL)], tmp_path / "run", expected=-9)
        if more:
            assert read_file(last(tmp_path / "run"))["global_step"] > 0
    ranks(2, [*words, "ckpt_path=last"], tmp_path / "run")
    assert losses(tmp_path / "run") == losses(of_ddp)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks=ema"], r"EMAWeightAveraging works with whole networks, and trainer=fsdp has parts of them"),
        (["callbacks=precise_bn"], r"PreciseBatchNorm works with whole networks"),
        pytest.param(
            ["compile=true"],
            r"compile=true: PyTorch's compiler does not take networks whose blocks are gathered",
            marks=pytest.mark.full,
        ),
        (["channels_last=true"], r"channels_last=true: FSDP cuts parameters that are contiguous"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(base, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train(load([*base, *FSDP, "trainer.devices=2", *words, f"paths.run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
