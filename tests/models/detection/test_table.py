"""The table of detectors in `benchmarks/results` is what the code counts, and the training benchmark runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
ROWS = {
    row["experiment"]: row for row in json.loads((BENCHMARKS / "results" / "detection_table.json").read_text())["rows"]
}
QUICK = ["table5_r50_baseline", "table6_head_backbone"]


def module():
    spec = importlib.util.spec_from_file_location("detection_table", BENCHMARKS / "detection_table.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize(
    "experiment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in ROWS]
)
def test_the_table_is_what_is_counted(experiment):
    parameters, gmacs = module().count(experiment)
    assert (ROWS[experiment]["parameters"], ROWS[experiment]["gmacs"]) == (round(parameters, 3), round(gmacs, 3))


def test_one_block_costs_less_than_five_percent_in_every_row():
    more = [row["more_gmacs"] for name, row in ROWS.items() if name.startswith("table5") and name.endswith("_nl")]
    assert len(more) == 3
    assert all(0 < value < 5 for value in more)


@pytest.mark.full
def test_the_training_benchmark_runs_without_a_gpu():
    command = [sys.executable, str(BENCHMARKS / "detection_training.py"), "--tiny"]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert "| ours, one non-local block |" in ran.stdout
