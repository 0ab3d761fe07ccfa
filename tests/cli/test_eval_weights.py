"""An average of the weights: what it is, and that `weights=` chooses between it and the weights that are stepped."""

import shutil

import pytest
import torch

from nlnet import from_pretrained
from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.errors import UserError
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train

DECAY = 0.75


@pytest.fixture(scope="module")
def run(charades_shards, tmp_path_factory):
    """A run with an average, of four steps with checkpoints after the last two, and the figures of its validation."""
    folder = tmp_path_factory.mktemp("ema")
    words = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=2"]
    words += [f"data.shards={charades_shards}", "callbacks=ema", f"callbacks.ema.decay={DECAY}"]
    words += ["trainer.limit_train_batches=2", "extras.checkpoint_every_n_steps=3", "callbacks.progress=null"]
    figures, _ = train(load([*words, f"paths.run_dir={folder}"]))
    return folder, figures


def read(folder, name):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def test_the_average_is_the_moving_one_of_the_stepped_weights(run):
    """a_t = decay a_(t-1) + (1 - decay) w_t, from two checkpoints one step apart, in float64."""
    folder, _ = run
    before, after = read(folder, "last-1.ckpt"), read(folder, "last.ckpt")
    assert (before["global_step"], after["global_step"]) == (3, 4)
    for name, weight in after["current_model_state"].items():
        if weight.is_floating_point():
            expected = DECAY * before["state_dict"][name].double() + (1 - DECAY) * weight.double()
            torch.testing.assert_close(after["state_dict"][name].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.full
def test_an_evaluation_takes_the_average_and_on_request_the_stepped_weights(run, tmp_path):
    folder, figures = run
    losses = {}
    for weights in (None, "ema", "trained"):
        words = [f"ckpt_path={folder}/checkpoints/last.ckpt", f"paths.log_dir={tmp_path / str(weights)}"]
        found = evaluate(load_run_config([*words, *([f"weights={weights}"] if weights else [])]))
        losses[weights] = found["val/loss"]
    assert losses[None] == losses["ema"] == figures["val/loss"]
    assert losses["trained"] != losses["ema"]
    last = read(folder, "last.ckpt")
    for weights, name in ((None, "state_dict"), ("ema", "state_dict"), ("trained", "current_model_state")):
        net = from_pretrained(folder / "checkpoints" / "last.ckpt", weights=weights).state_dict()
        assert all(torch.equal(value, last[name][f"net.{key}"]) for key, value in net.items())


def test_a_checkpoint_without_an_average_is_one_line(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder, tmp_path / "run")
    last = read(folder, "last.ckpt")
    for name in ("current_model_state", "averaging_state"):
        del last[name]
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save(last, file)
    with pytest.raises(UserError, match=r"weights=ema: its run kept no average of its weights \(callbacks=ema does\)"):
        evaluate(load_run_config([f"ckpt_path={file}", "weights=ema", f"paths.log_dir={tmp_path}"]))
    with pytest.raises(UserError, match=r"weights=emma: expected null or ema or trained"):
        load_run_config([f"ckpt_path={file}", "weights=emma"])
    with pytest.raises(UserError, match=r"weights=average: there is no such choice"):
        from_pretrained(file, weights="average")
