"""Region graphs end to end: trained in two stages, stopped and resumed, tested, predicted, exported; and learnt."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.processes import run_process, train_command
from helpers.signalling import killer
from nlnet.checkpoints import from_pretrained
from nlnet.checkpoints.export import export, run_exported
from nlnet.cli.predict import main as predict
from nlnet.cli.prepare import main as prepare
from nlnet.cli.regions import main as regions
from nlnet.config.resolve import load
from nlnet.config.run_config import load_run_config
from nlnet.data.synthetic import meetings
from nlnet.errors import UserError
from nlnet.runs.callbacks.metrics_csv import read_rows
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meetings") / "something"
    meetings.build(folder, "something", {"train": 48, "val": 48})
    return folder


def settings(experiment: str, shards: Path, logs: Path, *more: str) -> list[str]:
    return [
        f"experiment={experiment}",
        "size=demo_meetings" if experiment == "ssv1_i3d" else "size=demo_regions",
        f"data.shards={shards}",
        f"paths.log_dir={logs}",
        "data.batch_size=16",
        "data.eval_batch_size=24",
        "data.num_workers=0",
        "trainer.max_epochs=1",
        "callbacks.progress=null",
        *more,
    ]


def run_of(logs: Path) -> Path:
    (folder,) = (logs / "train" / "runs").iterdir()
    return folder


@pytest.fixture(scope="module")
def stages(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The backbone's run, then the graph's from its checkpoint, and what that logged."""
    first, second = tmp_path_factory.mktemp("backbone"), tmp_path_factory.mktemp("graph")
    train(load(settings("ssv1_i3d", shards, first)))
    start = f"init.checkpoint={run_of(first)}"
    figures, _ = train(
        load(settings("ssv1_strg", shards, second, start, "trainer.max_epochs=1", "optim.optimizer.lr=0.0"))
    )
    return run_of(first), run_of(second), figures


def test_the_second_stage_starts_with_the_weights_of_the_first(stages: Any) -> None:
    backbone, graph, figures = stages
    before = torch.load(backbone / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    after = torch.load(graph / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    learnt = {key.removeprefix("net."): value for key, value in before.items() if not key.startswith("net.fc.")}
    moving = ("running_mean", "running_var", "num_batches_tracked")
    assert len(learnt) > 20
    for key, value in learnt.items():
        if not key.endswith(moving):  # the rate was zero
            assert torch.equal(after[f"net.backbone.{key}"], value), key
    assert {"val/top1", "val/loss"} <= set(figures)


def test_an_evaluation_repeats_the_validation(stages: Any) -> None:
    _, graph, figures = stages
    found = evaluate(load_run_config([f"ckpt_path={graph}/checkpoints/last.ckpt"]))
    assert found["val/top1"] == figures["val/top1"]
    assert found["val/loss"] == figures["val/loss"]
    with pytest.raises(UserError, match="protocol=30view: a network of regions is tested on the middle clip"):
        evaluate(load_run_config([f"ckpt_path={graph}/checkpoints/last.ckpt", "protocol=30view"]))


def test_a_prediction_writes_regions_and_their_links_and_draws_them(
    stages: Any, shards: Path, command: Any, tmp_path: Path
) -> None:
    _, graph, _ = stages
    out = tmp_path / "found.json"
    code, text, err = command(predict, f"ckpt_path={graph}", f"source={shards}", "split=val", "limit=2", f"out={out}")
    assert code == 0, err
    assert meetings.CLASSES[0] in text
    for record in json.loads(out.read_text())["videos"]:
        _, drawn = meetings.render("val", int(record["name"].removeprefix("val")))
        np.testing.assert_allclose(np.array(record["regions"]["boxes"]) * meetings.SIZE, drawn, atol=0.01)
        assert record["regions"]["frames"] == [0, 1, 2]
        for link in record["regions"]["links"]:
            assert link["from"][0] != link["to"][0]
            assert 0 < link["similarity"] <= 1
        with Image.open(record["picture"]) as file:
            picture = np.array(file)
        assert picture.shape == (256, 3 * 256 + 2 * 6, 3)
        corner = (drawn[0, 0] / meetings.SIZE * 256).round().astype(int)
        assert (picture[corner[1] + 3, max(corner[0], 0)] != picture[corner[1] + 3, corner[0] + 6]).any()  # an outline
    code, _, err = command(predict, f"ckpt_path={graph}", f"source={shards}/none.mp4", f"out={out}")
    assert code == 1
    assert "regions= is not set: this network looks at regions" in err


def test_a_network_is_read_back_and_called_with_boxes(stages: Any) -> None:
    _, graph, _ = stages
    net = from_pretrained(graph)
    clip = torch.randn(2, 3, 3, 40, 40)
    boxes = net.further_inputs(clip)["boxes"]
    with torch.no_grad():
        assert net(clip, boxes).shape == (2, 3)
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 3, 1, 4)
        torch.testing.assert_close(net(clip), net(clip, whole))
        torch.testing.assert_close(net(clip, torch.cat([whole, torch.zeros(2, 3, 5, 4)], 2)), net(clip, whole))
        order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(net(clip, boxes[:, :, order]), net(clip, boxes), rtol=1e-4, atol=1e-5)
        with pytest.raises(UserError, match=r"set data\.region_frames=3"):
            net(clip, boxes[:, :2])


@pytest.mark.full
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_network_is_exported_with_its_boxes(stages: Any, tmp_path: Path, format: str) -> None:
    _, graph, _ = stages
    net, path = from_pretrained(graph), tmp_path / f"net.{format}"
    assert export(net, path, format) < 1e-4
    clip = torch.randn(3, 3, 2, 24, 40)
    boxes = net.further_inputs(clip)["boxes"]
    with torch.no_grad():
        torch.testing.assert_close(
            run_exported(path, clip, format, boxes=boxes), net(clip, boxes), rtol=1e-4, atol=1e-4
        )


@pytest.mark.full
@pytest.mark.parametrize(
    ("moment", "count", "number"), [("batch_start", 5, signal.SIGKILL), ("inside_step", 2, signal.SIGTERM)]
)
def test_a_killed_run_goes_on_bit_for_bit(shards: Path, tmp_path: Path, moment: str, count: int, number: int) -> None:
    more = ["extras.checkpoint_every_n_steps=1", "trainer.max_epochs=2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_process(train_command, settings("ssv1_strg", shards, whole, *more), str(tmp_path / "whole.log")) == 0
    common = settings("ssv1_strg", shards, broken, *more)
    code = run_process(train_command, [*common, *killer(moment, count, number)], str(tmp_path / "killed.log"))
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert run_process(train_command, [*common, "ckpt_path=last"], str(tmp_path / "resumed.log")) == 0
    rows, again = (read_rows(run_of(logs) / "metrics.csv") for logs in (whole, broken))
    assert rows == again
    expected, state = (
        torch.load(run_of(logs) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for logs in (whole, broken)
    )
    assert all(torch.equal(value, state[name]) for name, value in expected.items())


@pytest.mark.full
@pytest.mark.parametrize("experiment", ["charades_strg", "charades_nl_strg", "ssv1_strg", "ssv1_nl_strg"])
def test_who_meets_is_learnt_from_the_graph(experiment: str, tmp_path: Path) -> None:
    """The demo of each experiment, two minutes of a core."""
    words = [
        f"experiment={experiment}",
        f"paths.data_dir={tmp_path}",
        f"paths.log_dir={tmp_path}",
        "callbacks.progress=null",
    ]
    figures, _ = train(load(words))
    assert figures["val/top1" if experiment.startswith("ssv1") else "val/mAP"] >= 0.95


@pytest.mark.full
def test_regions_that_are_pooled_alone_do_not_tell_who_meets(tmp_path: Path) -> None:
    words = [f"paths.data_dir={tmp_path}", f"paths.log_dir={tmp_path}", "callbacks.progress=null", "model.graph=none"]
    figures, _ = train(load(["experiment=ssv1_strg", "size=demo_regions", *words]))
    assert figures["val/top1"] <= 0.65


@pytest.mark.full
def test_a_real_clip_goes_the_whole_way(media: Path, command: Any, tmp_path: Path) -> None:
    """Prepared, looked at by a proposal network, trained on for a step, and predicted with its regions drawn."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    weights = tmp_path / "proposals.pt"
    torch.save(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), weights)
    for split in ("train", "test"):
        (tmp_path / f"Charades_v1_{split}.csv").write_text("id,actions,length\narm_wrestling,c001 0.00 9.00,10\n")
    chosen = [f"source={tmp_path}", f"videos={media}/video", f"out={tmp_path}/shards", "short_side=96"]
    assert command(prepare, "dataset=charades", *chosen)[0] == 0
    asked = [f"shards={tmp_path}/shards", f"weights={weights}", "short_side=96", "top=12", "rate=2"]
    code, out, err = command(regions, *asked)
    assert code == 0, err
    assert "charades train: regions of 1 videos" in out
    run = [
        "size=demo_regions",
        f"data.shards={tmp_path}/shards",
        f"paths.log_dir={tmp_path}/logs",
        "callbacks.progress=null",
    ]
    clip = ["data.frames=8", "data.stride=4", "data.size=64", "data.scale=[64,80]", "data.region_frames=8"]
    small = ["data.batch_size=1", "data.eval_batch_size=1", "data.num_workers=0", "trainer.max_epochs=1"]
    train(load(["experiment=charades_strg", *run, *clip, *small, "data.regions_per_frame=12"]))
    (graph,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert len([row for row in read_rows(graph / "metrics.csv") if row["train/loss"]]) == 1
    out = tmp_path / "found.json"
    for more in (["source=" + str(tmp_path / "shards"), "split=test"],
                 [f"source={media}/video/arm_wrestling.mp4", f"proposals={weights}", "every=1000"]):  # fmt: skip
        code, _, err = command(predict, f"ckpt_path={graph}", *more, f"out={out}")
        assert code == 0, err
        (record,) = json.loads(out.read_text())["videos"]
        assert len(record["regions"]["boxes"]) == 8
        assert sum(map(len, record["regions"]["boxes"])) >= 8
        with Image.open(record["picture"]) as picture:
            assert picture.size == (8 * 256 + 7 * 6, 256)
