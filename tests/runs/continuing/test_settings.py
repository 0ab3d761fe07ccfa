"""What is said of the settings of a continued run is what is done: rates, weight decay, schedules, averages."""

import signal

import pytest
import torch
import yaml

from helpers.signalling import killer
from nlnet.config.resolve import load
from nlnet.errors import RunInterrupted, UserError
from nlnet.optim import schedules
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.continuing.kept import is_typed
from nlnet.runs.train import train

# Two steps an epoch.
BASE = [
    "experiment=charades_nl",
    "size=demo",
    "data.batch_size=8",
    "data.num_workers=0",
    "callbacks.progress=null",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "extras.checkpoint_every_n_steps=100",
]


@pytest.fixture(scope="module")
def base(charades_shards):
    return [*BASE, f"data.shards={charades_shards}"]


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """The checkpoint of a run of one epoch, two steps."""
    folder = tmp_path_factory.mktemp("finished")
    train(load([*base, f"paths.run_dir={folder}", "trainer.max_epochs=1"]))
    return folder / "checkpoints" / "last.ckpt"


def rates(folder):
    return {int(row["step"]): float(row["lr"]) for row in read_rows(folder / "metrics.csv") if row["lr"]}


def closed_form(rate, total, schedule=schedules.cosine, **settings):
    """The rates of steps 1, 2, ... of a schedule from its first step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], rate)
    scheduler = schedule(optimizer, total, **settings)
    found = {}
    for step in range(1, total + 1):
        found[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
    return found


def of(rates, steps):
    return {step: rates[step] for step in steps}


def test_typed_values_are_applied_recorded_and_kept_afterwards(base, finished, tmp_path, capfd):
    more = ["trainer.max_epochs=2", "optim.optimizer.lr=0.1", "optim.optimizer.weight_decay=0.25"]
    _, objects = train(load([*base, f"paths.run_dir={tmp_path}", f"ckpt_path={finished}", *more]))
    assert rates(tmp_path) == of(closed_form(0.1, 4, warmup=0.1), (3, 4))
    assert [group["weight_decay"] for group in objects["trainer"].optimizers[0].param_groups] == [0.25, 0.0]
    assert "optim.optimizer.lr=0.1 (was 0.004), optim.optimizer.weight_decay=0.25 (was 0.05)" in capfd.readouterr().out
    recorded = yaml.safe_load((tmp_path / "config.yaml").read_text())["optim"]["optimizer"]
    assert (recorded["lr"], recorded["weight_decay"]) == (0.1, 0.25)

    _, objects = train(load([*base, f"ckpt_path={tmp_path}", "trainer.max_epochs=3"]))
    assert objects["run_dir"] == tmp_path
    assert of(rates(tmp_path), (5, 6)) == of(closed_form(0.1, 6, warmup=0.1), (5, 6))
    assert [group["weight_decay"] for group in objects["trainer"].optimizers[0].param_groups] == [0.25, 0.0]
    said = capfd.readouterr().out
    assert (
        "kept from the checkpoint, as the command line does not set them: optim.optimizer.lr=0.1 (here: 0.004)" in said
    )
    recorded = yaml.safe_load((tmp_path / "config.yaml").read_text())["optim"]["optimizer"]
    assert (recorded["lr"], recorded["weight_decay"]) == (0.1, 0.25)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], lambda: closed_form(0.004, 4, warmup=0.1)),
        (["optim.schedule.final=0.5"], lambda: closed_form(0.004, 4, warmup=0.1, final=0.5)),
        (["optim/schedule=constant"], lambda: closed_form(0.004, 4, schedules.constant)),
        (["optim.lr_batch=4"], lambda: closed_form(0.008, 4, warmup=0.1)),
        (
            ["optim/schedule=step", "optim.schedule.milestones=[0.25,0.75]"],
            lambda: closed_form(0.004, 4, schedules.step, milestones=[0.25, 0.75]),
        ),
    ],
)
def test_a_longer_run_has_the_new_schedule_from_its_first_step(base, finished, tmp_path, more, expected):
    """The old one, of two steps, ended at a rate of 0."""
    train(load([*base, f"paths.run_dir={tmp_path}", f"ckpt_path={finished}", "trainer.max_epochs=2", *more]))
    assert rates(tmp_path) == of(expected(), (3, 4))


def test_a_schedule_without_a_closed_form_is_stepped_to_where_it_would_be(base, finished, tmp_path):
    schedule = ["optim/schedule=constant", "optim.schedule._target_=helpers.breaking.halving"]
    words = [*base, *schedule, "~optim.schedule.warmup", "extras.allow_targets=[helpers]", "trainer.max_epochs=2"]
    train(load([*words, f"paths.run_dir={tmp_path}", f"ckpt_path={finished}"]))
    assert rates(tmp_path) == {3: 0.001, 4: 0.0005}


def test_what_cannot_change_is_refused_in_one_line(base, finished, tmp_path):
    for word, reason in (
        ("optim=sgd", r"optim.optimizer._target_=torch.optim.SGD: .*last.ckpt was trained with torch.optim.AdamW"),
        (
            "optim.no_weight_decay=nothing",
            "optim.no_weight_decay=nothing: .* with norms_and_biases, and its optimizer's",
        ),
        (
            "optim.bias_lr_factor=2",
            "optim.bias_lr_factor=2: .* with 1.0, and its optimizer's state may be of other groups",
        ),
        (
            "+callbacks.swa={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.1}",
            "StochasticWeightAveraging cannot be continued exactly",
        ),
        (
            "+callbacks.ema={_target_: pytorch_lightning.callbacks.EMAWeightAveraging, update_starting_at_epoch: 1}",
            "EMAWeightAveraging with update_starting_at_epoch cannot be continued exactly",
        ),
    ):
        overrides = [*base, f"paths.log_dir={tmp_path}", f"ckpt_path={finished}", "trainer.max_epochs=2", word]
        with pytest.raises(UserError, match=reason) as raised:
            train(load(overrides))
        assert "\n" not in str(raised.value)
    assert list(tmp_path.rglob("summary.json")) == []


def test_which_keys_a_command_line_has_set():
    typed = ["optim/schedule", "optim.optimizer.lr", "trainer"]
    assert is_typed("optim.schedule.warmup", typed)
    assert is_typed("optim.optimizer.lr", typed)
    assert is_typed("trainer.max_epochs", typed)
    assert not is_typed("optim.optimizer.lr_decay", typed)
    assert not is_typed("optim.optimizer.weight_decay", typed)


EMA = ["callbacks=ema", "callbacks.ema.decay=0.5"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("moment", "count"),
    [("batch_start", 3), ("validation", 2), ("batch_start", 2), ("batch_start", 1)],
)
def test_averaged_weights_go_on_exactly_and_are_what_is_tested(base, tmp_path, moment, count):
    words = [*base, *EMA, "trainer.max_epochs=2", "test=true", "trainer.limit_train_batches=3"]
    figures, _ = train(load([*words, f"paths.run_dir={tmp_path / 'a'}"]))
    with pytest.raises(RunInterrupted):
        train(load([*words, *killer(moment, count, signal.SIGTERM), f"paths.run_dir={tmp_path / 'b'}"]))
    again, _ = train(load([*words, f"paths.run_dir={tmp_path / 'b'}", "ckpt_path=last"]))
    assert read_rows(tmp_path / "b" / "metrics.csv") == read_rows(tmp_path / "a" / "metrics.csv")
    assert (again["test/mAP"], again["test/loss"]) == (figures["test/mAP"], figures["test/loss"])
    best = [
        row
        for row in read_rows(tmp_path / "a" / "metrics.csv")
        if row["val/mAP"] and float(row["val/mAP"]) == figures["best"]
    ]
    assert float(best[0]["val/loss"]) == figures["test/loss"]
    a, b = (torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in "ab")
    for name in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, b[name][key]) for key, value in a[name].items())


def test_a_batch_that_an_earlier_version_counted_otherwise_is_asked_for(base, tmp_path):
    """Its `data.batch_size` was that of each accumulated part; the digest of the data came with the change."""
    words = [*base, f"paths.run_dir={tmp_path}", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1"]
    train(load(words))
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["data"]["batch_size"] = 4
    del content["identity"]["digest"]
    torch.save(content, path)
    (tmp_path / "config.yaml").write_text(
        (tmp_path / "config.yaml").read_text().replace("batch_size: 8", "batch_size: 4")
    )
    words[-1] = "trainer.max_epochs=2"
    of_part = [word for word in words if not word.startswith("data.batch_size")]
    with pytest.raises(UserError, match=r"continue it with data\.batch_size=8"):
        train(load([*of_part, "ckpt_path=last", "data.batch_size=4"]))
    metrics, _ = train(load([*words, "ckpt_path=last"]))
    assert metrics["val/loss"] > 0
    steps = [int(row["step"]) for row in read_rows(tmp_path / "metrics.csv") if row["train/loss"]]
    assert steps == sorted(set(steps))
