"""Predictions for plain videos, folders and shards."""

import json
import shutil

import numpy as np
import pytest
import torch

from nlnet.checkpoints import from_pretrained
from nlnet.cli.predict import main
from nlnet.config.resolve import load
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.evaluation.views import training_window
from nlnet.models import build_model
from nlnet.prediction.timeline import Recognizer, clip_starts
from nlnet.runs.train import train


@pytest.fixture(scope="module")
def run_dir(kinetics_shards, tmp_path_factory):
    overrides = ["experiment=kinetics_c2d", "size=demo", "data.batch_size=8", "data.num_workers=0"]
    overrides += ["trainer.max_epochs=1", "callbacks.progress=null", f"data.shards={kinetics_shards}"]
    return train(load([*overrides, f"paths.log_dir={tmp_path_factory.mktemp('logs')}"]))[1]["run_dir"]


def test_clips_cover_a_video_and_end_with_it():
    assert clip_starts(100, 32, 32) == [0, 32, 64, 68]
    assert clip_starts(96, 32, 32) == [0, 32, 64]
    assert clip_starts(100, 32, 10) == [0, 10, 20, 30, 40, 50, 60, 68]
    assert clip_starts(20, 32, 32) == [0]


def test_a_plain_video(run_dir, media, tmp_path, command):
    video, out = media / "video" / "arm_wrestling.mp4", tmp_path / "out.json"
    code, text, err = command(main, f"ckpt_path={run_dir}", f"source={video}", f"out={out}", "top=2", "every=2.5")
    assert (code, err) == (0, "")
    (record,) = json.loads(out.read_text())["videos"]
    assert (record["name"], record["frames"], record["fps"]) == ("arm_wrestling.mp4", 280, 28.0)
    assert [clip["start"] for clip in record["clips"]] == [0.0, 2.5, 5.0, 7.5, 9.714]
    assert record["clips"][-1]["end"] == 10.0
    best = record["clips"][0]["top"]
    assert [entry["class"] in ("c000", "c001", "c002", "c003") for entry in best] == [True, True]
    assert 1 >= best[0]["score"] >= best[1]["score"] >= 0
    lines = text.splitlines()
    assert lines[0] == "arm_wrestling.mp4: 280 frames, 10.0 s"
    assert lines[1].split("s  ")[0].strip() == "0.0 - 0.3"
    assert len(lines) == 1 + 5 + 1 + 1


def test_scores_are_those_of_the_network(media):
    """A clip of the middle of the video, decoded and scaled by hand."""
    from nlnet.data.media.decode import decode_clip

    torch.manual_seed(0)
    net = build_model("c2d_demo", nonlocal_blocks=1, num_classes=3).eval()
    data = (media / "video" / "short_32_frames.mp4").read_bytes()
    window = training_window(net, (3, 4, 32, 32))
    network = Recognizer(net, "multiclass", ClipGeometry(4, 4), 32, window, torch.device("cpu"), 32)
    timeline = network.timeline(data)
    assert [(round(m.start * timeline.info.fps), round(m.end * timeline.info.fps)) for m in timeline.moments] == [
        (0, 16),
        (16, 32),
    ]
    frames = torch.from_numpy(decode_clip(data, [16, 20, 24, 28])).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(frames, size=(32, 42), mode="bilinear", antialias=True)
    with torch.no_grad():
        dense = net.dense(((small / 255 - 0.45) / 0.225).transpose(0, 1)[None], window)
    expected = dense.softmax(-1).mean(1)[0]
    torch.testing.assert_close(torch.from_numpy(timeline.moments[1].scores), expected)
    mean = np.mean([moment.scores for moment in timeline.moments], 0)
    np.testing.assert_allclose(timeline.scores, mean, rtol=1e-6)


def test_a_folder_with_bad_files_names_and_counts_them(run_dir, media, tmp_path, command):
    folder = tmp_path / "my videos (2)"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(media / "video" / "xvid.avi", folder / "deep" / "xvid.avi")
    (folder / "broken.mp4").write_bytes(b"not a video at all" * 100)
    (folder / "notes.txt").write_text("no video")
    out = tmp_path / "it's.json"
    code, _, err = command(main, f"ckpt_path={run_dir}", f"source={folder}", f"out={out}", "every=3")
    assert code == 0
    assert err == "1 of 2 videos could not be read: broken.mp4 (undecodable)\n"
    result = json.loads(out.read_text())
    assert [record["name"] for record in result["videos"]] == ["deep/xvid.avi"]
    assert [(failure["name"], failure["cause"]) for failure in result["failures"]] == [("broken.mp4", "undecodable")]
    (folder / "deep" / "xvid.avi").unlink()
    code, _, err = command(main, f"ckpt_path={run_dir}", f"source={folder}")
    assert code == 1
    assert "no video could be read" in err


def test_shards_with_and_without_manifest_agree(run_dir, kinetics_shards, tmp_path, command):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    code, _, _ = command(main, f"ckpt_path={run_dir}", f"source={kinetics_shards}", "split=val", f"out={a}")
    assert code == 0
    tars = f"{kinetics_shards}/kinetics-val-{{000000..000002}}.tar"
    code, _, _ = command(main, f"ckpt_path={run_dir}", f"source={tars}", f"out={b}", "limit=20")
    assert code == 0
    first, second = (json.loads(path.read_text())["videos"] for path in (a, b))
    assert len(first) == 20
    assert [{**row, "name": row["name"].split(".")[0]} for row in second] == first


def test_a_converted_file_says_what_is_missing(tmp_path, media, command):
    model = {"name": "c2d_demo", "num_classes": 3}
    net = build_model(**model)
    path = tmp_path / "converted.pt"
    torch.save({"model": model, "state_dict": net.state_dict(), "missing": [], "source": "caffe2"}, path)
    assert from_pretrained(path)(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 3)
    arguments = [f"ckpt_path={path}", f"source={media / 'video' / 'hevc.mp4'}", f"out={tmp_path / 'out.json'}"]
    code, _, err = command(main, *arguments)
    assert code == 1
    assert "give frames= stride= crop=" in err
    arguments += ["frames=4", "stride=2", "crop=32", "scale=32"]
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    code, _, err = command(main, *arguments, f"classes={tmp_path / 'names.txt'}")
    assert code == 1
    assert "2 names, but the network has 3 classes" in err
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    code, out, _ = command(main, *arguments, f"classes={tmp_path / 'names.txt'}")
    assert code == 0
    assert "three 0." in out
