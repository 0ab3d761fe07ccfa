"""Regions of prepared videos from a proposal network: interrupted, in parts, merged, and refused where they differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.preparing import digests
from helpers.shards import write_tiny
from nlnet.cli.regions import main as regions
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.regions.stored import stored_regions


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proposal network that has learnt nothing, in a file."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "proposals.pt"
    torch.save(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("shards"), train=4, val=2, shards=2)


def asked(shards: Path, weights: Path, out: Path, *more: str) -> list[str]:
    return [f"shards={shards}", f"weights={weights}", f"out={out}", "short_side=32", "top=3", "rate=8", *more]


def made(folder: Path) -> dict[str, str]:
    """What a training reads."""
    return {name: digest for name, digest in digests(folder).items() if not name.startswith(".parts/")}


@pytest.mark.full
def test_parts_and_interruptions_give_the_bytes_of_an_undisturbed_run(
    shards: Path, weights: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, out, err = command(regions, *asked(shards, weights, whole))
    assert code == 0, err
    assert "charades train: regions of 4 videos" in out
    assert len(made(whole)) == 6  # two files and a manifest a split

    monkeypatch.setattr("nlnet.prediction.regions.files._DECODED", 4)  # half of a video at once
    assert command(regions, *asked(shards, weights, parts, "part=1/2"))[0] == 0
    code, _, err = command(regions, *asked(shards, weights, parts, "merge=true"))
    assert code == 1
    assert "the regions of 1 of 2 shards of charades test are still to be made" in err
    assert command(regions, *asked(shards, weights, parts, "part=2/2"))[0] == 0
    assert not list(parts.glob("*-regions.json"))
    assert command(regions, *asked(shards, weights, parts, "merge=true"))[0] == 0
    assert made(parts) == made(whole)

    (parts / "charades-train-000001.regions").write_bytes(b"cut off")  # as a full disk may leave it
    assert command(regions, *asked(shards, weights, parts))[0] == 0
    assert made(parts) == made(whole)

    stored = stored_regions(str(whole), "charades", ["train"])
    path = shards / "charades-train-manifest.json"
    for sample in Manifest.from_json(path.read_bytes(), str(path)).samples:
        video = stored.of(sample.key)
        assert video.frames.tolist() == list(range(8))
        assert (video.counts <= 3).all()
        assert (video.boxes >= 0).all()
        assert (video.boxes <= 1).all()
        assert (video.boxes[:, 2:] >= video.boxes[:, :2]).all()
        assert video.counts.sum() > 0

    code, _, err = command(regions, *asked(shards, weights, whole, "top=2"))
    assert code == 1
    assert err.count("\n") == 1
    assert "holds regions made differently (top=3 then, 2 now); choose another folder with out=" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["top=0"], "top=0: expected a whole number from 1 to 1000"),
        (["rate=0"], "rate=0: expected frames a second"),
        (["part=3/2"], "part=3/2: expected i/n"),
        (["split=vall"], "split=vall: "),
        (["weights=COCO_V7"], "weights=COCO_V7: neither a file nor torchvision's weights; nearest: COCO_V1"),
        (["shards=/nowhere"], "shards=/nowhere: "),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    shards: Path, command: Any, tmp_path: Path, more: list[str], message: str
) -> None:
    code, _, err = command(regions, *asked(shards, Path("proposals.pt"), tmp_path / "out", *more))
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.full
def test_boxes_are_where_the_network_sees_them(weights: Path) -> None:
    """Fractions of the frame, whatever it is resized to: of a frame twice as large they are the same."""
    from nlnet.prediction.regions.proposals import ProposalNetwork

    network = ProposalNetwork(str(weights), top=5, short_side=64, frozen_eps=1e-5, device=torch.device("cpu"))
    frame = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3)).astype(np.uint8)
    small = network.regions(np.array([7]), frame)
    large = network.regions(np.array([7]), frame.repeat(2, 1).repeat(2, 2))
    assert small.frames.tolist() == [7]
    assert len(small.boxes) == len(large.boxes) > 0
    np.testing.assert_allclose(small.boxes[0], large.boxes[0], atol=0.1)
