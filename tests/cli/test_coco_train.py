"""Whole detection runs: the demo, what they leave behind, one and two ranks, killed and resumed."""

import json
import signal

import pytest
import torch
import yaml

from helpers.coco_process import judge
from helpers.processes import run_process, run_ranks, train_command, train_rank
from helpers.signalling import killer
from nlnet.cli.compare import main as compare
from nlnet.config.compose import compose, options
from nlnet.config.resolve import load, resolve
from nlnet.data.synthetic.shapes import build
from nlnet.errors import UserError
from nlnet.evaluation.coco import KINDS, METRICS
from nlnet.runs.build import make_data
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.train import train

EXPERIMENTS = [name for name in options("experiment") if name.startswith(("coco_", "table5_", "table6_"))]
VAL = 17  # one more than two ranks share evenly, and one without any object


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "coco"
    build(folder, {"train": 20, "val": VAL})
    return folder


def settings(experiment, shards, logs, *more):
    return [
        f"experiment={experiment}",
        "size=demo_coco",
        f"data.shards={shards}",
        f"paths.log_dir={logs}",
        "data.batch_size=4",
        "data.eval_batch_size=6",
        "data.num_workers=0",
        "trainer.max_epochs=1",
        "trainer.val_check_interval=null",
        "trainer.check_val_every_n_epoch=1",
        "callbacks.progress=null",
        *more,
    ]


GUESSES = ["extras.allow_targets=[helpers]", "+callbacks.guesses._target_=helpers.guessing.GuessFromTruth"]


def run_dir_of(logs):
    (folder,) = {path.parent for path in (logs / "train" / "runs").glob("*/metrics.csv")}
    return folder


CASES = [(kind, ranks) for kind in ("mask", "keypoint") for ranks in (1, 2)]
QUICK = [("keypoint", 1)]


@pytest.mark.parametrize(
    ("kind", "ranks"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.full) for case in CASES]
)
def test_what_is_logged_is_what_pycocotools_makes_of_the_predictions(shards, tmp_path, kind, ranks):
    overrides = settings(f"coco_{kind}_nl", shards, tmp_path / "logs", *GUESSES)
    if ranks == 1:
        train(load(overrides))
    else:
        assert run_ranks(train_rank, ranks, [*overrides, "trainer=ddp_sim"], f"{tmp_path}/log") == [0] * ranks
        assert (tmp_path / "log.1").read_text() == ""  # no warning
    folder = run_dir_of(tmp_path / "logs")
    data = make_data(load(overrides))
    truth = data.ground_truth()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    logged = json.loads((folder / "summary.json").read_text())["metrics"]
    assert logged["val/images"] == VAL
    for judged in ("box", kind):
        sigmas = data.sigmas if judged == "keypoint" else ()
        expected = judge(tmp_path / "truth.json", folder / "predictions.json", KINDS[judged], sigmas)
        ours = [logged[f"val/{judged}_{name}"] for name in METRICS[judged]]
        assert ours == pytest.approx(expected[: len(ours)], abs=1e-6)
        assert 0.1 < ours[0] < 0.95
    found = {result["image_id"] for result in json.loads((folder / "predictions.json").read_text())}
    assert found == {image["id"] for image in truth["images"]}
    assert len(truth["images"]) == VAL > len({row["image_id"] for row in truth["annotations"]})


BOXES = ["model=faster_rcnn", "data.masks=false", "model.backbone=demo", "model.norm=batch", "model.trainable_stages=5"]


@pytest.mark.parametrize(
    ("key", "metric", "more", "nearest"),
    [
        ("task.monitor", "val/mAP_typo", [], "val/mask_AP"),
        ("task.monitor", "val/mask_AP", BOXES, "val/box_AP"),
        ("callbacks.best.monitor", "val/keypoint_AP", [], "val/"),
        ("optimized_metric", "val/box_ap", [], "val/box_AP"),
    ],
)
def test_a_metric_that_this_detector_does_not_log_is_refused_before_anything(
    shards, tmp_path, key, metric, more, nearest
):
    words = settings("coco_mask_nl", shards, tmp_path, *more, f"{key}={metric}")
    with pytest.raises(UserError, match=f"^{key}={metric}: this task logs no such metric; nearest: .*{nearest}"):
        train(load(words))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    figures, objects = train(load(settings("coco_mask_nl", shards, logs)))
    return figures, objects["run_dir"]


def test_the_run_directory_holds_what_a_run_leaves(finished):
    figures, run_dir = finished
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["experiment"], summary["size"]) == ("finished", "coco_mask_nl", "demo")
    assert (summary["samples_read"], summary["samples_skipped"]) == (16, {})
    assert summary["monitor"] == "val/mask_AP"
    assert summary["best"] == figures["val/mask_AP"]
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (config["model"]["name"], config["model"]["backbone"]) == ("mask_rcnn", "demo")
    assert len(list((run_dir / "image_grid").glob("step-*.png"))) == 1
    assert (run_dir / "curves.png").is_file()
    losses = {name for name in read_rows(run_dir / "metrics.csv")[0] if name.startswith("train/")}
    names = ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")
    assert losses == {"train/loss"} | {f"train/loss_{name}" for name in names}
    checkpoint = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    assert any(".nonlocal_before." in name for name in checkpoint["state_dict"])


def test_a_detector_is_compared_by_what_its_run_wrote(finished, command):
    """The folder alone: its settings name the data, whose annotations are read."""
    figures, run_dir = finished
    code, out, err = command(compare, str(run_dir), str(run_dir / "predictions.json"), "--samples", "5", "--json")
    assert code == 0, err
    row = json.loads(out)["mask_AP"]
    assert row["a"] == pytest.approx(figures["val/mask_AP"], abs=1e-6)
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


@pytest.mark.full
def test_evaluations_of_detectors_are_compared_as_they_were_written(shards, tmp_path, command):
    """Guesses near the truth against those of a new network: the figures are those that the evaluations logged."""
    found = {}
    for name, more in (("new", []), ("guesses", GUESSES)):
        overrides = settings("coco_mask_nl", shards, tmp_path / name, *more)
        figures, objects = train(load([*overrides, "trainer.max_steps=1"]))
        found[name] = figures, str(objects["run_dir"])
    (low, a), (high, b) = found["new"], found["guesses"]
    code, _, err = command(compare, a, b)
    assert code == 1
    assert "helpers" in err  # a class that nobody allowed
    assert "or give the annotations with --truth FILE" in err
    code, out, err = command(compare, a, b, "--samples", "20", "--json", "--truth", str(truth_file(shards, tmp_path)))
    assert code == 0, err
    rows = json.loads(out[out.index("{\n") :])
    assert rows["images"] == VAL
    for part in ("box", "mask"):
        for name in ("AP", "AP50", "AP75"):
            row = rows[f"{part}_{name}"]
            assert (row["a"], row["b"]) == pytest.approx(
                (low[f"val/{part}_{name}"], high[f"val/{part}_{name}"]), abs=1e-6
            )
    assert rows["box_AP"]["low"] > 0


def truth_file(shards, folder):
    path = folder / "truth.json"
    path.write_text(json.dumps(make_data(load(settings("coco_mask_nl", shards, folder))).ground_truth()))
    return path


MOMENTS = [("batch_start", 3), ("inside_step", 2), ("validation", 2), ("validation", 5), ("batch_start", 7)]
RESUMES = [("mask", "inside_step", 3, signal.SIGKILL)] + [
    pytest.param(kind, moment, count, number, marks=pytest.mark.full)
    for kind in ("mask", "keypoint")
    for moment, count in MOMENTS
    for number in (signal.SIGKILL, signal.SIGTERM)
]


@pytest.mark.parametrize(("kind", "moment", "count", "number"), RESUMES)
def test_a_killed_and_resumed_run_repeats_the_uninterrupted_one(shards, tmp_path, kind, moment, count, number):
    epochs = {"mask": 2, "keypoint": 4}[kind]  # half of the images have no keypoints, and are left out
    more = [f"trainer.max_epochs={epochs}", "extras.checkpoint_every_n_steps=1", "callbacks.image_grid=null"]
    whole = settings(f"coco_{kind}_nl", shards, tmp_path / "whole", *more)
    common = settings(f"coco_{kind}_nl", shards, tmp_path / "logs", *more)
    assert run_process(train_command, whole, str(tmp_path / "whole.log")) == 0
    code = run_process(train_command, [*common, *killer(moment, count, number)], str(tmp_path / "killed.log"))
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    assert run_process(train_command, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log")) == 0
    folders = [run_dir_of(tmp_path / name) for name in ("whole", "logs")]
    rows, again = (read_rows(folder / "metrics.csv") for folder in folders)
    assert rows == again
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 9))
    expected, state = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in folders
    )
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
    first, second = ((folder / "predictions.json").read_bytes() for folder in folders)
    assert first == second


@pytest.mark.parametrize(
    "experiment",
    [
        name if name in ("coco_keypoint_nl", "table5_r50_gc") else pytest.param(name, marks=pytest.mark.full)
        for name in EXPERIMENTS
    ],
)
def test_every_experiment_runs_one_step(experiment, shards, tmp_path):
    figures, objects = train(load([*settings(experiment, shards, tmp_path)[:-1], "debug=fdr"]))
    assert objects["trainer"].global_step == 1
    assert torch.isfinite(torch.tensor(figures["train/loss"]))
    full = load([f"experiment={experiment}", f"data.shards={shards}"])
    assert (full.size_name, full.trainer.max_steps) == ("full", 90_000)


def test_without_shards_the_demo_of_images_stands_in(monkeypatch):
    monkeypatch.delenv("COCO_SHARDS", raising=False)
    for overrides in (["experiment=coco_mask_nl"], ["experiment=coco_mask_nl", "size=demo"]):
        cfg = resolve(compose(overrides), overrides)
        assert (cfg.demo, cfg.size_name) == (True, "demo")
        assert (cfg.model.name, cfg.model.backbone, cfg.model.nonlocal_blocks) == ("mask_rcnn", "demo", 1)
        assert cfg.optim.optimizer._target_ == "torch.optim.AdamW"
    overrides = ["experiment=coco_keypoint_nl", "ckpt_path=last"]
    with pytest.raises(UserError, match="COCO_SHARDS"):
        resolve(compose(overrides), overrides)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model.norm=frozen"], "model.norm=frozen: the backbone's norms stay as they are, and nothing was loaded"),
        (["data.masks=false"], "data.masks=False, but the network predicts masks; set data.masks=true"),
        (["init.images=a", "init.checkpoint=b"], "init.checkpoint=b and init.images=a: give one of them"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(shards, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        train(load(settings("coco_mask_nl", shards, tmp_path, *more)))


def test_a_detectors_file_starts_a_run(finished, shards, tmp_path, capsys):
    _, run_dir = finished
    path = run_dir / "checkpoints" / "last.ckpt"
    train(load([*settings("coco_mask_nl", shards, tmp_path)[:-1], f"init.checkpoint={path}", "debug=fdr"]))
    assert f"weights of {path}; new: roi_heads.box_predictor" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "least"), [("mask", {"box_AP50": 0.95, "mask_AP50": 0.95}), ("keypoint", {"keypoint_AP": 0.9})]
)
def test_the_demo_learns(tmp_path, kind, least):
    figures, _ = train(load([f"experiment=coco_{kind}_nl", f"paths.log_dir={tmp_path}", f"paths.data_dir={tmp_path}"]))
    assert {name: figures[f"val/{name}"] for name in least if figures[f"val/{name}"] < least[name]} == {}
