"""The built-in classes of pairs, which name relations alone: learnt by a network that knows the glyphs already."""

from pathlib import Path

import pytest

from nlnet.config.resolve import load
from nlnet.runs.train import train

DEMO = ["size=demo", "callbacks.progress=null"]


@pytest.mark.full
@pytest.mark.parametrize(("blocks", "least", "most"), [(2, 0.95, 1.0), (0, 0.2, 0.35)])
def test_pairs_are_learnt_from_weights_that_know_the_glyphs(
    tmp_path: Path, blocks: int, least: float, most: float
) -> None:
    """From scratch there is nothing to begin with: a pair's class says nothing of either glyph."""
    network = [*DEMO, f"model.nonlocal_blocks={blocks}"]
    train(load(["experiment=charades_nl", *network, f"paths.run_dir={tmp_path / 'glyphs'}"]))
    best = tmp_path / "glyphs" / "checkpoints" / "best.ckpt"
    pairs = ["experiment=kinetics_i3d_nl", *network, f"init.checkpoint={best}", f"paths.run_dir={tmp_path / 'pairs'}"]
    metrics, _ = train(load(pairs))
    assert least <= metrics["val/top1"] <= most
