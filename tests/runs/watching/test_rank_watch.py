"""One of two ranks comes to harm: both end in time, with the first cause in one line and on record."""

import json
import signal
import time
from pathlib import Path

import pytest

from helpers.processes import run_ranks, train_rank
from helpers.stopping import stopper
from nlnet.runs.watching.watch import Note, of_the_others, stopped

LIMIT_S = 6
KILLED = "rank {} ended without a word: it was killed (SIGKILL)"
CASES = [
    # how, rank, where, exit code of that rank, the cause
    ("raise", 1, "start", 1, "rank 1 failed: ValueError: two of its wires are crossed"),
    ("kill", 1, "step", -signal.SIGKILL, KILLED.format(1)),
    ("refuse", 0, "start", 1, "rank 0 failed: clip.mp4: it cannot be read; repair it"),
    ("kill", 0, "start", -signal.SIGKILL, "rank 1 has had no answer from the machine of rank 0 for 6 s"),
    ("sleep", 1, "data", 1, "rank 1 stopped, and the others wait: for 6 s (extras.rank_timeout_s), rank 1 is done with "
     "training batch 1 and waits for the next, at stopping.py:"),
    ("sleep", 0, "start", 1, "rank 0 stopped, and the others wait: for 6 s"),
]  # fmt: skip
QUICK = ("raise", 1)


def train_two(shards, folder, *words):
    """The exit codes and the output of two ranks."""
    common = [
        "experiment=charades_nl", "size=demo", "trainer=ddp_sim", f"data.shards={shards}",
        f"paths.run_dir={folder}/run",
        "data.batch_size=8", "data.eval_batch_size=20", "data.num_workers=0", "trainer.max_epochs=2",
        "trainer.limit_val_batches=0", "callbacks.progress=null", f"extras.rank_timeout_s={LIMIT_S}",
    ]  # fmt: skip
    codes = run_ranks(train_rank, 2, [*common, *words], f"{folder}/log", timeout=90)
    return codes, [Path(f"{folder}/log.{rank}").read_text() for rank in (0, 1)]


@pytest.mark.parametrize(
    ("how", "rank", "where", "code", "cause"),
    [case if case[:2] == QUICK else pytest.param(*case, marks=pytest.mark.full) for case in CASES],
)
def test_both_ranks_end_with_the_first_cause(charades_shards, tmp_path, how, rank, where, code, cause):
    harmed = tmp_path / "harmed"
    words = [*stopper(how, 2, rank, where), f"+callbacks.stopper.once={harmed}"]
    codes, said = train_two(charades_shards, tmp_path, *words)
    assert time.time() - harmed.stat().st_mtime < 60
    assert codes[rank] == code, said
    assert codes[1 - rank] == 1, said
    (line,) = [line for line in said[1 - rank].splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {cause}"), said
    assert "Traceback" not in said[1 - rank]
    record = json.loads((tmp_path / "run" / "summary.json").read_text())
    if how != "kill" or rank == 1:  # its writer is gone with rank 0
        assert record["status"] == "failed"
        assert cause.partition(": ")[2] in record["reason"] or record["reason"].startswith(cause)


def test_who_holds_the_others_up():
    notes = [Note(9, 7, "works", "a.py:1", True), Note(9, 6, "reads", "b.py:2"), Note(9, 7, "works", "a.py:1", True)]
    assert stopped(notes, 900) == (
        "rank 1 stopped, and the others wait: for 900 s (extras.rank_timeout_s), rank 1 reads, at b.py:2"
    )
    apart = [note._replace(passes=7) for note in notes]
    assert stopped(apart, 900).startswith("rank 1 stopped, and the others wait")
    together = [note._replace(passes=7, waits=False) for note in notes]
    assert stopped(together, 900).startswith("no rank has gone on for 900 s (extras.rank_timeout_s): rank 0 works, at")
    done = [notes[0], notes[1]._replace(left=True), notes[2]]
    assert stopped(done, 900).startswith("ranks 0, 2 stopped")


def test_an_error_that_comes_from_the_others():
    assert of_the_others(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9"))
    assert not of_the_others(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not of_the_others(ValueError("connection reset"))
