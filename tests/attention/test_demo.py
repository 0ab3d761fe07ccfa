"""What the demo's network has learnt, by the explorer's own numbers: a glyph attends to the matching one."""

import numpy as np
import pytest
import torch

from nlnet import from_pretrained
from nlnet.attention import explain
from nlnet.attention.places import key_places
from nlnet.config.resolve import load
from nlnet.data.batches.clip_transforms import prepare_clips
from nlnet.data.synthetic.clips import render
from nlnet.runs.train import train

SAME_FILL, SAME_SHAPE = 5, 6


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    words = ["experiment=charades_nl", "callbacks.progress=null", f"paths.log_dir={tmp_path_factory.mktemp('logs')}"]
    return from_pretrained(train(load(words))[1]["run_dir"])


def seen(frames: np.ndarray, strong: int, weak: int) -> np.ndarray:
    """(T, H, W) where a glyph is, by its color: the background and the bar are gray."""
    rgb = frames.astype(int)
    return rgb[..., strong] - rgb[..., weak] > 90


@pytest.mark.full
def test_the_strongest_link_falls_on_the_matching_glyph_and_the_decision_hangs_on_it(net):
    on_match, beside, decided, without_top, without_random = [], [], [], [], []
    index = 0
    while len(on_match) < 100:
        index += 1
        frames, labels = render("test", index)
        holds = {label for label, _, _ in labels}
        if not holds & {SAME_FILL, SAME_SHAPE}:
            continue
        inputs = prepare_clips([torch.from_numpy(frames)], torch.zeros(1, dtype=torch.bool), 32)
        found = explain(net, inputs, kind="multilabel")
        block = found.blocks[-1]
        warm, cool = seen(frames, 0, 2), seen(frames, 2, 0)
        of_glyph = warm.reshape(8, 8, 4, 8, 4).sum((2, 4)).ravel()  # in each of the 8 x 8 x 8 positions
        match = cool.reshape(8, 4, 8, 4, 8).any((2, 4)).ravel()  # in each of the 8 x 4 x 4 keys
        number = block.nearest(*np.unravel_index(int(of_glyph.argmax()), block.size))
        places = key_places(block, number)
        on_match.append(match[block.links[number, 0]])
        own = (block.positions[number] // 64 + 0.5) / 8
        nearby = np.abs(places[:, 0] - own) < 1 / 16  # what a local operation of its frame could reach
        beside.append(match[nearby].mean())
        for relation in (SAME_FILL, SAME_SHAPE):
            test = found.deletion
            decided.append((test.whole[relation] > 0) == (relation in holds))
            without_top.append((test.without_top[relation] > 0) == (relation in holds))
            without_random.append(((test.without_random[:, relation] > 0) == (relation in holds)).mean())
    assert np.mean(on_match) >= 0.9
    assert np.mean(beside) <= 0.1
    assert np.mean(decided) >= 0.95
    assert np.mean(without_top) <= 0.65  # a coin gives 0.5
    assert np.mean(without_random) >= 0.95
    print(f"on the match {np.mean(on_match):.2f}, nearby {np.mean(beside):.3f}, right {np.mean(decided):.3f},"
          f" without top {np.mean(without_top):.3f}, without random {np.mean(without_random):.3f}")  # fmt: skip
