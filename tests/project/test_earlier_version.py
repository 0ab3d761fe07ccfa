"""What version 0.1 left behind still works: its shards, its runs, its checkpoints, its words on the command line.

tests/fixtures/v0.1 was made by that version: tiny shards; a run of eight steps, killed in the fifth (`run`); what the
same run gave without the kill (metrics.csv), in two evaluations (metrics.json), and for four videos (predictions.json);
and a detector's run without its weights.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from nlnet.cli.predict import settings
from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.models.detection.build import build_detector
from nlnet.prediction.predict import predict
from nlnet.renamed import TARGETS, current_config
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train

MADE = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1"
# The figures were computed on another machine, so they are compared as floats are.
CLOSE = {"rel": 1e-3, "abs": 1e-3}


@pytest.fixture
def run(tmp_path):
    """The run's folder, somewhere else than where it was made."""
    shutil.copytree(MADE / "run", tmp_path / "logs" / "train" / "runs" / "killed")
    return tmp_path / "logs" / "train" / "runs" / "killed"


def numbers(row):
    return {name: float(cell) for name, cell in row.items() if cell}


def as_before(metrics):
    """The figures under the names of that version, whose mAP had all videos; one of these has no label.

    Those of single views changed with it: views of one video that score the same now rank one after the other.
    """
    if "val/all_videos_mAP" not in metrics:
        return metrics
    now = dict(metrics)
    assert now.pop("val/videos_without_label") == 1
    assert now["val/mAP"] >= now["val/all_videos_mAP"]
    now["val/mAP"] = now.pop("val/all_videos_mAP")
    if "val/clip_mAP" in now:
        assert now["val/clip_mAP"] == pytest.approx(0.84698, **CLOSE)
        now["val/clip_mAP"] = 0.85059
    return now


def test_a_killed_run_goes_on_with_the_same_losses(run, capsys):
    words = ["experiment=charades_nl", "size=demo", f"data.shards={MADE / 'shards'}", "data.batch_size=8"]
    words += ["data.eval_batch_size=8", "data.num_workers=0", "trainer.max_epochs=2", "trainer.val_check_interval=2"]
    words += ["extras.checkpoint_every_n_steps=1", "callbacks.progress=null", "seed=3", "optim.undecayed=norms"]
    _, objects = train(load([*words, f"paths.log_dir={run.parents[2]}", "ckpt_path=last"]))
    out, err = capsys.readouterr()
    assert objects["run_dir"] == run
    (differing,) = [line for line in out.splitlines() if "differ from the checkpoint's" in line]
    assert differing.endswith(f"data.shards={MADE / 'shards'} (was shards)")
    assert "optim.undecayed=norms is now optim.no_weight_decay=norms" in err
    ours, theirs = read_rows(run / "metrics.csv"), read_rows(MADE / "metrics.csv")
    assert len(ours) == len(theirs) == 12
    for our, their in zip(ours, theirs, strict=True):
        assert as_before(numbers(our)) == pytest.approx(numbers(their), **CLOSE)
    record = json.loads((run / "summary.json").read_text())
    assert (record["status"], record["samples_read"]) == ("finished", 64)  # those before the kill too


@pytest.mark.parametrize("protocol", ["center", "30view"])
def test_its_checkpoint_gives_the_same_metrics(run, tmp_path, protocol):
    views = [] if protocol == "center" else ["protocol.clips=2", "protocol.together=2"]
    words = [f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}", f"protocol={protocol}", *views]
    metrics = evaluate(
        load_run_config([*words, f"data.shards={MADE / 'shards'}", f"paths.log_dir={tmp_path / 'eval'}"])
    )
    assert as_before(metrics) == pytest.approx(json.loads((MADE / "metrics.json").read_text())[protocol], **CLOSE)


def test_its_checkpoint_predicts_the_same(run, tmp_path):
    words = [f"ckpt_path={run}", f"source={MADE / 'shards'}", "split=test", "limit=4", f"out={tmp_path / 'p.json'}"]
    ours, theirs = predict(settings(words)), json.loads((MADE / "predictions.json").read_text())
    assert [video["name"] for video in ours["videos"]] == [video["name"] for video in theirs["videos"]]
    for our, their in zip(ours["videos"], theirs["videos"], strict=True):
        assert {k: our[k] for k in ("frames", "fps")} == {k: their[k] for k in ("frames", "fps")}
        scores = [{entry["class"]: entry["score"] for entry in video["top"]} for video in (our, their)]
        assert scores[0] == pytest.approx(scores[1], **CLOSE)


def test_a_detector_is_evaluated_and_predicts(tmp_path):
    shutil.copytree(MADE / "detector", tmp_path / "run")
    content = json.loads((MADE / "detector" / "content.json").read_text())
    arguments = {k: v for k, v in content["hyper_parameters"]["model"].items() if k != "_target_"}
    net = build_detector(**arguments, num_classes=len(content["classes"]), num_keypoints=3)
    content["state_dict"] = {f"net.{key}": value for key, value in net.state_dict().items()}
    (tmp_path / "run" / "checkpoints").mkdir()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save(content, path)
    words = [f"ckpt_path={path}", f"data.shards={MADE / 'shapes'}", f"paths.log_dir={tmp_path / 'eval'}"]
    metrics = evaluate(load_run_config(words))
    assert (metrics["val/images"], "val/keypoint_AP" in metrics) == (4, True)
    (grid,) = (tmp_path / "eval").rglob("step-*.png")
    found = predict(settings([f"ckpt_path={path}", f"source={grid}", f"out={tmp_path / 'p.json'}", "threshold=0"]))
    assert len(found["images"]) == 1


def test_every_target_of_its_configurations_is_there():
    for saved in MADE.glob("*/config.yaml"):
        plain = current_config(yaml.safe_load(saved.read_text()))
        assert not TARGETS.keys() & set(_targets(plain)) - set(TARGETS.values())
        assert "no_weight_decay" in plain["optim"]


def _targets(node):
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "_target_":
            yield value
        yield from _targets(value)
