"""Every field of a run's folder, a weight file and a manifest with hostile values, through every command that reads it.

Nothing is executed, written elsewhere, asked for or printed that should not be; what is refused is refused in one line;
memory and time are bounded.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.hostile_doors import PER_FIELD, make_honest

TESTS = Path(__file__).resolve().parents[1]
MOST_BYTES, MOST_SECONDS = 10**9, 20.0

DOORS = {
    "checkpoint": ("resume", "resume run", "eval", "predict", "start", "load"),
    "weights": ("eval weights", "predict weights", "load"),
    "config": ("eval", "resume run"),
    "summary": ("resume run", "eval"),
    "manifest": ("train", "eval", "verify", "load"),
}
QUICK, MANY, EVERY = 1, 40, 0
"""How many drawn values a door; `load` is quick enough for every field."""


def cases() -> list[object]:
    quick = [(kind, doors, QUICK) for kind, doors in DOORS.items()]
    pairs = [(kind, (door,), EVERY if door == "load" else MANY) for kind, doors in DOORS.items() for door in doors]
    return [*quick, *(pytest.param(*case, marks=pytest.mark.full) for case in pairs)]


@pytest.fixture(scope="module")
def honest(charades_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_honest(charades_shards, tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize(("kind", "doors", "count"), cases())
def test_nothing_is_done_that_a_file_asks_for(kind: str, doors: tuple[str, ...], count: int, honest: Path) -> None:
    program = [
        sys.executable,
        str(TESTS / "helpers" / "hostile_doors.py"),
        kind,
        ",".join(doors),
        str(honest),
        str(count),
        "7",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    done = subprocess.run(program, capture_output=True, text=True, timeout=3000, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == count * len(doors) or (not count and len(rows) > 5 * PER_FIELD)
    for door, way, value, code, said, seconds, peak, happened in rows:
        case = f"{kind}, {door}: {way}={value}\n{said}"
        assert not happened, (happened, case)
        assert code in (0, 1), case
        assert "Traceback" not in said, case
        assert sum(line.startswith("error: ") for line in said.splitlines()) == code, case
        assert "\x1b" not in said, case
        assert seconds < MOST_SECONDS, (seconds, case)
        assert peak < MOST_BYTES, (peak, case)
