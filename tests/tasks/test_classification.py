"""The loss under missing samples, which parameters decay, and how long a schedule is."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlnet import build_model
from nlnet.errors import UserError
from nlnet.optim.parameter_groups import parameter_groups, scale_rates
from nlnet.optim.schedules import constant
from nlnet.optim.total_steps import total_steps
from nlnet.tasks import ClassificationTask


def make_task(kind):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    task = ClassificationTask(
        net,
        kind,
        monitor="val/x",
        classes=["a", "b", "c"],
        groups={},
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=partial,
    )
    task._trainer = SimpleNamespace(world_size=1)
    task.logged = {}
    task.log = lambda name, value, **_: task.logged.update({name: value.item()})
    return task


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_the_loss_and_its_gradient_are_those_of_the_readable_samples(kind):
    task = make_task(kind)
    inputs = torch.randn(5, 3, 4, dtype=torch.float64)
    targets = torch.randint(0, 2, (5, 3)).float() if kind == "multilabel" else torch.randint(0, 3, (5,))
    weights = torch.tensor([1.0, 0, 1, 1, 0])
    loss = task.training_step({"inputs": inputs, "targets": targets, "weights": weights}, 0)
    (ours,) = torch.autograd.grad(loss, task.net[1].weight)

    good = weights > 0
    logits = task.net(inputs[good]).float()
    if kind == "multilabel":
        expected = F.binary_cross_entropy_with_logits(logits, targets[good])
    else:
        expected = F.cross_entropy(logits, targets[good])
    (theirs,) = torch.autograd.grad(expected, task.net[1].weight)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, theirs)
    right = {} if kind == "multilabel" else {"train/top1": (logits.argmax(1) == targets[good]).double().mean().item()}
    assert task.logged == pytest.approx({"train/loss": expected.item()} | right)


def test_a_batch_without_a_readable_sample_changes_nothing():
    task = make_task("multilabel")
    batch = {"inputs": torch.randn(2, 3, 4).double(), "targets": torch.ones(2, 3), "weights": torch.zeros(2)}
    loss = task.training_step(batch, 0)
    (gradient,) = torch.autograd.grad(loss, task.net[1].weight)
    assert loss.item() == 0
    assert not gradient.any()


def test_weights_decay_and_norms_and_biases_do_not():
    net = build_model("c2d_demo", nonlocal_blocks=2, num_classes=4)
    optimizer = torch.optim.SGD(parameter_groups(net), lr=0.1, weight_decay=0.01)
    decaying, kept = optimizer.param_groups
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert len(names) == len(decaying["params"]) + len(kept["params"])
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decaying["params"])
    norms = {
        f"{name}.{kind}"
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm3d)
        for kind in ("weight", "bias")
    }
    assert norms < {names[id(p)] for p in kept["params"]}


def decaying(net, no_weight_decay):
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    decayed, kept = parameter_groups(net, no_weight_decay)
    assert (kept["weight_decay"], "weight_decay" in decayed) == (0.0, False)
    return {names[id(p)] for p in decayed["params"]}, {names[id(p)] for p in kept["params"]}


def test_the_official_recipe_keeps_decay_off_norms_alone():
    net = build_model("c2d_demo", nonlocal_blocks=1, num_classes=4)
    decayed, kept = decaying(net, "norms")
    assert {"fc.bias", "res3.0_nonlocal.out.bias", "stem.conv.weight"} <= decayed
    assert {"stem.bn.weight", "stem.bn.bias", "res3.0_nonlocal.norm.weight", "res2.0.downsample.1.bias"} <= kept
    assert all(".bn" in name or "norm." in name or "downsample.1" in name for name in kept)
    everything, nothing = decaying(net, "nothing")
    assert (everything, nothing) == (decayed | kept, set())
    frozen = build_model("c2d_demo", nonlocal_blocks=1, num_classes=4, norm="frozen")
    assert decaying(frozen, "norms") == (decayed, set())
    with pytest.raises(UserError, match=r"optim\.no_weight_decay=norm is unknown; nearest: norms"):
        parameter_groups(net, "norm")


@pytest.mark.parametrize("no_weight_decay", ["norms", "norms_and_biases", "nothing"])
def test_biases_have_a_rate_of_their_own(no_weight_decay):
    """Twice the rate for the biases of convolutions and of the classifier, and what decays is what did before."""
    net = build_model("c2d_demo", nonlocal_blocks=1, num_classes=4)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    optimizer = scale_rates(torch.optim.SGD(parameter_groups(net, no_weight_decay, 2.0), lr=0.1, weight_decay=0.01))
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert rates.keys() == set(names.values())
    block = [f"res3.0_nonlocal.{part}.bias" for part in ("theta", "phi", "g", "out")]
    assert {name for name, rate in rates.items() if rate == 0.2} == {"fc.bias", *block}
    assert set(rates.values()) == {0.1, 0.2}
    assert decays == {names[id(p)] for p in parameter_groups(net, no_weight_decay)[0]["params"]}
    scheduler = constant(optimizer, 10, warmup=2)  # the schedule keeps the ratio
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, 0.1]
    assert "lr_factor" not in {key for group in scheduler.optimizer.param_groups for key in group}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 9),  # the short last group of an epoch steps, too
        ({"max_epochs": 3, "limit_train_batches": 4}, 12),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 15),
        ({"max_epochs": 3, "overfit_batches": 2}, 6),
        ({"max_steps": 7}, 7),
        ({"max_epochs": 3, "max_steps": 25}, 25),
    ],
)
def test_total_steps(settings, expected):
    defaults = {"max_epochs": -1, "max_steps": -1, "accumulate_grad_batches": 1, "limit_train_batches": 1.0}
    data = SimpleNamespace(train_dataloader=lambda: range(10))
    trainer = SimpleNamespace(**(defaults | {"overfit_batches": 0, "datamodule": data} | settings))
    assert total_steps(trainer) == expected


def test_what_is_refused():
    with pytest.raises(UserError, match="max_epochs"):
        total_steps(SimpleNamespace(max_epochs=-1, max_steps=-1))
    with pytest.raises(UserError, match="task=multilabel"):
        ClassificationTask.check_kind("multiclass", SimpleNamespace(kind="multilabel", shards="/data"))
