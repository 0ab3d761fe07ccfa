"""From a configuration to the objects of a run."""

import pytest
import torch
from pytorch_lightning.callbacks import ProgressBar
from torch.optim import SGD

from nlnet import build_model
from nlnet.config.compose import compose
from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.runs.build import make_data, make_task, make_trainer
from nlnet.tasks.classification import ClassificationTask

DEMO = ["size=demo", "model.nonlocal_blocks=0"]


@pytest.fixture
def weights(tmp_path):
    net = build_model("c2d_demo", num_classes=4)
    torch.save({"state_dict": {f"net.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "a.ckpt")
    return net, tmp_path / "a.ckpt"


def initial_weights(net, overrides):
    cfg = compose(overrides)
    return ClassificationTask.initial_weights(net, cfg.init, cfg.model)


def test_a_new_network_starts_from_a_checkpoint(weights):
    trained, path = weights
    net = build_model("c2d_demo", num_classes=3)
    assert initial_weights(net, [*DEMO, f"init.checkpoint={path}"]) == [f"weights from {path}; new: the classifier"]
    assert torch.equal(net.stem.conv.weight, trained.stem.conv.weight)
    net = build_model("c2d_demo", num_classes=4)
    initial_weights(net, [*DEMO, f"init.checkpoint={path}", "init.keep_classifier=true", "model.norm=frozen"])
    assert torch.equal(net.fc.weight, trained.fc.weight)
    before = build_model("c2d_demo", num_classes=4)
    assert initial_weights(before, DEMO) == []
    assert not torch.equal(before.fc.weight, trained.fc.weight)


def test_weights_are_not_loaded_where_another_checkpoint_follows(charades_shards, capsys, weights):
    trained, path = weights
    overrides = ["experiment=charades_nl", *DEMO, f"data.shards={charades_shards}", "data.batch_size=8"]
    cfg = load([*overrides, f"init.checkpoint={path}", "ckpt_path=other.ckpt"])
    task = make_task(cfg, make_data(cfg))
    assert "weights from" not in capsys.readouterr().out
    assert not torch.equal(task.net.stem.conv.weight, trained.stem.conv.weight)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=kinetics_i3d_nl_128f"], r"model\.norm=frozen: .*init\.checkpoint=FILE.*or start"),
        (
            ["experiment=charades_nl", "init.checkpoint=null"],
            r"model\.norm=frozen: .*or start at random with model\.norm=batch",
        ),
        (["init.checkpoint=a", "init.images=b"], r"init\.checkpoint=a and init\.images=b: give one"),
        (["init.checkpoint=none.ckpt"], r"none\.ckpt: there is no such file"),
        (["init.images=none.pth"], r"none\.pth: there is no such file of 2-D weights"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        initial_weights(build_model("c2d_demo"), overrides)


def test_the_optimizer_gets_the_rate_of_its_batch(charades_shards):
    overrides = ["experiment=charades_nl", *DEMO, f"data.shards={charades_shards}", "data.batch_size=8"]
    more = ["optim=sgd", "optim.optimizer.lr=0.01", "optim.lr_batch=4", "trainer.accumulate_grad_batches=2"]
    cfg = load([*overrides, *more])
    task = make_task(cfg, make_data(cfg))
    made = task._optimizer(task.net.parameters())
    assert isinstance(made, SGD)
    assert made.param_groups[0]["lr"] == pytest.approx(0.02)


def test_the_kind_of_task_is_that_of_the_shards(kinetics_shards):
    overrides = ["experiment=charades_nl", *DEMO, f"data.shards={kinetics_shards}", "data.batch_size=8"]
    cfg = load([*overrides, "data.dataset=kinetics", "data.val_split=val"])
    with pytest.raises(UserError, match=r"task\.kind=multilabel, but the shards in .* are multiclass; set task=multi"):
        make_task(cfg, make_data(cfg))


@pytest.mark.parametrize(("words", "bars"), [([], 1), (["callbacks.progress=null"], 0)])
def test_without_a_bar_in_the_configuration_there_is_none(words, bars, tmp_path):
    cfg = load(["experiment=charades_nl", "size=demo", f"paths.run_dir={tmp_path}", *words])
    callbacks = make_trainer(cfg).callbacks
    assert sum(isinstance(callback, ProgressBar) for callback in callbacks) == bars
