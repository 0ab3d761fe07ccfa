"""The figures of a GPU in one call: all of its parts run on a CPU, small."""

import json
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "on_gpu.sh"
PARTS = ("attention", "ops", "block", "step_8x8", "models", "detection", "decoding")


def test_what_is_no_part_or_option_is_named() -> None:
    for word, said in {
        "speed": "speed: no such part; attention ops",
        "--small": "--small: there is no such option",
    }.items():
        done = subprocess.run([SCRIPT, word], capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr


@pytest.mark.full
def test_every_part_runs_and_is_in_the_table(tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, "--tiny", "--out", tmp_path], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [*PARTS, "written"]
    files = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    forms = files["gpu_attention"]["cases"][0]["forms"]
    assert {"triton", "sdpa flash", "sdpa efficient", "flex", "materialized"} <= set(forms)
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name}" in page for name in files)
    assert "| cases / 16, 40, 24, float32 / times_best_sdpa |" in page
