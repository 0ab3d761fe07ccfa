"""`python src/explain.py` on shards, videos, folders of frames and images; and what cannot be explained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.coco import write_image
from helpers.detection import save_detector
from nlnet import NonLocalBlock, from_pretrained
from nlnet.attention import explain
from nlnet.cli.explain import main, settings
from nlnet.config.resolve import load
from nlnet.data.batches.clip_transforms import prepare_clips
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.video import probe
from nlnet.runs.train import train


def trained(shards: Path, folder: Path, *words: str) -> Path:
    overrides = [
        "experiment=charades_nl",
        "size=demo",
        "data.batch_size=8",
        "data.num_workers=0",
        f"data.shards={shards}",
    ]
    overrides += ["trainer.max_epochs=2", "trainer.limit_train_batches=2", "callbacks.progress=null", *words]
    return train(load([*overrides, f"paths.log_dir={folder}"]))[1]["run_dir"]


@pytest.fixture(scope="module")
def run_dir(charades_shards, tmp_path_factory):
    return trained(
        charades_shards,
        tmp_path_factory.mktemp("logs"),
        "callbacks=attention",
        "callbacks.attention.clips=2",
        "logger=tensorboard",
    )


def test_a_sample_of_shards(run_dir, charades_shards, tmp_path, command):
    out = tmp_path / "out"
    code, text, err = command(
        main, f"ckpt_path={run_dir}", f"source={charades_shards}", "split=test", "key=test0003", f"out={out}",
        "position=[1,2,3]", "block=res3.0_nonlocal",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [f"explain.{kind}" for kind in ("html", "json", "mp4", "png")]
    assert text.splitlines()[-1].startswith(f"written: {out}: explain.html, ")
    content = json.loads((out / "explain.json").read_text())
    assert (content["title"], content["frames"]) == ("test0003", 8)
    assert [block["name"] for block in content["blocks"]] == ["res3.0_nonlocal", "res3.1_nonlocal"]
    assert content["deletion"]["removed"] == {"res3.0_nonlocal": 8, "res3.1_nonlocal": 8}
    assert probe((out / "explain.mp4").read_bytes()).frames == 8


def test_the_callback_draws_after_validations_and_changes_nothing(run_dir, charades_shards, tmp_path):
    drawn = sorted(path.name for path in (run_dir / "attention").iterdir())
    assert drawn == [f"step-{step:06d}-{number}.png" for step in (2, 4) for number in (0, 1)]
    assert np.asarray(Image.open(run_dir / "attention" / drawn[0])).shape[2] == 3
    events = EventAccumulator(str(next(run_dir.rglob("events.out.tfevents.*")).parent), {"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["val/attention_0", "val/attention_1"]
    assert [image.step for image in events.Images("val/attention_0")] == [2, 4]
    plain = trained(charades_shards, tmp_path)
    first, second = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (run_dir, plain))
    assert all(torch.equal(first["state_dict"][key], value) for key, value in second["state_dict"].items())


def test_a_video_is_seen_as_in_training(run_dir, media, tmp_path, command):
    """The middle square of the middle clip; and a folder with its frames gives the same."""
    video = media / "video" / "short_32_frames.mp4"
    code, _, err = command(main, f"ckpt_path={run_dir}", f"source={video}", f"out={tmp_path / 'a'}", "deletion=false")
    assert (code, err) == (0, "")
    frames = decode_clip(video.read_bytes(), range(32))
    _, height, width, _ = frames.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    geometry = load(["experiment=charades_nl", "size=demo"]).data
    first = (32 - geometry.frames * geometry.stride) // 2
    chosen = frames[first :: geometry.stride][: geometry.frames, top : top + side, left : left + side]
    inputs = prepare_clips([torch.from_numpy(np.ascontiguousarray(chosen))], torch.zeros(1, dtype=torch.bool), 32)
    expected = explain(from_pretrained(run_dir), inputs, kind="multilabel", deletion=False).numbers["blocks"]
    found = json.loads((tmp_path / "a" / "explain.json").read_text())["blocks"]
    assert found == expected

    (tmp_path / "frames").mkdir()
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"frame{k}.png")  # frame10 is not behind frame1
    command(main, f"ckpt_path={run_dir}", f"source={tmp_path / 'frames'}", f"out={tmp_path / 'b'}", "deletion=false")
    assert json.loads((tmp_path / "b" / "explain.json").read_text())["blocks"] == expected


def test_a_detectors_backbone_on_an_image(tmp_path, command):
    save_detector(tmp_path / "x.ckpt", "mask")
    write_image(tmp_path / "image.jpg", 128, 96, 1)
    out = tmp_path / "out"
    code, _, err = command(main, f"ckpt_path={tmp_path / 'x.ckpt'}", f"source={tmp_path / 'image.jpg'}", f"out={out}")
    assert (code, err) == (0, "")
    content = json.loads((out / "explain.json").read_text())
    assert (content["title"], content["frames"], content["predictions"]) == ("image.jpg", 1, [])
    (block,) = content["blocks"]
    assert block["size"][0] == 1
    assert not (out / "explain.mp4").exists()


def test_what_cannot_be_explained_is_one_line(run_dir, charades_shards, tmp_path, command):
    (tmp_path / "sound.mp4").write_bytes(b"no video")
    shutil.copytree(charades_shards, tmp_path / "shards")
    run = [f"ckpt_path={run_dir}", f"out={tmp_path / 'out'}"]
    shards = f"source={charades_shards}"
    for words, message in (
        ([*run, f"source={tmp_path / 'sound.mp4'}"], "sound.mp4: undecodable"),
        ([*run, f"source={tmp_path / 'nowhere.mp4'}"], "there is no such file or folder"),
        ([*run, shards, "key=nobody"], "key=nobody: "),
        ([*run, shards, "blocks=res9"], "blocks=res9: the network has no such non-local block"),
        ([*run, shards, "block=res9"], "block=res9: the blocks that were looked at are res3.0_nonlocal"),
        ([*run, shards, "position=[9,0,0]"], "position=[9, 0, 0]: give [frame, row, column] within"),
        ([*run, shards, "surce=x"], "surce"),
        ([*run], "source is missing"),
    ):
        code, _, err = command(main, *words)
        assert code == 1, words
        assert message in err
        assert err.startswith("error: ")
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert settings(["ckpt_path=a b.ckpt", "source=x=y.mp4"]).source == "x=y.mp4"


def test_a_network_without_blocks_is_one_line(charades_shards, tmp_path, command):
    folder = trained(charades_shards, tmp_path, "model.nonlocal_blocks=0", "trainer.limit_val_batches=1")
    assert not any(isinstance(module, NonLocalBlock) for module in from_pretrained(folder).modules())
    code, _, err = command(main, f"ckpt_path={folder}", f"source={charades_shards}", f"out={tmp_path / 'out'}")
    assert (code, err.count("\n")) == (1, 1)
    assert "has no non-local block, so there is nothing to show" in err
