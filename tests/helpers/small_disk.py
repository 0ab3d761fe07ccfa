"""Trainings whose run folder lies on a disk of a few hundred KB; a program for a mount namespace of its own.

    unshare --mount python small_disk.py FOLDER REPORT SIZES OVERRIDES...

For each of SIZES (of tmpfs, with commas) a new disk is mounted on FOLDER, over the one before, and a training started
there; "ro" is a large disk that becomes read-only before the third batch. Afterwards the disk is made large and
writable and the training is continued, where it was not large from the beginning. REPORT gets, as JSON, what a user
would see each time.
"""

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

from nlnet.saving import write_json
from nlnet.sealing import is_whole

LARGE = "64m"


class RemountReadOnly(Callback):
    """Makes the disk `folder` read-only before the third batch."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            mount(self.folder, LARGE, again=True, read_only=True)


def _remounting(folder: Path) -> list[str]:
    target = "+callbacks.remount._target_=helpers.small_disk.RemountReadOnly"
    return ["extras.allow_targets=[helpers]", target, f"+callbacks.remount.folder={folder}"]


def mount(folder: Path, size: str, *, again: bool = False, read_only: bool = False) -> None:
    options = f"size={size}" + (",remount" if again else "") + (",ro" if read_only else ",rw")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def trained(overrides: Sequence[str]) -> tuple[int, list[str]]:
    """Exit code and standard error of a training in this process."""
    from nlnet.cli.errors import run
    from nlnet.config.resolve import load
    from nlnet.runs.train import train

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            run(lambda: train(load(overrides)))
            code = 0
        except SystemExit as stop:
            code = int(str(stop.code))
    return code, errors.getvalue().splitlines()


def state_of(path: Path) -> str:
    """A digest of the network's weights in a checkpoint."""
    import torch

    state = torch.load(path, weights_only=True)["state_dict"]
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


def look(folder: Path) -> dict[str, Any]:
    """The checkpoints there by name and whether each is whole, what is half-written, and the status of the run."""
    record = folder / "summary.json"
    return {
        "whole": {path.name: is_whole(path) for path in sorted(folder.rglob("*.ckpt"))},
        "left": [str(path.relative_to(folder)) for path in folder.rglob(".*")],
        "status": json.loads(record.read_text())["status"] if record.is_file() else None,
    }


def main() -> None:
    folder, report, sizes, *overrides = sys.argv[1:]
    place, run = Path(folder), Path(folder) / "run"
    words = [*overrides, f"paths.run_dir={run}"]
    found: dict[str, Any] = {}
    for size in sizes.split(","):
        mount(place, LARGE if size == "ro" else size)
        code, errors = trained([*words, *(_remounting(place) if size == "ro" else [])])
        found[size] = {"code": code, "errors": errors, **look(run)}
        mount(place, LARGE, again=True)
        if size == LARGE:
            found[size]["state"] = state_of(run / "checkpoints" / "last.ckpt")
            continue
        goes_on = any(name.startswith("last") for name in found[size]["whole"])
        code, errors = trained([*words, *(["ckpt_path=last"] if goes_on else [])])
        found[size]["after"] = {"code": code, "errors": errors, **look(run)}
        found[size]["after"]["state"] = state_of(run / "checkpoints" / "last.ckpt")
    write_json(report, found)


if __name__ == "__main__":
    main()
