"""Numbers that are none: no update by them, no checkpoint with them, no metric of them, whatever the task is."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from helpers.breaking import Norms
from helpers.processes import run_ranks, train_rank
from nlnet.cli import predict
from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.data.batches.base import complete_batch
from nlnet.data.modules.base import DataModule
from nlnet.data.synthetic.shapes import build
from nlnet.errors import UserError
from nlnet.models.finite import not_finite_weight
from nlnet.runs.callbacks.finite import FiniteNumbers
from nlnet.runs.evaluate import evaluate
from nlnet.runs.quiet import quiet
from nlnet.runs.train import train

BASE = [
    "experiment=charades_nl",
    "size=demo",
    "data.batch_size=8",
    "data.eval_batch_size=8",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "callbacks.progress=null",
    "extras.checkpoint_every_n_steps=1",
    "extras.allow_targets=[helpers]",
]
SELDOM = "extras.checkpoint_every_n_steps=3"


def settings(shards: Path, tmp_path: Path, *more: str) -> list[str]:
    return [*BASE, f"data.shards={shards}", f"paths.run_dir={tmp_path}/run", *more]


def spoil(what: str, step: int = 1) -> list[str]:
    words = {"_target_": "helpers.breaking.Spoil", "what": what, "step": step}
    return [f"+callbacks.spoil.{key}={value}" for key, value in words.items()]


def stopped(run: Path, call) -> str:
    """Why the run ended: said, recorded, and no checkpoint has a weight that is no number."""
    with pytest.raises(UserError) as raised:
        call()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", str(raised.value))
    for path in run.glob("checkpoints/*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values()), path
    return str(raised.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["optim.optimizer.lr=1e30"], ["step 2, at learning rate ", "the loss is not finite (train/loss=nan)"]),
        (
            ["task.loss={_target_: helpers.breaking.flat_loss, _partial_: true}"],
            ["step 1, at", "the loss is 0, and ", " of its gradients are not finite (net."],
        ),
        (
            ["task.loss={_target_: helpers.breaking.frozen_infinity, _partial_: true}"],
            ["step 1, at", "not finite (train/loss=inf)"],
        ),
        ([*spoil("weight", 2), SELDOM], ["step 3, at", "not finite (train/loss=nan)"]),
        (
            [*spoil("weight", 4), SELDOM],
            ["of 20 videos is not finite, and no metric is made of it: test0000, test0001,"],
        ),
        (spoil("statistic", 2), ["step 2: the weights are not finite (net.stem.bn.running_var)", "no checkpoint is"]),
        (spoil("score"), ["what the network says of 3 videos is not finite", ": test0002, test0010, test0018;"]),
    ],
)
def test_a_training_stops_in_words_and_keeps_its_last_good_checkpoint(charades_shards, tmp_path, more, words):
    overrides = settings(charades_shards, tmp_path, *more)
    reason = stopped(tmp_path / "run", lambda: train(load(overrides)))
    for word in words:
        assert word in reason
    if "step 2, at" in reason:
        assert reason.count("train0") == 8  # the keys of the batch
        assert f"{tmp_path}/run/checkpoints/last.ckpt is of an earlier step" in reason


def test_a_network_that_says_nan_gets_no_figures(charades_shards, tmp_path, command):
    train(load(settings(charades_shards, tmp_path, "trainer.limit_train_batches=1")))
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["state_dict"]["net.fc.bias"][:] = torch.nan
    torch.save(checkpoint, best)
    for protocol in ([], ["protocol=30view", "protocol.clips=1"]):
        logs = tmp_path / f"eval{len(protocol)}"
        cfg = load_run_config([f"ckpt_path={best}", f"paths.log_dir={logs}", *protocol])
        with pytest.raises(UserError, match=r"of 20 videos .*not finite, and no metric is made of .*test0019; look"):
            evaluate(cfg)
        (summary,) = logs.rglob("summary.json")
        assert (json.loads(summary.read_text())["status"], list(logs.rglob("*.parquet"))) == ("failed", [])
    out = tmp_path / "predictions.json"
    out.write_text("an earlier one")
    code, _, err = command(predict.main, f"ckpt_path={best}", f"source={charades_shards}", f"out={out}")
    assert code == 1
    assert err.startswith("error: ")
    assert "not finite" in err
    assert err.count("\n") == 1
    assert out.read_text() == "an earlier one"


@pytest.mark.parametrize("task", ["mask", pytest.param("keypoint", marks=pytest.mark.full)])
def test_a_detector_stops_in_words(tmp_path, task):
    build(tmp_path / "coco", {"train": 20, "val": 2})
    words = [
        f"experiment=coco_{task}_nl",
        "size=demo_coco",
        f"data.shards={tmp_path}/coco",
        "data.batch_size=4",
        *BASE[3:],
    ]
    words += [f"paths.run_dir={tmp_path}/run", "optim.optimizer.lr=1e30"]
    reason = stopped(tmp_path / "run", lambda: train(load(words)))
    assert "at learning rate " in reason
    assert "not finite" in reason
    assert reason.count("train0") == 4  # the images of the batch


@pytest.mark.full
def test_two_ranks_stop_together_at_a_loss_that_one_of_them_has(charades_shards, tmp_path):
    """Rank 1 alone reads an infinite clip; the gradients would tell rank 0, its loss would not."""
    more = ["trainer=ddp_sim", "+callbacks.one._target_=helpers.breaking.SpoilRank"]
    log = tmp_path / "log"
    assert run_ranks(train_rank, 2, settings(charades_shards, tmp_path, *more), str(log)) == [1, 1]
    said = [Path(f"{log}.{rank}").read_text().strip().splitlines()[-1] for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("error: step 1, at learning rate ")
    assert said[0].count("train0") == 8  # of both ranks


class Clips(DataModule):
    """Four samples of three numbers; the loss of the third batch is infinite where it is asked for."""

    classes = ("a", "b")
    train_keys = ("w", "x", "y", "z")

    def train_dataloader(self):
        rows = [(torch.full((3,), float(k)), k) for k in range(4)]
        return DataLoader(rows, batch_size=1, collate_fn=self.collated)

    @staticmethod
    def collated(rows):
        return complete_batch({"inputs": rows[0][0]}, torch.tensor([rows[0][1]]))


class Small(pl.LightningModule):
    """A loss of zero whose gradient is `factor` times the sample; an infinite factor makes NaN of both."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors, self.weight = factors, torch.nn.Parameter(torch.ones(3))
        self.seen: list[float] = []

    def training_step(self, batch, batch_idx):
        product = (self.weight * batch["inputs"]).sum()
        return (product - product.detach()) * self.factors[batch_idx]

    def on_train_batch_end(self, *_):
        self.seen.append(float(self.weight.detach()[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module: Small, tmp_path: Path, **options) -> pl.Trainer:
    quiet()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[FiniteNumbers()], **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=Clips())
    return trainer


def test_every_batch_of_an_accumulated_step_is_named(tmp_path):
    with pytest.raises(UserError, match=r"step 2, .* \(0.0, nan\), on the samples y, z\. The weights"):
        fit(Small(1, 1, 0, math.inf), tmp_path, accumulate_grad_batches=2)


def test_a_scaler_may_skip_steps_and_its_loss_is_still_looked_at(tmp_path):
    def scaled(scale: float) -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    # Scaled by 2^100 the gradients of the last samples overflow: the scaler skips those steps, and nothing is said.
    module = Small(1, 1, 1e10, 1e10)
    fit(module, tmp_path, plugins=[scaled(2.0**100)])
    assert module.seen[0] != module.seen[1] == module.seen[2] == module.seen[3]
    with pytest.raises(UserError, match=r"step 3, .*the loss is not finite \(nan\), on the samples y\."):
        fit(Small(1, 1, math.inf, 1), tmp_path, plugins=[scaled(2.0)])


def test_a_task_of_ones_own_is_looked_at_like_any_other(tmp_path):
    net = torch.nn.Linear(3, 1)
    task = Norms(net, "own", monitor="val/small", classes=("a",), optimizer=torch.optim.SGD, schedule=partial)
    finite = FiniteNumbers()
    trainer = SimpleNamespace(datamodule=SimpleNamespace(val_keys=("p", "q", "r")))
    inputs = torch.tensor([[1.0, 1, 1], [math.nan, 1, 1], [math.nan, 1, 1]])
    batch = complete_batch({"inputs": inputs, "weights": torch.tensor([1.0, 1, 0])}, torch.tensor([0, 1, 2]))
    finite.on_validation_start(trainer, task)
    finite.on_validation_batch_start(trainer, task, batch, 0)
    task.validation_step(batch, 0)
    with pytest.raises(UserError, match="of 1 videos is not finite, and no metric is made of it: q;"):
        finite.on_validation_epoch_end(trainer, task)
    assert not net._forward_hooks  # nothing is left on the network


def test_masks_of_infinity_are_no_weights():
    net = torch.nn.Linear(2, 2)
    net.register_buffer("mask", torch.full((2, 2), -math.inf))
    assert not_finite_weight(net) is None
    net.bias.data[1] = math.inf
    assert not_finite_weight(net) == "bias"
