"""What a new run starts with."""

import pytest
import torch

from nlnet import build_model
from nlnet.errors import UserError
from nlnet.runs.config import compose
from nlnet.runs.start import scaled_rate, start_weights

DEMO = ["size=demo", "model.nonlocal_blocks=0"]


@pytest.fixture
def weights(tmp_path):
    net = build_model("c2d_demo", num_classes=4)
    torch.save({"state_dict": {f"net.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "a.ckpt")
    return net, tmp_path / "a.ckpt"


def test_a_checkpoint_is_loaded_unless_another_follows(weights):
    trained, path = weights
    cfg = compose([*DEMO, f"init.checkpoint={path}"])
    net = build_model("c2d_demo", num_classes=3)
    assert start_weights(net, cfg) == [f"weights from {path}; new: the classifier"]
    assert torch.equal(net.stem.conv.weight, trained.stem.conv.weight)
    net = build_model("c2d_demo", num_classes=4)
    start_weights(net, compose([*DEMO, f"init.checkpoint={path}", "init.keep_classifier=true", "model.norm=frozen"]))
    assert torch.equal(net.fc.weight, trained.fc.weight)
    before = build_model("c2d_demo", num_classes=4)
    assert start_weights(before, compose([*DEMO, f"init.checkpoint={path}", "ckpt_path=other.ckpt"])) == []
    assert start_weights(before, compose(DEMO)) == []
    assert not torch.equal(before.fc.weight, trained.fc.weight)


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
        start_weights(build_model("c2d_demo"), compose(overrides))


def test_the_rate_follows_the_batch_only_where_a_reference_is_given():
    experiment = ["experiment=kinetics_i3d_nl"]
    assert scaled_rate(compose(experiment)) == {}
    more = ["optim.lr_batch=64", "data.batch_size=128", "trainer.accumulate_grad_batches=2"]
    assert scaled_rate(compose([*experiment, *more])) == {"lr": pytest.approx(0.04)}
    assert scaled_rate(compose([*experiment, "optim.lr_batch=64", "data.batch_size=16"])) == {"lr": 0.0025}
    with pytest.raises(UserError, match=r"optim\.lr_batch=0"):
        scaled_rate(compose([*experiment, "optim.lr_batch=0"]))
