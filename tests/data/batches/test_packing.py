"""Batches from workers in one block of shared memory: the same values, one open file each, and room for the files."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.coco import write_coco
from helpers.counting import Numbers, write_numbers
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.loader import BatchLoader
from nlnet.data.batches.packing import check_open_files, pack, unpack
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.errors import UserError

BATCH = {
    "images": [torch.arange(3 * 70 * 90, dtype=torch.uint8).view(3, 70, 90), torch.zeros(3, 1, 1, dtype=torch.uint8)],
    "targets": [{"boxes": torch.rand(0, 4), "labels": torch.tensor([3]), "id": -1, "size": (48, 64)}],
    "half": torch.linspace(-9, 9, 7).to(torch.bfloat16),
    "turned": torch.arange(12.0, dtype=torch.float64).view(3, 4).T,
    "flags": torch.tensor([True, False]),
    "one": torch.tensor(5),
    "large": torch.rand(300, 300),
    "failures": [("a", "missing"), ("b", "undecodable")],
    "reading": {"bytes": 12, "seconds": 0.0},
    "none": None,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_batch_comes_back_as_it_was():
    packed = pack(BATCH)
    assert packed.block.is_shared()
    back = unpack(packed)
    assert same(back, BATCH)
    block = packed.block.untyped_storage().data_ptr()
    assert back["large"].untyped_storage().data_ptr() == block  # not copied again
    assert back["targets"][0]["labels"].untyped_storage().data_ptr() != block  # may be kept while the block goes
    assert same(unpack(pack({"nothing": []})), {"nothing": []})


def test_a_batch_of_many_tensors_is_one_open_file(tmp_path):
    """With all batches of an epoch kept, as nobody should."""
    folder = write_coco(tmp_path)
    data = DetectionDataModule(
        str(folder), batch_size=3, skip_empty=False, num_workers=1, short_sides=[48], max_size=120
    )
    loader = data.train_dataloader()
    try:
        first = next(iter(loader))
        before = len(os.listdir("/proc/self/fd"))
        kept = [first, *loader, *loader, *loader]
        assert sum(len(batch["targets"]) * 5 for batch in kept) > 60  # tensors
        assert len(os.listdir("/proc/self/fd")) - before <= len(kept)
    finally:
        data.close()


class Many(Numbers):
    """Batches of 300 tensors."""

    def collate(self, indices, items):
        return super().collate(indices, items) | {"many": [torch.full((9,), k) for k in range(300)]}


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ((84, 84), None),
        ((1024, 4096), None),
        ((60, 4096), (84, 4096)),
        ((60, resource.RLIM_INFINITY), (84, resource.RLIM_INFINITY)),
        ((60, 60), "data.num_workers=1 needs 84 open files and 60 are allowed; raise the limit (ulimit -n 84), or set"
                   " data.num_workers=0"),
    ],
)  # fmt: skip
def test_the_limit_of_open_files_is_raised_or_named(monkeypatch, limits, outcome):
    changed = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: changed.append(new))
    if isinstance(outcome, str):
        with pytest.raises(UserError) as raised:
            check_open_files(1, 8)
        assert str(raised.value) == outcome
    else:
        check_open_files(1, 8)
        assert changed == ([outcome] if outcome else [])


_SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (84, 84))
from test_packing import *
if __name__ == "__main__":
    loader = BatchLoader(Many(write_numbers(Path(sys.argv[1])), sys.argv[1], RankSlice(4)), 1)
    assert all(len(batch["many"]) == 300 and int(batch["many"][299][8]) == 299 for batch in loader)
    loader.close()
"""


@pytest.mark.full
def test_so_many_files_are_enough(tmp_path):
    run_script(tmp_path, _SCRIPT)


def run_script(tmp_path, content):
    script = tmp_path / "script.py"
    script.write_text(content)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr


_EARLY = """
import os, resource, sys
from nlnet.data.batches.server import start_server
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (70, 4096))
    start_server()
    os.environ["NLNET_TOLD_LATER"] = "yes"
    assert "torch" not in sys.modules  # which the server imports at the same time
from test_packing import *
if __name__ == "__main__":
    loader = BatchLoader(Surroundings(write_numbers(Path(sys.argv[1])), sys.argv[1], RankSlice(4)), 1)
    found = next(iter(loader))
    assert found["limits"] == list(resource.getrlimit(resource.RLIMIT_NOFILE)) and found["limits"][0] > 70, found
    assert found["told"] == "yes"
    loader.close()
"""


class Surroundings(Numbers):
    """Every batch says what its process may open, and a variable."""

    def __getitem__(self, position):
        limits = list(resource.getrlimit(resource.RLIMIT_NOFILE))
        return super().__getitem__(position) | {"limits": limits, "told": os.environ.get("NLNET_TOLD_LATER")}


@pytest.mark.full
def test_workers_of_a_server_that_was_started_early_have_the_limits_and_variables_of_now(tmp_path):
    run_script(tmp_path, _EARLY)


def test_numbers_are_the_same_with_and_without_workers(tmp_path):
    batches = Many(write_numbers(tmp_path), str(tmp_path), RankSlice(4))
    loader = BatchLoader(batches, 1)
    assert [batch["numbers"].tolist() for batch in loader] == [batches[(0, t)]["numbers"].tolist() for t in range(10)]
    loader.close()
