"""`nlnet.explain` on networks of ours and of others, and the page that it makes."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest
import torch
from torch import nn

import nlnet
from nlnet.attention import explain
from nlnet.attention.pictures import figure, heat_video, sharpest
from nlnet.data.batches.clip_transforms import prepare_clips
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.video import probe
from nlnet.errors import UserError

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = nlnet.build_model("i3d_demo", nonlocal_blocks=2, num_classes=5)
    for block in (module for module in made.modules() if isinstance(module, nlnet.NonLocalBlock)):
        nn.init.normal_(block.theta.weight)
        nn.init.normal_(block.norm.weight)
    return made


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)


def embedded(html: str) -> dict:
    """The data in a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


def test_the_page_holds_the_rows(net, clip):
    found = explain(net, clip, classes=list("abcde"))
    data = embedded(found.html)
    inputs = prepare_clips([torch.from_numpy(clip)], torch.zeros(1, dtype=torch.bool), 32)
    seen = {}
    block = net.get_submodule("res3.0_nonlocal")
    hook = block.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    with torch.no_grad():
        scores = net.eval()(inputs).softmax(1)[0]
    hook.remove()
    of_page = data["blocks"][0]
    assert (of_page["name"], of_page["size"], of_page["keys"]) == ("res3.0_nonlocal", [8, 8, 8], [8, 4, 4])
    rows = array(of_page["rows"], "u1").reshape(512, 128).astype(np.float64)
    low, high = (array(of_page[name], "<f4")[:, None] for name in ("low", "high"))
    exact = block.attention(seen["x"], range(512))[0].detach().numpy()
    assert np.abs(low + (high - low) * rows / 255 - exact).max() <= 0.5001 * (high - low).max() / 255
    links = array(of_page["links"], "<i4").reshape(512, -1)
    assert (exact.argmax(1) == links[:, 0]).mean() > 0.99  # but for ties
    assert found.numbers["predictions"][0]["class"] == "abcde"[int(scores.argmax())]
    assert found.scores[0][1] == pytest.approx(float(scores.max()), rel=1e-5)


def test_the_network_stays_as_it_was(net, clip):
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    explain(net, clip)
    assert net.training
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_floats_and_bytes_are_the_same_clip(net, clip):
    inputs = prepare_clips([torch.from_numpy(clip)], torch.zeros(1, dtype=torch.bool), 32)
    first, second, third = (explain(net, given, deletion=False) for given in (clip, inputs, inputs[0]))
    assert np.array_equal(first.frames, second.frames)
    for a, b, c in zip(first.blocks, second.blocks, third.blocks, strict=True):
        assert np.array_equal(a.rows, b.rows)
        assert np.array_equal(a.values, c.values)


def test_somebody_elses_network_with_inserted_blocks(clip):
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Conv3d(3, 8, 3, stride=(1, 4, 4)), nn.ReLU())
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.layer(x).mean((2, 3, 4)))

    made = Plain()
    nlnet.insert_nonlocal(made, {"layer": "after"}, example_inputs=torch.zeros(1, 3, 8, 32, 32))
    found = explain(made, clip)
    assert len(found.blocks) == 1
    assert found.blocks[0].size[0] == 6
    assert found._repr_html_().startswith('<iframe srcdoc="')


def test_hostile_names_stay_text(net, clip):
    page = explain(net, clip, title=EVIL, classes=[EVIL + str(k) for k in range(5)]).html
    assert page.count("<script") == 2  # the data, and the program
    assert "onerror=alert(2)>" not in page.replace("&gt;", "")
    assert "\x1b" not in page
    program = re.search(r"<script>(.*)</script>\n</body>", page, re.DOTALL)[1]
    allowed = re.search(r"script-src 'sha256-([^']+)'", page)[1]
    assert base64.b64encode(hashlib.sha256(program.encode()).digest()).decode() == allowed
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_the_pictures(net, clip, tmp_path):
    from PIL import Image

    found = explain(net, clip, deletion=False)
    block = found.blocks[0]
    (tmp_path / "a.png").write_bytes(figure(found.frames, block, sharpest(block)))
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    assert (np.abs(drawn - (213, 94, 0)).max(2) < 3).sum() > 200  # the box and the arrows
    video = heat_video(found.frames, block, 0, 8.0)
    assert probe(video).frames == 8
    assert not np.array_equal(
        decode_clip(video, [0])[0], decode_clip(heat_video(found.frames, block, 300, 8.0), [0])[0]
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": nn.Conv3d(3, 3, 1)}, "Conv3d has no non-local block"),
        (
            {"blocks": ["res3.7_nonlocal"]},
            "blocks=res3.7_nonlocal: the network has no such non-local block; nearest: res3",
        ),
        ({"clip": np.zeros((8, 32, 40, 3), np.uint8)}, "the clip is uint8 of (8, 32, 40, 3)"),
        ({"clip": np.zeros((8, 32, 32), np.float32)}, "the clip is (8, 32, 32); give"),
        ({"clip": torch.zeros(1, 3, 32, 32)}, "the network does not take a clip of (1, 3, 32, 32)"),
    ],
)
def test_what_cannot_be_explained_is_told(net, clip, change, words):
    given = {"model": net, "clip": clip} | change
    with pytest.raises(UserError) as told:
        explain(given.pop("model"), given.pop("clip"), **given)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
