"""Whole runs of segmentation: what they leave, one to three ranks, killed and resumed, tested, predicted, exported."""

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.processes import eval_rank, run_process, run_ranks, train_command
from helpers.signalling import killer
from nlnet import from_pretrained
from nlnet.checkpoints.export import run_exported
from nlnet.cli.checkpoints.export import main as export
from nlnet.cli.explain import main as explain
from nlnet.cli.predict import main as predict
from nlnet.config.compose import compose
from nlnet.config.resolve import load, resolve
from nlnet.config.run_config import load_run_config
from nlnet.data.synthetic.signs import CLASSES, build, render
from nlnet.errors import UserError
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train

VAL = 7  # neither two nor three ranks share them evenly
HEADS = ("fcn", "nl", "ann", "ccnet", "gcnet", "dnl")


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signs") / "set"
    build(folder, {"train": 16, "val": VAL})
    return folder


def settings(head, signs, logs, *more):
    return [
        f"experiment=cityscapes_{head}",
        "size=demo_segmentation",
        f"data.shards={signs}",
        f"paths.log_dir={logs}",
        "data.batch_size=4",
        "data.eval_batch_size=6",
        "model.channels=16",
        "trainer.max_epochs=2",
        "trainer.check_val_every_n_epoch=1",
        *(() if "debug=fdr" in more else ("callbacks.progress=null",)),
        *more,
    ]


def run_dir_of(logs, task="train"):
    return max({path.parent for path in (logs / task / "runs").glob("*/summary.json")})


@pytest.fixture(scope="module")
def finished(signs, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    figures, objects = train(load(settings("nl", signs, logs)))
    return figures, Path(objects["run_dir"])


def test_the_run_directory_holds_what_a_run_leaves(finished):
    figures, run_dir = finished
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["experiment"], summary["size"]) == ("finished", "cityscapes_nl", "demo")
    assert (summary["samples_read"], summary["samples_skipped"]) == (32, {})
    assert (summary["monitor"], summary["best"]) == ("val/mIoU", figures["best"])
    assert summary["gmacs"] > 0
    assert figures["val/images"] == VAL
    rows = read_rows(run_dir / "metrics.csv")
    for row in rows:
        if row["train/loss"]:
            parts = float(row["train/loss_head"]) + 0.4 * float(row["train/loss_auxiliary"])
            assert float(row["train/loss"]) == pytest.approx(parts, rel=1e-5)


def by_numpy(run_dir):
    """The IoUs of the run's last checkpoint, from its network's labels, pixel by pixel."""
    net = from_pretrained(run_dir / "checkpoints" / "last.ckpt")
    hits, either = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for index in range(VAL):
        pixels, labels = render("val", index)
        with torch.no_grad():
            found = net(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0].argmax(0).numpy()
        for k in range(len(CLASSES)):
            hits[k] += ((labels == k) & (found == k)).sum()
            either[k] += ((labels == k) | ((found == k) & (labels != 255))).sum()
    return hits / np.where(either, either, np.nan)


@pytest.mark.parametrize("ranks", [1, *(pytest.param(n, marks=pytest.mark.full) for n in (2, 3))])
def test_an_evaluation_is_what_numpy_counts_on_any_number_of_ranks(finished, tmp_path, ranks):
    _, run_dir = finished
    words = [f"ckpt_path={run_dir}/checkpoints/last.ckpt", f"paths.log_dir={tmp_path}", "data.num_workers=0"]
    if ranks == 1:
        evaluate(load_run_config(words))
    else:
        words += ["trainer=ddp_sim", f"trainer.devices={ranks}"]
        assert run_ranks(eval_rank, ranks, words) == [0] * ranks
    folder = run_dir_of(tmp_path, "eval")
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    expected = by_numpy(run_dir)
    assert metrics["val/images"] == VAL
    assert abs(metrics["val/mIoU"] - float(np.nanmean(expected))) < 1e-9
    table = list(csv.DictReader((folder / "iou.csv").read_text().splitlines()))
    assert [row["class"] for row in table] == list(CLASSES)
    assert [float(row["iou"]) for row in table] == pytest.approx(expected.tolist(), abs=1e-6)
    assert sum(int(row["pixels"]) for row in table) == sum((render("val", k)[1] != 255).sum() for k in range(VAL))


def test_windows_scales_and_mirror_images_are_settings_of_an_evaluation(finished, tmp_path):
    figures, run_dir = finished
    words = [f"ckpt_path={run_dir}/checkpoints/last.ckpt", f"paths.log_dir={tmp_path}"]
    looks = ["task.window=[64,96]", "task.stride=[64,32]", "task.scales=[0.5,1.0]", "task.flip=true"]
    found = evaluate(load_run_config([*words, *looks]))
    assert found["val/images"] == VAL
    assert found["val/mIoU"] != figures["val/mIoU"]
    for wrong, message in (
        ("task.stride=[64,32]", r"task.stride=\[64, 32\]: is of windows"),
        ("protocol=30view", "protocol=30view is a test of videos, and this run is of images"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(load_run_config([*words, wrong]))


@pytest.mark.full
@pytest.mark.parametrize(("moment", "count"), [("inside_step", 6), ("validation", 3), ("batch_start", 8)])
def test_a_killed_and_resumed_run_repeats_the_uninterrupted_one(signs, tmp_path, moment, count):
    more = ["extras.checkpoint_every_n_steps=1", "data.color=true"]
    whole, common = (settings("dnl", signs, tmp_path / name, *more) for name in ("whole", "logs"))
    assert run_process(train_command, whole, str(tmp_path / "whole.log")) == 0
    words = [*common, *killer(moment, count, signal.SIGKILL)]
    assert run_process(train_command, words, str(tmp_path / "killed.log")) == -signal.SIGKILL
    assert run_process(train_command, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log")) == 0
    folders = [run_dir_of(tmp_path / name) for name in ("whole", "logs")]
    rows, again = (read_rows(folder / "metrics.csv") for folder in folders)
    assert rows == again
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 9))
    expected, state = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in folders
    )
    assert all(torch.equal(value, state[name]) for name, value in expected.items())


def test_predictions_are_those_of_the_network_with_pictures(finished, signs, tmp_path, command):
    _, run_dir = finished
    source = tmp_path / "in"
    source.mkdir()
    pixels, _ = render("val", 0)
    Image.fromarray(pixels).save(source / "a.png")
    Image.fromarray(pixels).resize((200, 90)).save(source / "b.jpg")
    Image.fromarray(pixels).convert("RGBA").save(source / "c.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(source / "d.png")
    out = tmp_path / "found.json"
    code, printed, err = command(predict, f"ckpt_path={run_dir}", f"source={source}", f"out={out}", "device=cpu")
    assert code == 0, err
    assert "2 of 4 images could not be read: c.png (pixels), d.png (pixels)" in err
    content = json.loads(out.read_text())
    assert content["kind"] == "segmentation"
    first, second = content["images"]
    assert (second["width"], second["height"]) == (200, 90)
    net = from_pretrained(run_dir)
    with torch.no_grad():
        wanted = net(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0].argmax(0).numpy()
    mask = Image.open(first["mask"])
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), wanted)
    shares = {CLASSES[k]: round(float((wanted == k).mean()), 4) for k in np.unique(wanted)}
    assert first["classes"] == shares
    picture = np.asarray(Image.open(first["picture"]))
    assert picture.shape[1:] == (128, 3)
    assert picture.shape[0] > 64  # the legend below
    assert f"a.png: {next(iter(first['classes']))}" in printed


def test_the_attention_of_the_heads_block_is_explained(finished, tmp_path, command):
    _, run_dir = finished
    pixels, _ = render("val", 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code, _, err = command(explain, f"ckpt_path={run_dir}", f"source={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}")
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert (content["title"], content["frames"]) == ("a.png", 1)
    (found,) = content["blocks"]
    net, seen = from_pretrained(run_dir), []
    block = net.get_submodule(found["name"])
    block.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        net(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
        rows = block.attention(seen[0], range(seen[0][0, 0].numel())).double()
    entropy = -(rows * rows.log()).sum(-1).mean() / np.log(rows.shape[-1])
    assert found["entropy"] == pytest.approx(float(entropy), rel=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_run_is_exported_for_images_of_any_size(finished, tmp_path, command, format):
    _, run_dir = finished
    file = tmp_path / f"net.{format}"
    code, _, err = command(export, str(run_dir), "--format", format, "--out", str(file))
    assert code == 0, err
    images = torch.rand(3, 3, 48, 104)
    with torch.no_grad():
        wanted = from_pretrained(run_dir)(images)
    torch.testing.assert_close(run_exported(file, images, format), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "head", [head if head == "ann" else pytest.param(head, marks=pytest.mark.full) for head in HEADS]
)
def test_every_head_runs_one_step(head, signs, tmp_path):
    figures, objects = train(load(settings(head, signs, tmp_path, "debug=fdr")))
    assert objects["trainer"].global_step == 1
    assert torch.isfinite(torch.tensor(figures["train/loss"]))


def test_a_run_starts_from_another_one(finished, signs, tmp_path, capsys):
    _, run_dir = finished
    train(load(settings("nl", signs, tmp_path, f"init.checkpoint={run_dir}", "debug=fdr")))
    assert f"weights of {run_dir}/checkpoints/best.ckpt; new: the classifiers" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"best.ckpt: its weights are not those of CCNet demo-D8: head\.block\."):
        train(load(settings("ccnet", signs, tmp_path, f"init.checkpoint={run_dir}", "debug=fdr")))


def test_without_a_folder_the_demo_stands_in():
    for dataset in ("cityscapes", "ade20k", "voc"):
        words = [f"experiment={dataset}_ccnet", "size=demo"]
        cfg = resolve(compose(words), words)
        assert (cfg.demo, cfg.size_name, cfg.model.name, cfg.model.backbone) == (True, "demo", "ccnet", "demo")
        assert (cfg.data.train_split, list(cfg.data.crop)) == ("train", [64, 128])
    words = ["experiment=voc_nl", "ckpt_path=last"]
    with pytest.raises(UserError, match="VOC_SHARDS"):
        resolve(compose(words), words)


@pytest.mark.full
@pytest.mark.parametrize("head", HEADS)
def test_the_demo_learns_what_its_head_can_see(tmp_path, head):
    """The bound of a network that does not see the sign is 0.750 to 0.778: see `nlnet.data.synthetic.signs`."""
    words = [f"experiment=cityscapes_{head}", "size=demo", f"paths.data_dir={tmp_path}", f"paths.log_dir={tmp_path}"]
    figures, _ = train(load(words))
    if head == "fcn":
        assert 0.72 < figures["val/mIoU"] < 0.808
    elif head != "dnl":
        assert figures["val/mIoU"] > 0.95
