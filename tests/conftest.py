"""What all tests share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is loaded: its threads would spin while they wait, and starve each other on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A test never talks to a tracking server, and its processes share two cores.
os.environ.setdefault("WANDB_MODE", "offline")
SHARDS = ("CHARADES", "KINETICS", "COCO", "CITYSCAPES", "ADE20K", "VOC")
for variable in (*(f"{name}_SHARDS" for name in SHARDS), "SLURM_JOB_ID", "WANDB_SWEEP_ID", "WORLD_SIZE", "LOCAL_RANK"):
    os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos and images beside the checkout."""
    folder = ROOT.parent / "shared" / "media"
    if not folder.is_dir():
        pytest.skip(f"no real media in {folder}")
    return folder


@pytest.fixture(scope="session")
def charades_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny multi-label shards; do not change them."""
    from helpers.shards import write_tiny

    return write_tiny(tmp_path_factory.mktemp("charades"))


@pytest.fixture(scope="session")
def kinetics_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny multi-class shards; do not change them."""
    from helpers.shards import write_tiny

    return write_tiny(tmp_path_factory.mktemp("kinetics"), "kinetics")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """Call a command's `main` with arguments; returns (exit code, standard output, standard error)."""

    def call(main: Callable[[], None], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nlnet", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return code, out, err

    return call
