"""Two ranks, step by step: a sharded network against a wrapped one, and its shards read whole."""

import json
import re
import shutil

import pytest
import torch

from helpers.processes import run_ranks
from helpers.sharded_steps import STEPS, take_steps
from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.shards import KEY, assembled
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    assert run_ranks(take_steps, 2, str(folder)) == [0, 0]
    return folder


def tensors(node, path=()):
    if isinstance(node, dict):
        return {key: value for name, inner in node.items() for key, value in tensors(inner, (*path, name)).items()}
    if isinstance(node, list):
        return tensors(dict(enumerate(node)), path)
    return {path: node} if isinstance(node, torch.Tensor) else {}


def test_losses_weights_statistics_and_optimizer_are_those_of_ddp(written):
    """With clipping by a norm that is summed over both ranks."""
    losses = json.loads((written / "losses.json").read_text())
    assert losses["sharded"] == pytest.approx(losses["wrapped"], rel=1e-6)
    assert len(losses["sharded"]) == STEPS
    whole, plain = tensors(read_file(written / "sharded.ckpt")), tensors(torch.load(written / "wrapped.pt"))
    assert whole.keys() == plain.keys()
    for path, value in plain.items():
        tolerance = max(1e-4 * float(value.abs().max()), 1e-7)  # a key of no effect has a gradient of rounding errors
        torch.testing.assert_close(whole[path], value, rtol=0, atol=tolerance, msg=str(path))


def test_each_rank_has_written_its_part(written):
    content = torch.load(written / "sharded.ckpt", weights_only=True)
    assert content["state_dict"]["res3.0.conv1.weight"] is None
    assert content["state_dict"]["stem.bn.running_mean"] is not None
    sizes = [(written / content[KEY]["folder"] / name).stat().st_size for name in content[KEY]["files"]]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes)


def test_every_changed_byte_of_a_shard_is_noticed(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    file = tmp_path / "copy" / "sharded.ckpt"
    content = torch.load(file, weights_only=True)
    folder = file.with_name(content[KEY]["folder"])
    shard = folder / "__1_0.distcp"
    whole = shard.read_bytes()
    for at in range(0, len(whole), len(whole) // 5):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"its shard .*__1_0.distcp is damaged since it was written"):
            read_file(file)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=rf"is not there .*copy the folder {re.escape(folder.name)} beside"):
        read_file(file)


def test_a_table_of_somebody_elses_reads_nothing_else(written):
    file = written / "sharded.ckpt"
    content = torch.load(file, weights_only=True)
    table = content[KEY]
    wrong_rows, too_long = table["chunks"].clone(), table["chunks"].clone()
    wrong_rows[0, 5] += 1
    too_long[0, 3] = 1 << 40
    for changed, message in (
        ({"folder": "../../etc"}, "does not say where its shards are"),
        ({"files": {"../x": ""}}, "does not say where its shards are"),
        ({"chunks": [1]}, "does not say where its shards are"),
        ({"chunks": wrong_rows}, "are not those of this checkpoint: rows are missing"),
        ({"chunks": too_long}, "are not those of this checkpoint: a piece is longer than its file"),
        ({"tensors": [(["state_dict", "no.such"], "float32", [1]), *table["tensors"][1:]]}, "are not those of this"),
    ):
        with pytest.raises(UserError, match=message):
            assembled({**content, KEY: {**table, **changed}}, file)
