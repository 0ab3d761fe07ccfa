"""Runs on disks that are full or read-only: one line, the earlier checkpoint whole, and the same weights in the end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import small_disk

QUICK = ["900k", "ro"]
SIZES = ["4k", "8k", "20k", "100k", "300k", "900k", "1500k", "2500k", "ro"]
CAUSES = {"ro": "Read-only file system"}


def runs_on(sizes: list[str], shards: Path, folder: Path, epochs: int) -> dict[str, Any]:
    """What `helpers.small_disk` reports. Skips where disks cannot be mounted."""
    unshare = shutil.which("unshare")
    probe = [unshare or "", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if not unshare or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk in a namespace of its own")
    words = ["experiment=charades_nl", "size=demo", f"data.shards={shards}", "data.batch_size=8", "data.num_workers=0"]
    words += ["data.eval_batch_size=8", f"trainer.max_epochs={epochs}", "extras.checkpoint_every_n_steps=1"]
    program = [sys.executable, small_disk.__file__, folder, folder.with_name("report"), ",".join(sizes), *words]
    sources = os.pathsep.join([str(Path(small_disk.__file__).parents[1]), *sys.path])
    ran = subprocess.run(
        [unshare, "--mount", *map(str, program), "callbacks.progress=null"],
        env=os.environ | {"PYTHONPATH": sources},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(folder.with_name("report").read_text())


@pytest.mark.full  # a disk of its own, and a training for each size
@pytest.mark.parametrize(("sizes", "epochs"), [(QUICK, 1), pytest.param(SIZES, 2, marks=pytest.mark.full)])
def test_a_disk_that_takes_no_more(charades_shards: Path, tmp_path: Path, sizes: list[str], epochs: int) -> None:
    (tmp_path / "disk").mkdir()
    found = runs_on([*sizes, small_disk.LARGE], charades_shards, tmp_path / "disk", epochs)
    whole = found.pop(small_disk.LARGE)
    assert (whole["code"], whole["status"], whole["errors"]) == (0, "finished", [])
    for size, report in found.items():
        (line,) = report["errors"]
        assert report["code"] == 1
        assert line.startswith(f"error: {tmp_path / 'disk' / 'run'}/"), line
        assert f": cannot be written: {CAUSES.get(size, 'No space left on device')}; " in line
        assert all(report["whole"].values()), (size, report)
        assert report["left"] == ([".lock"] if size == "ro" else [])
        # On a read-only disk nothing can be said; on the smallest there is no room for the record at all.
        assert report["status"] == {"ro": "running", "4k": None}.get(size, "failed")
        after = report["after"]
        assert (after["code"], after["status"], after["errors"], after["left"]) == (0, "finished", [], [])
        assert after["state"] == whole["state"], size
    for size in {"900k", "1500k", "2500k", "ro"} & found.keys():
        assert found[size]["whole"]["last.ckpt"]
