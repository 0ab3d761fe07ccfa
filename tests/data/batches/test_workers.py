"""Loader processes that are killed, stopped, silent, or without shared memory: one line, and nothing hangs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.counting import Numbers, write_numbers
from nlnet.data.batches.base import RankSlice
from nlnet.data.batches.loader import BatchLoader
from nlnet.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


class Trouble(Numbers):
    """Every batch from the third of the second epoch on does as `kind` says."""

    kind = ""

    def __getitem__(self, position):
        if position >= (1, 2) and self.kind == "exit":
            os._exit(3)
        if position >= (1, 2) and self.kind == "refuse":
            raise UserError("data.shards: no such thing")
        if position >= (1, 2) and self.kind == "unsendable":
            return super().__getitem__(position) | {"reading": {"x": lambda: None}}
        if position >= (1, 2) and self.kind:
            os.kill(os.getpid(), getattr(signal, self.kind))
        return super().__getitem__(position)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    return folder, write_numbers(folder)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("SIGSTOP", r"worker 0 \(pid \d+\) has given nothing for 5 s .* while batch \d was waited for: it is stopped"),
        ("SIGKILL", r"loader worker 0 \(pid \d+\) was killed \(SIGKILL\), as a system without free memory"),
        ("SIGBUS", r"loader worker 0 \(pid \d+\) found no shared memory to write to: /dev/shm has "),
        ("exit", r"loader worker 0 \(pid \d+\) ended with exit code 3 before"),
        ("refuse", r"^data.shards: no such thing$"),
        ("unsendable", r"a loader worker could not hand over batch \d: .*lambda"),
    ],
)
def test_a_worker_in_trouble_ends_the_run_in_words(numbers, kind, words):
    folder, manifest = numbers
    batches = Trouble(manifest, str(folder), RankSlice(4))
    batches.kind = kind
    loader = BatchLoader(batches, 1, worker_timeout_s=60)
    assert len(list(loader)) == 10
    loader._watched.timeout_s = 5  # now that the worker has started
    began = time.monotonic()
    try:
        passing = iter(loader)
        with pytest.raises(UserError, match=words) as raised:
            list(passing)
        assert "\n" not in str(raised.value)
    finally:
        loader.close()
    assert time.monotonic() - began < 30


def test_a_worker_that_is_stopped_for_a_while_is_waited_for(numbers):
    folder, manifest = numbers
    loader = BatchLoader(Numbers(manifest, str(folder), RankSlice(4)), 1, worker_timeout_s=60)
    for epoch in range(2):  # the second pass uses the same worker
        passing = iter(loader)
        first = next(passing)["numbers"].tolist()
        (worker,) = loader._loader._iterator._workers
        os.kill(worker.pid, signal.SIGSTOP)
        with subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {worker.pid}"]):
            rest = [number for batch in passing for number in batch["numbers"].tolist()]
        assert len({*first, *rest}) == len(first) + len(rest) == 40, epoch
    loader.close()


@pytest.mark.full
def test_a_training_with_shared_memory_of_64_kb_says_so(charades_shards, tmp_path):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting a small /dev/shm needs root and unshare")
    words = [
        "experiment=charades_nl", "size=demo", f"data.shards={charades_shards}", f"paths.run_dir={tmp_path}/run",
        "data.batch_size=8", "data.num_workers=2", "trainer.max_epochs=1", "callbacks.progress=null",
    ]  # fmt: skip
    train = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} {ROOT}/src/train.py {' '.join(words)}"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    ended = subprocess.run(["unshare", "-m", "sh", "-c", train], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "/dev/shm has " in last
    assert "Traceback" not in ended.stderr
