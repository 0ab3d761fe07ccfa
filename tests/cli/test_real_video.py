"""From real videos with their annotations to a trained network, by the commands alone."""

import csv

import pytest

from nlnet.cli.prepare import main as prepare
from nlnet.config.resolve import load
from nlnet.runs.train import train

SHOWS = {  # two of the nine are of one scene
    "arm_wrestling": "arm wrestling",
    "hevc": "counting frames",
    "non_zero_start": "trees in the wind",
    "short_32_frames": "cleaning a pool",
    "six_fps": "arm wrestling",
    "two_video_streams": "assembling a telescope",
    "wide_426x240": "playing basketball",
    "with_audio": "a test picture",
    "xvid": "applying make-up",
}
NAMES = sorted(set(SHOWS.values()))


@pytest.fixture(scope="module")
def videos(media):
    return sorted((media / "video").iterdir())


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def overfit(experiment, shards, logs):
    """Train on the nine videos at demo size and evaluate on the same ones."""
    overrides = [
        f"experiment={experiment}",
        "size=demo",
        f"data.shards={shards}",
        f"paths.log_dir={logs}",
        "data.frames=4",
        "data.stride=8",
        "data.scale=[32,36]",
        "data.batch_size=9",
        "data.eval_batch_size=9",
        "data.num_workers=0",
        "optim.optimizer.lr=0.01",
        "trainer.max_epochs=80",
        "trainer.check_val_every_n_epoch=80",
        "callbacks.progress=null",
    ]
    return train(load(overrides))[0]


def test_charades(command, videos, tmp_path):
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    numbers = [NAMES.index(SHOWS[path.stem]) for path in videos]
    rows = [
        {"id": path.stem, "actions": f"c{k:03d} 0.00 60.00;c{100 + k % 3:03d} 0.00 60.00", "length": "10"}
        for k, path in zip(numbers, videos, strict=True)
    ]
    rows[-1]["actions"] = ""  # stays in, as a negative of every class
    for split in ("train", "test"):
        write_csv(annotations / f"Charades_v1_{split}.csv", rows)
    code, out, err = command(
        prepare,
        "dataset=charades",
        f"source={annotations}",
        f"videos={videos[0].parent}",
        f"out={tmp_path}/shards",
        "short_side=96",
    )
    assert code == 0, err
    assert "9 videos" in out + err
    figures = overfit("charades_nl", tmp_path / "shards", tmp_path / "logs")
    assert figures["val/videos"] == 9
    assert figures["val/mAP"] >= 0.99


@pytest.mark.full
def test_kinetics(command, videos, tmp_path):
    rows = [
        {"label": SHOWS[path.stem], "youtube_id": path.stem, "time_start": 0, "time_end": 10, "split": split}
        for path in videos
        for split in ("train", "validate")
    ]
    write_csv(tmp_path / "kinetics.csv", rows)
    code, _, err = command(
        prepare,
        "dataset=kinetics",
        f"source={tmp_path}/kinetics.csv",
        f"videos={videos[0].parent}",
        f"out={tmp_path}/shards",
        "encode=h264",
        "short_side=64",
    )
    assert code == 0, err
    figures = overfit("kinetics_i3d_nl", tmp_path / "shards", tmp_path / "logs")
    assert figures["val/videos"] == 9
    assert figures["val/top1"] == 1.0
