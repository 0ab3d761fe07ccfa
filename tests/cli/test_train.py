"""Whole runs on tiny shards: what they leave behind, and that an evaluation repeats them."""

import json

import pytest
import torch
import yaml
from PIL import Image

from nlnet.cli.train import main
from nlnet.config.compose import options
from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.models import build_model, describe
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train

SMALL = ["size=demo", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=2", "callbacks.progress=null"]
# The experiments that differ in code and not only in numbers; the rest run with the full tests.
PATHS = [
    "charades_nl", "charades_nl_lfb", "kinetics_i3d_nl_128f", "table2a_gaussian", "table2a_dot_product",
    "table2a_concatenation", "table2b_res2", "table2d_time",
]  # fmt: skip
OTHERS = (
    *("coco_", "table5_", "table6_", "cityscapes_", "ade20k_", "voc_", "denoise_"),  # of images
    *("ablation_", "ssv1_", "charades_strg", "charades_nl_strg"),  # of sets of their own, with regions
)
VIDEO_EXPERIMENTS = [name for name in options("experiment") if not name.startswith(OTHERS)]


@pytest.fixture(scope="module")
def finished(charades_shards, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    overrides = ["experiment=charades_nl", *SMALL, f"data.shards={charades_shards}", f"paths.log_dir={logs}"]
    figures, objects = train(load([*overrides, "tags=[tiny]", "test=true"]))
    return overrides, figures, objects["run_dir"]


def test_the_run_directory_holds_what_the_readme_says(finished):
    _, figures, run_dir = finished
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert (summary["experiment"], summary["demo"], summary["size"]) == ("charades_nl", False, "demo")
    assert summary["tags"] == ["tiny"]
    assert summary["metrics"]["val/mAP"] == figures["val/mAP"]
    assert (summary["samples_read"], summary["samples_skipped"]) == (64, {})
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert summary["best"] == max(float(row["val/mAP"]) for row in read_rows(run_dir / "metrics.csv") if row["val/mAP"])
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"]["name"] == "c2d_demo"
    network = build_model(**{k: v for k, v in config["model"].items() if k != "_target_"}, num_classes=4)
    clip = (3, config["data"]["frames"], config["data"]["size"], config["data"]["size"])
    described = describe(network, clip)
    assert (summary["parameters"], summary["gmacs"]) == (described.parameters, described.gmacs)
    assert config["paths"]["run_dir"] == str(run_dir)
    assert (run_dir / "curves.png").read_bytes()[:4] == b"\x89PNG"
    steps = [int(row["step"]) for row in read_rows(run_dir / "metrics.csv") if row["train/loss"]]
    assert steps == list(range(1, 9))


def test_checkpoints_hold_plain_types_only(finished):
    _, _, run_dir = finished
    for name in ("best", "last"):
        checkpoint = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["hyper_parameters"]["model"]["name"] == "c2d_demo"


def test_eval_gives_the_same_number(finished, tmp_path):
    _, figures, run_dir = finished
    path = run_dir / "checkpoints" / "last.ckpt"
    again = evaluate(load_run_config([f"ckpt_path={path}", f"paths.log_dir={tmp_path}", "data.eval_batch_size=3"]))
    assert again["val/mAP"] == figures["val/mAP"]
    assert again["val/videos"] == 20


def test_test_evaluates_the_best_checkpoint(finished):
    _, figures, _ = finished
    assert figures["test/mAP"] == pytest.approx(figures["best"], abs=0)


def test_a_finished_run_can_be_extended(finished):
    """From its last checkpoint, a run that was stopped at its end goes on with the next epoch, not an empty one."""
    overrides, _, run_dir = finished
    train(load([*overrides, "ckpt_path=last", "trainer.max_epochs=3"]))
    rows = read_rows(run_dir / "metrics.csv")
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 13))
    assert [int(row["step"]) for row in rows if row["val/mAP"]] == [4, 8, 12]


def test_continuing_a_run_that_is_through_reports_it_again(finished, command):
    overrides, _, run_dir = finished
    rows = read_rows(run_dir / "metrics.csv")
    code, out, err = command(main, *overrides, "ckpt_path=last", "trainer.max_epochs=3")
    assert code == 0, err
    assert "val/mAP" in out
    assert read_rows(run_dir / "metrics.csv") == rows


@pytest.mark.parametrize(
    "experiment",
    [name if name in PATHS else pytest.param(name, marks=pytest.mark.full) for name in VIDEO_EXPERIMENTS],
)
def test_every_experiment_runs_one_step(experiment, charades_shards, kinetics_shards, tmp_path):
    shards = charades_shards if experiment.startswith(("charades", "table4")) else kinetics_shards
    overrides = [
        f"experiment={experiment}",
        "debug=fdr",
        *SMALL[:-1],
        f"data.shards={shards}",
        f"paths.log_dir={tmp_path}",
    ]
    figures, objects = train(load(overrides))
    assert objects["trainer"].global_step == 1
    assert torch.isfinite(torch.tensor(figures["train/loss"]))
    full = load([f"experiment={experiment}", f"data.shards={shards}"])
    assert full.size_name == "full"
    assert full.model.name.endswith(("r50", "r101"))


@pytest.mark.parametrize(
    "debug", ["profiler", *(pytest.param(mode, marks=pytest.mark.full) for mode in ("limit", "overfit"))]
)
def test_every_debug_mode_runs(debug, charades_shards, tmp_path):
    overrides = ["experiment=charades_nl", f"debug={debug}", *SMALL[:3], f"data.shards={charades_shards}"]
    figures, _ = train(load([*overrides, f"paths.log_dir={tmp_path}"]))
    if debug == "overfit":
        assert figures["train/loss"] < 0.3  # from 0.7


def test_loggers(charades_shards, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    overrides = ["experiment=charades_nl", *SMALL, f"data.shards={charades_shards}", f"paths.log_dir={tmp_path}"]
    looking = ["callbacks=attention", "callbacks.attention.clips=2"]
    _, objects = train(load([*overrides, *looking, "logger=wandb", "trainer.max_epochs=1"]))
    run_dir = objects["run_dir"]
    drawn = [Image.open(path).tobytes() for path in (run_dir / "attention").glob("*.png")]
    sent = [
        Image.open(path).tobytes() for path in (run_dir / "wandb").glob("offline-run-*/files/media/images/val/*.png")
    ]
    assert len(drawn) == 2
    assert sorted(sent) == sorted(drawn)
    run_id = json.loads((run_dir / "summary.json").read_text())["wandb_id"]
    assert list((run_dir / "wandb").glob(f"offline-run-*-{run_id}"))
    _, again = train(load([*overrides, "logger=wandb", "ckpt_path=last"]))
    assert again["run_dir"] == run_dir
    assert json.loads((run_dir / "summary.json").read_text())["wandb_id"] == run_id
    assert {path.name.rsplit("-", 1)[1] for path in (run_dir / "wandb").glob("offline-run-*")} == {run_id}
    _, board = train(load([*overrides, "logger=tensorboard", "trainer.max_epochs=1"]))
    assert list((board["run_dir"] / "tensorboard").glob("events.out.tfevents.*"))
