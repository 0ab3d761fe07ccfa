"""Tests with many views, from a checkpoint to its figures and predictions.parquet."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from helpers.processes import eval_rank, run_ranks
from nlnet.cli.compare import main as compare_main
from nlnet.cli.eval import main
from nlnet.config.resolve import load as load_config
from nlnet.config.run_config import load_run_config
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.batches.views import ViewBatches
from nlnet.data.shards.find import find_shards
from nlnet.data.shards.manifest import Manifest, manifest_name
from nlnet.data.shards.source import DEFAULTS
from nlnet.errors import UserError
from nlnet.evaluation.predictions import FILE, load
from nlnet.models import build_model
from nlnet.runs.evaluate import evaluate
from nlnet.runs.train import train

SMALL = ["size=demo", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=1", "callbacks.progress=null"]


@pytest.fixture(scope="module")
def checkpoints(charades_shards, kinetics_shards, tmp_path_factory):
    """A little trained network of each kind of task, by kind: (checkpoint, figures of its validation)."""
    found = {}
    for kind, experiment, shards in (
        ("multilabel", "charades_nl", charades_shards),
        ("multiclass", "kinetics_i3d_nl", kinetics_shards),
    ):
        logs = tmp_path_factory.mktemp(kind)
        overrides = [f"experiment={experiment}", *SMALL, f"data.shards={shards}", f"paths.log_dir={logs}"]
        figures, objects = train(load_config(overrides))
        found[kind] = objects["run_dir"] / "checkpoints" / "last.ckpt", figures
    return found


def test_a_further_metric_can_be_typed_for_an_evaluation(checkpoints):
    words = [f"ckpt_path={checkpoints['multilabel'][0]}", "task.metrics.own.scale=2"]
    assert load_run_config(words).task.metrics == {"own": {"scale": 2}}
    with pytest.raises(UserError, match=r"model\.block_options\.own: there is no such key"):
        load_run_config([words[0], "model.block_options.own=2"])


def test_center_is_the_validation_of_training_and_writes_its_scores(checkpoints, tmp_path):
    for kind, (path, figures) in checkpoints.items():
        again = evaluate(load_run_config([f"ckpt_path={path}", f"paths.log_dir={tmp_path / kind}"]))
        assert again == {name: value for name, value in figures.items() if name in again}
        (file,) = (tmp_path / kind).rglob(FILE)
        predictions = load(file)
        assert predictions.views.shape == (20, 1, 4)
        recomputed, _ = predictions.metrics()
        for name, value in recomputed.items():
            assert again[f"val/{name}"] == np.float32(value)
        rules = json.loads((file.parent / "summary.json").read_text())["rules"]
        assert list(rules) == (["mAP"] if kind == "multilabel" else [])


def test_evaluations_are_compared_as_they_were_written(checkpoints, tmp_path, command):
    """Both kinds, by folder; the figures are those that the evaluations logged."""
    for kind, (path, figures) in checkpoints.items():
        logs = tmp_path / kind
        evaluate(load_run_config([f"ckpt_path={path}", f"paths.log_dir={logs}"]))
        (file,) = logs.rglob(FILE)
        code, out, err = command(compare_main, str(file.parent), str(file.parent), "--samples", "20", "--json")
        assert code == 0, err
        name = "mAP" if kind == "multilabel" else "top1"
        row = json.loads(out[out.index("{\n") :])[name]  # after what the evaluation said
        assert row["a"] == pytest.approx(figures[f"val/{name}"], abs=1e-6)
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "protocol", "starts", "views"),
    [
        ("multiclass", "30view", "official", 12),
        pytest.param("multiclass", "fullconv", "mmaction2", 4, marks=pytest.mark.full),
        pytest.param("multilabel", "30view", "slowfast", 12, marks=pytest.mark.full),
        pytest.param("multilabel", "fullconv", "official", 4, marks=pytest.mark.full),
    ],
)
def test_scores_can_be_computed_from_the_file(kind, protocol, starts, views, checkpoints, tmp_path, request):
    path, _ = checkpoints[kind]
    overrides = [f"protocol={protocol}", f"protocol.starts={starts}", "protocol.clips=4", "protocol.scale=48"]
    figures = evaluate(load_run_config([f"ckpt_path={path}", f"paths.log_dir={tmp_path}", *overrides]))
    (file,) = tmp_path.rglob(FILE)
    rows = pq.read_table(file).to_pylist()
    shards = request.getfixturevalue("charades_shards" if kind == "multilabel" else "kinetics_shards")
    name = manifest_name("charades", "test") if kind == "multilabel" else manifest_name("kinetics", "val")
    manifest = Manifest.from_json((shards / name).read_text(), name)
    assert [row["key"] for row in rows] == [sample.key for sample in manifest.samples]
    assert [row["targets"] for row in rows] == [sorted({k for k, _, _ in s.labels}) for s in manifest.samples]
    for row in rows:
        each = np.array(row["views"], np.float32)
        assert each.shape == (views, 4)
        combined = each.max(0) if kind == "multilabel" else each.astype(np.float64).sum(0).astype(np.float32)
        assert np.array_equal(np.array(row["scores"], np.float32), combined)
    assert figures["val/videos"] == 20
    if kind == "multiclass":
        total = np.array([row["views"] for row in rows]).sum(1)
        target = np.array([row["targets"][0] for row in rows])
        assert figures["val/top1"] == pytest.approx((total.argmax(1) == target).mean())
        assert {"val/clip1_top1", "val/clip_top1"} <= figures.keys()
    else:
        assert {"val/mAP", "val/clip1_mAP", "val/clip_mAP"} <= figures.keys()
    record = json.loads((file.parent / "summary.json").read_text())
    assert record["metrics"]["val/videos"] == 20
    assert load(file).protocol["window"] == [8, 8]
    assert load(file).protocol["starts"] == starts


def test_one_view_of_the_middle_is_close_to_the_validation(checkpoints, tmp_path):
    """The clips are 8 frames of 8, the frames 32x32, as the network was trained: every view is the same one."""
    path, _ = checkpoints["multiclass"]
    evaluate(load_run_config([f"ckpt_path={path}", f"paths.log_dir={tmp_path / 'a'}"]))
    overrides = ["protocol=30view", "protocol.clips=1"]
    evaluate(load_run_config([f"ckpt_path={path}", f"paths.log_dir={tmp_path / 'b'}", *overrides]))
    (a,), (b,) = ((tmp_path / name).rglob(FILE) for name in "ab")
    np.testing.assert_allclose(load(b).views[:, 1], load(a).views[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.full)])
def test_every_video_once_on_any_number_of_ranks(ranks, checkpoints, tmp_path):
    path, _ = checkpoints["multiclass"]
    common = [f"ckpt_path={path}", "protocol=30view", "protocol.clips=2"]
    evaluate(load_run_config([*common, f"paths.log_dir={tmp_path / 'one'}"]))
    several = [*common, f"paths.log_dir={tmp_path / 'several'}", "trainer=ddp_sim", f"trainer.devices={ranks}"]
    assert run_ranks(eval_rank, ranks, several) == [0] * ranks
    (one,), (many,) = ((tmp_path / name).rglob(FILE) for name in ("one", "several"))
    a, b = load(one), load(many)
    assert a.keys == b.keys
    np.testing.assert_allclose(b.views, a.views, rtol=1e-5, atol=1e-6)
    figures = [json.loads((file.parent / "summary.json").read_text())["metrics"] for file in (one, many)]
    assert figures[0] == pytest.approx(figures[1])


def test_a_converted_file_needs_data_and_no_run(kinetics_shards, tmp_path, command):
    torch.manual_seed(0)
    net = build_model("c2d_demo", nonlocal_blocks=1, num_classes=4, dropout=0.0).eval()
    path = tmp_path / "converted.pt"
    model = {"name": "c2d_demo", "nonlocal_blocks": 1, "num_classes": 4}
    torch.save({"model": model, "state_dict": net.state_dict(), "missing": [], "source": "caffe2"}, path)
    arguments = [f"ckpt_path={path}", "experiment=kinetics_i3d", "size=demo", "data.num_workers=0"]
    code, _, err = command(main, *arguments, "protocol=30view")
    assert (code, "give the data it is for" in err) == (1, True), err
    arguments += [f"data.shards={kinetics_shards}", f"paths.log_dir={tmp_path}", "callbacks.progress=null"]
    evaluate(load_run_config(arguments))
    (file,) = tmp_path.rglob(FILE)
    frames = ViewBatches(*find_shards(str(kinetics_shards), "kinetics", "val", DEFAULTS), RankSlice(20),
                         ClipGeometry(8, 1), clips=1)[0, 0]["videos"]  # fmt: skip
    with torch.no_grad():
        logits = net(((torch.stack(frames).permute(0, 4, 1, 2, 3) / 255 - 0.45) / 0.225).float())
    np.testing.assert_allclose(load(file).scores, logits.softmax(1).numpy(), rtol=1e-4, atol=1e-6)


def test_mistakes_are_named(checkpoints, command):
    path, _ = checkpoints["multiclass"]
    for override, words in (
        ("protocol=30views", "there is no such protocol; nearest: 30view"),
        ("protocol.clips=3", "protocol.clips=3: protocol=center is the validation of training, with clips=1"),
        ("protocol=center protocol.crops=three", "give protocol=30view protocol.crops=three"),
        ("protocol=30view protocol.clip=3", "protocol.clip: there is no such key"),
        ("protocol=30view protocol.starts=slow", "protocol.starts=slow: there is no such choice; nearest: slowfast"),
        ("protocol=30view protocol.size=64", "protocol.size=64 does not fit into frames with a short side of"),
        ("protocol=30view protocol.clips=0", "protocol.clips=0: give a number, at least 1"),
    ):
        code, _, err = command(main, f"ckpt_path={path}", *override.split())
        assert (code, words in err) == (1, True), err
