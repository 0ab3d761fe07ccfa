"""Precise batch norm: the statistics themselves, and that they disturb nothing else."""

import copy

import pytest
import torch
from torch import nn

from helpers.shards import write_tiny
from nlnet import build_model
from nlnet.config.resolve import load
from nlnet.runs.callbacks.precise_bn import PreciseBatchNorm, estimate_statistics
from nlnet.runs.train import train


def test_statistics_are_those_of_all_values_together():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1), nn.BatchNorm3d(2), nn.Dropout(0.9)).double().train()
    batches = [(1 + k) * torch.randn(n, 3, 2, 4, 4).double() + k for k, n in enumerate((4, 2, 3))]
    weights = copy.deepcopy(dict(net.named_parameters()))
    estimate_statistics(net, [*batches, torch.empty(0, 3, 2, 4, 4)])

    def check(norm, inputs):
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1)
        torch.testing.assert_close(norm.running_mean, values.mean(1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, values.var(1, correction=0), rtol=1e-12, atol=1e-12)

    check(net[0], batches)
    # the second norm sees each batch normalized by its own statistics, as in training
    check(net[2], [net[1](nn.functional.batch_norm(x, None, None, training=True, eps=1e-5)) for x in batches])
    assert all(module.training for module in net.modules())
    assert (net[0].momentum, int(net[0].num_batches_tracked)) == (0.1, 0)
    assert all(torch.equal(weights[name], value) for name, value in net.named_parameters())
    assert not net[0]._forward_hooks


def test_without_batches_and_in_frozen_norms_nothing_changes():
    for net, batches in (
        (build_model("c2d_demo"), []),
        (build_model("c2d_demo", norm="frozen", num_classes=3), [torch.randn(2, 3, 8, 32, 32)]),
    ):
        before = copy.deepcopy(net.state_dict())
        estimate_statistics(net.train(), batches)
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match="at least 1"):
        PreciseBatchNorm(0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("shards"))


PRECISE = ["callbacks=precise_bn", "callbacks.precise_bn.batches=2"]


def run(shards, logs, *more):
    overrides = ["experiment=charades_nl", "size=demo", f"data.shards={shards}", f"paths.log_dir={logs}"]
    overrides += ["callbacks.progress=null"]
    overrides += ["optim/schedule=constant", "trainer.max_epochs=-1"]  # the length of a run must not change its rates
    overrides += ["data.batch_size=8", "data.eval_batch_size=8", "data.num_workers=0"]
    figures, objects = train(load([*overrides, *more]))
    last = torch.load(objects["run_dir"] / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(objects["run_dir"] / "checkpoints" / "best.ckpt", weights_only=True)
    return figures, last["state_dict"], best["state_dict"], objects


@pytest.mark.full
def test_a_run_stopped_and_continued_ends_with_the_same_network(shards, tmp_path):
    """Six steps, four an epoch: one validation after an epoch, one at the end, which is not an epoch's."""
    figures, last, best, objects = run(shards, tmp_path / "a", *PRECISE, "trainer.max_steps=6")
    run(shards, tmp_path / "b", *PRECISE, "trainer.max_steps=3")
    again, continued, _, _ = run(shards, tmp_path / "b", *PRECISE, "trainer.max_steps=6", "ckpt_path=last")
    assert again["val/mAP"] == figures["val/mAP"]
    assert all(torch.equal(value, continued[name]) for name, value in last.items())
    # the last checkpoint holds what was validated: the statistics of the weights in it, on clips chosen by the step
    net, data = objects["task"].net, objects["data"]
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": 6, "t": 0})
    batches = [data.on_after_batch_transfer(batch, 0)["inputs"] for batch, _ in zip(loader, range(2), strict=False)]
    estimate_statistics(net, batches)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, last[f"net.{name}"], rtol=1e-6, atol=1e-7)
    plain = run(shards, tmp_path / "c", "trainer.max_steps=6")
    assert all(torch.equal(value, plain[1][name]) for name, value in last.items() if "running" not in name)
    assert any(not torch.equal(value, plain[1][name]) for name, value in last.items() if "running_var" in name)
    assert best.keys() == last.keys()
