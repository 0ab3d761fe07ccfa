"""Restoration from the command line: trained, killed and resumed, evaluated, used on pictures, exported."""

import csv
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.photographs import picture, write_photographs
from helpers.processes import run_process, run_ranks, train_command, train_rank
from helpers.signalling import killer
from nlnet import from_pretrained
from nlnet.checkpoints.export import run_exported
from nlnet.cli.checkpoints.export import main as export
from nlnet.cli.eval import main as evaluate
from nlnet.cli.explain import main as explain
from nlnet.cli.predict import main as predict
from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.train import train

SIZES = {
    "nlrn": ["model.width=4", "model.steps=2", "model.window=5"],
    "dncnn": ["model.width=4", "model.depth=3"],
    "rnan": ["model.width=4"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def words(name: str, folder: Path, logs: Path, *more: str) -> list[str]:
    data = ["data.patch_size=12", "data.patches_per_image=4", "data.batch_size=4", "data.eval_batch_size=2"]
    steps = [
        "trainer.max_steps=6",
        "trainer.val_check_interval=3",
        "trainer.log_every_n_steps=1",
        "extras.checkpoint_every_n_steps=1",
    ]
    place = [f"data.shards={folder}", f"paths.log_dir={logs}", "callbacks.progress=null"]
    return [f"experiment=denoise_{name}", "size=demo_denoise", *SIZES[name], *data, *steps, *place, *more]


def run_dir_of(logs: Path) -> Path:
    (folder,) = {path.parent for path in (logs / "train" / "runs").glob("*/metrics.csv")}
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], Path]:
    figures, objects = train(load(words("nlrn", folder, tmp_path_factory.mktemp("logs"), "data.sigma=[10,40]")))
    return figures, objects["run_dir"]


def test_a_run_leaves_the_scores_of_every_image(finished: tuple[dict[str, float], Path]) -> None:
    figures, run_dir = finished
    rows = list(csv.DictReader((run_dir / "images.csv").read_text().splitlines()))
    assert [(row["image"], row["method"]) for row in rows] == [
        (image, method) for image in ("0.png", "2.png", "deep/1.png") for method in ("network", "noisy")
    ]
    assert {float(row["sigma"]) for row in rows} == {25}  # the middle of the range
    for method, name in (("network", "val/PSNR"), ("noisy", "val/noisy_PSNR")):
        mean = np.mean([float(row["PSNR"]) for row in rows if row["method"] == method])
        assert figures[name] == pytest.approx(mean, abs=1e-3)
    assert figures["val/noisy_PSNR"] == pytest.approx(20 * math.log10(255 / 25), abs=0.4)
    assert figures["val/images"] == 3
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["monitor"], summary["size"]) == ("finished", "val/PSNR", "demo")
    assert "no border cut off" in summary["rules"]["PSNR"]


def test_an_evaluation_repeats_it_and_compares(
    finished: tuple[dict[str, float], Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    figures, run_dir = finished
    code, out, err = command(
        evaluate, f"ckpt_path={run_dir}/checkpoints/last.ckpt", f"paths.log_dir={tmp_path}", "task.tile=16"
    )
    assert code == 0, err
    (written,) = tmp_path.glob("eval/runs/*/summary.json")
    metrics = json.loads(written.read_text())["metrics"]
    assert metrics["val/PSNR"] == pytest.approx(figures["val/PSNR"], abs=1e-4)  # in tiles
    assert metrics["val/nonlocal_means_PSNR"] > metrics["val/noisy_PSNR"] + 2
    assert "images.csv             PSNR and SSIM of every image, by method" in out


def test_it_has_no_page_of_its_attention(finished: tuple[dict[str, float], Path], folder: Path, command: Any) -> None:
    code, _, err = command(explain, f"ckpt_path={finished[1]}", f"source={folder}")
    assert code == 1
    assert "a network that restores images has no page; explain shows networks of clips, detectors and" in err


def test_pictures_are_restored(
    finished: tuple[dict[str, float], Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    _, run_dir = finished
    (tmp_path / "in" / "deep").mkdir(parents=True)
    color = picture(30, 41, 5)
    Image.fromarray(color).save(tmp_path / "in" / "color.png")
    Image.fromarray(color[..., 0]).save(tmp_path / "in" / "deep" / "gray.png")
    Image.fromarray(color).convert("RGBA").save(tmp_path / "in" / "alpha.png")
    Image.fromarray(color[..., 0].astype(np.uint16) * 257).save(tmp_path / "in" / "deep16.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out" / "found.json"
    code, _, err = command(predict, f"ckpt_path={run_dir}", f"source={tmp_path / 'in'}", f"out={out}", "device=cpu")
    assert code == 0, err
    assert "3 of 5 images could not be read: alpha.png (pixels), broken.png (undecodable), deep16.png (pixels)" in err
    content = json.loads(out.read_text())
    assert (content["kind"], [row["name"] for row in content["images"]]) == (
        "restoration",
        ["color.png", "deep/gray.png"],
    )
    net = from_pretrained(run_dir)
    for row, pixels in zip(content["images"], (color, color[..., :1]), strict=True):
        channels = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[:, None].float() / 255  # one by one
        with torch.no_grad():
            wanted = (net(channels)[:, 0].clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0)
        restored = np.asarray(Image.open(row["picture"]))
        assert np.array_equal(restored.reshape(wanted.shape), wanted)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_run_is_exported(
    finished: tuple[dict[str, float], Path], command: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    _, run_dir = finished
    code, out, err = command(export, str(run_dir), "--format", kind, "--out", str(tmp_path / "x"))
    assert code == 0, err
    assert "results within" in out
    net = from_pretrained(run_dir)
    for size in ((1, 1, 19, 66), (3, 1, 32, 17)):
        image = torch.rand(size)
        with torch.no_grad():
            torch.testing.assert_close(run_exported(tmp_path / "x", image, kind), net(image), rtol=0, atol=1e-5)


RESUMES = [("nlrn", "inside_step", 4, signal.SIGKILL)] + [
    (name, moment, count, number)
    for name, moment, count in (("nlrn", "validation", 2), ("dncnn", "batch_start", 3), ("rnan", "inside_step", 5))
    for number in (signal.SIGKILL, signal.SIGTERM)
]


@pytest.mark.full
@pytest.mark.parametrize(("name", "moment", "count", "number"), RESUMES)
def test_a_killed_and_resumed_run_repeats_the_uninterrupted_one(
    folder: Path, tmp_path: Path, name: str, moment: str, count: int, number: int
) -> None:
    whole, common = (words(name, folder, tmp_path / place, "data.sigma=[0,55]") for place in ("whole", "logs"))
    assert run_process(train_command, whole, str(tmp_path / "whole.log")) == 0
    code = run_process(train_command, [*common, *killer(moment, count, number)], str(tmp_path / "killed.log"))
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    assert run_process(train_command, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log")) == 0
    folders = [run_dir_of(tmp_path / place) for place in ("whole", "logs")]
    rows, again = (read_rows(place / "metrics.csv") for place in folders)
    assert rows == again
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 7))
    expected, state = (
        torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for place in folders
    )
    assert all(torch.equal(value, state[key]) for key, value in expected.items())
    first, second = ((place / "images.csv").read_bytes() for place in folders)
    assert first == second


@pytest.mark.full
def test_two_ranks_train_and_score_as_one(folder: Path, tmp_path: Path) -> None:
    more = ["data.sigma=[0,55]", "trainer.val_check_interval=6"]
    assert run_process(train_command, words("rnan", folder, tmp_path / "one", *more), str(tmp_path / "log")) == 0
    two = words("rnan", folder, tmp_path / "two", *more, "trainer=ddp_sim")
    assert run_ranks(train_rank, 2, two, f"{tmp_path}/log") == [0, 0]
    alone, both = (read_rows(run_dir_of(tmp_path / place) / "metrics.csv") for place in ("one", "two"))
    for name in ("train/loss", "val/PSNR", "val/SSIM", "val/images"):
        found = [[float(row[name]) for row in rows if row.get(name)] for rows in (alone, both)]
        assert found[0] == pytest.approx(found[1], rel=1e-4), name


@pytest.mark.full
@pytest.mark.parametrize("name", SIZES)
def test_every_experiment_runs_one_step_in_color(folder: Path, tmp_path: Path, name: str) -> None:
    figures, objects = train(load(words(name, folder, tmp_path, "data.channels=3", "debug=fdr")))
    assert objects["trainer"].global_step == 1
    assert math.isfinite(figures["train/loss"])


def test_the_demo_rule_stands_in_with_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESTORATION_IMAGES", raising=False)
    for more in ([], ["size=demo"]):
        cfg = load(["experiment=denoise_nlrn", *more])
        assert (cfg.demo, cfg.size_name, cfg.model.sizes) == (True, "demo", "demo")
        assert cfg.data.shards.endswith("synthetic/photographs-v1")
    with pytest.raises(UserError, match="RESTORATION_IMAGES"):
        load(["experiment=denoise_nlrn", "trainer=ddp_sim"])


@pytest.mark.full
@pytest.mark.parametrize(("name", "least"), [("nlrn", 28.0), ("dncnn", 28.0), ("rnan", 26.0)])
def test_the_demo_learns(tmp_path: Path, name: str, least: float) -> None:
    """On photographs that are held out, at sigma 25 (20.5 dB as they come)."""
    places = [f"paths.log_dir={tmp_path}", f"paths.data_dir={tmp_path}", "callbacks.progress=null"]
    figures, _ = train(load([f"experiment=denoise_{name}", "size=demo", *places]))
    assert figures["val/PSNR"] > least
