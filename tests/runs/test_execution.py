"""How a network is executed: options that change time and memory and not what is trained, and what refuses them."""

import pytest
import torch

from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.train import train

BASE = [
    "experiment=charades_nl",
    "size=demo",
    "data.batch_size=8",
    "data.num_workers=0",
    "callbacks.progress=null",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
    "optim=sgd",
    "optim/schedule=cosine",
    "optim.optimizer.lr=0.001",
]


@pytest.fixture(scope="module")
def base(charades_shards):
    return [*BASE, f"data.shards={charades_shards}"]


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    return outcome(base, tmp_path_factory.mktemp("plain"))


def outcome(words, folder):
    """The losses of the steps, and the last checkpoint."""
    train(load([*words, f"paths.run_dir={folder}"]))
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return losses(folder), last


def losses(folder):
    return [float(row["train/loss"]) for row in read_rows(folder / "metrics.csv") if row["train/loss"]]


def test_recomputed_stages_train_the_same_bit_for_bit(base, plain, tmp_path):
    found, last = outcome([*base, "checkpoint_stages=[res2,res3]"], tmp_path)
    assert found == plain[0]
    assert last["hyper_parameters"]["checkpoint_stages"] == ["res2", "res3"]
    assert all(torch.equal(value, last["state_dict"][name]) for name, value in plain[1]["state_dict"].items())


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        pytest.param(["channels_last=true", "optim.optimizer.fused=true"], 1e-5, id="layout and fused update"),
        pytest.param(["trainer.precision=bf16-mixed"], 3e-2, id="bfloat16"),
        pytest.param(["compile=true"], 1e-5, id="compiled", marks=pytest.mark.full),
        pytest.param(
            ["compile=true", "channels_last=true", "checkpoint_stages=[res3]", "trainer.precision=bf16-mixed"],
            3e-2,
            id="all together",
            marks=pytest.mark.full,
        ),
    ],
)
def test_what_is_trained_is_the_same(base, plain, tmp_path, words, tolerance):
    found, last = outcome([*base, *words], tmp_path)
    assert found == pytest.approx(plain[0], rel=tolerance)
    assert list(last["state_dict"]) == list(plain[1]["state_dict"])
    shapes = {name: (value.shape, value.dtype) for name, value in last["state_dict"].items()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in plain[1]["state_dict"].items()}


def test_a_run_goes_on_with_others_of_them(base, plain, tmp_path, capsys):
    """They are no part of what was trained: a run may go on with others, and says so."""
    words = [*base, "trainer.max_epochs=2"]
    train(load([*base, f"paths.run_dir={tmp_path}"]))
    changed = ["checkpoint_stages=[res3]", "channels_last=true", "optim.optimizer.fused=true"]
    train(load([*words, *changed, f"paths.run_dir={tmp_path}", "ckpt_path=last"]))
    said = capsys.readouterr().out
    assert "optim.optimizer.fused=True (was None)" in said
    assert "channels_last=True (was False)" in said
    assert len(losses(tmp_path)) == 6
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["fused"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint_stages=[res7]"], r"checkpoint_stages: ResNet3d has no stage res7; nearest: res3, res2"),
        (["checkpoint_stages=res3"], r"checkpoint_stages=res3: expected an empty list or a list of up to 16"),
        (["compile=3"], r"compile=3: expected true or false"),
        (
            ["optim.optimizer._target_=torch.optim.Adamax", "optim.optimizer.fused=true"],
            r"optim.optimizer.fused=true: Adamax has no fused form on cpu: .*; leave it out",
        ),
        (
            ["optim.optimizer.fused=true", "trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed"],
            r"optim.optimizer.fused=true and trainer.gradient_clip_val=1: under trainer.precision=bf16-mixed",
        ),
        (
            ["trainer=ddp_sim", "trainer.sync_batchnorm=true"],
            r"trainer.sync_batchnorm=true: PyTorch synchronizes batch norms on GPUs only",
        ),
        (["trainer.precision=16-mixed"], r"trainer.precision=16-mixed: float16 needs a GPU"),
        (["trainer.strategy=ddq"], r"trainer.strategy=ddq: there is no such strategy; nearest: ddp"),
    ],
)
def test_what_cannot_be_is_one_line(base, tmp_path, words, message):
    with pytest.raises(UserError, match=message) as raised:
        train(load([*base, *words, f"paths.run_dir={tmp_path / 'run'}"]))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer=gpu"], r"trainer.accelerator=gpu: PyTorch .* finds no GPU here"),
        (["trainer=fsdp", "trainer.accelerator=gpu"], r"trainer.accelerator=gpu: PyTorch .* finds no GPU here"),
        (["trainer=mps"], r"trainer.accelerator=mps: PyTorch finds no GPU of Apple's here"),
        (["trainer.accelerator=auto", "trainer.precision=16-mixed"], r"float16 needs a GPU, and there is none"),
        (
            ["trainer=deepspeed", "trainer.accelerator=cpu", "trainer.devices=1"],
            r"trainer.strategy=deepspeed_stage_2: needs the package deepspeed, which is not installed here",
        ),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_made(base, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train(load([*base, *words, f"paths.run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    ("typed", "dtype", "tolerance"), [("64-true", torch.float64, 1e-4), ("bf16-true", torch.bfloat16, 0.1)]
)
def test_weights_of_another_type_train(base, plain, tmp_path, typed, dtype, tolerance):
    found, last = outcome([*base, f"trainer.precision={typed}"], tmp_path)
    assert found == pytest.approx(plain[0], rel=tolerance)
    assert last["state_dict"]["net.fc.weight"].dtype == dtype


@pytest.mark.parametrize("typed", ["32", "32-true", "16-mixed", "bf16-mixed"])
def test_precisions_are_taken_as_people_type_them(typed):
    words = ["experiment=charades_nl", "data.shards=x", "init.checkpoint=x", f"trainer.precision={typed}"]
    assert str(load(words).trainer.precision) == typed
