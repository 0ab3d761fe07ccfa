"""The benchmark of a training step goes through all of its parts on a small network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.full
def test_variants_step_and_train_as_float32_does(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "training_step.py"), "--tiny", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert {"32", "bf16-mixed+compile+channels_last+checkpointing"} <= set(found["tiny"])
    assert all(figures["clips/s"] > 0 and figures["peak GiB"] > 0 for figures in found["tiny"].values())
    assert found["tiny"]["32+checkpointing"]["peak GiB"] < found["tiny"]["32"]["peak GiB"]
    apart = found["losses"]["mean difference"]
    assert max(value for name, value in apart.items() if name.startswith("32")) < 1e-3
    assert max(apart.values()) < 0.1
    assert set(found["one rank"]) == {"one process", "ddp", "fsdp"}
