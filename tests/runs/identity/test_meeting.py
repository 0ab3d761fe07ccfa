"""What keeps ranks from meeting is one line on rank 0, and all of them end within a minute."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.processes import context, run_ranks, train_rank
from nlnet.runs.identity.meeting import check_meeting_point

ROOT = Path(__file__).resolve().parents[3]


def settings(shards, folder, *more):
    return [
        "experiment=charades_nl", "size=demo", "trainer=ddp_sim", f"data.shards={shards}", "data.batch_size=8",
        "data.eval_batch_size=20", "data.num_workers=0", "trainer.max_epochs=1", "callbacks.progress=null",
        f"paths.log_dir={folder}/logs", *more,
    ]  # fmt: skip


def said(folder, ranks=2):
    """The error lines of every rank."""
    texts = [Path(f"{folder}/log.{rank}").read_text() for rank in range(ranks)]
    assert not any("Traceback" in text for text in texts), texts
    return [[line for line in text.splitlines() if line.startswith("error: ")] for text in texts]


@contextmanager
def listening():
    """A program of somebody else on a port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def first_error(logs):
    """When one of them first says what is wrong: a busy machine may take a minute to start."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        if any("error: " in log.read_text() for log in logs if log.exists()):
            return time.monotonic()
        time.sleep(0.2)
    raise TimeoutError("no error")


def start_at(port, shards, folder):
    """The exit codes of two ranks that are to meet at this port, and the seconds from the first error to the end."""
    words = settings(shards, folder)
    ranks = [context.Process(target=train_rank, args=(r, 2, port, words, f"{folder}/log")) for r in range(2)]
    for process in ranks:
        process.start()
    first = first_error([Path(f"{folder}/log.{rank}") for rank in (0, 1)])
    for process in ranks:
        process.join(60)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return codes, time.monotonic() - first


@pytest.mark.full
def test_a_port_that_another_program_has(charades_shards, tmp_path):
    with listening() as port:
        codes, seconds = start_at(port, charades_shards, tmp_path)
    assert codes == [1, 1]
    assert seconds < 60
    (first,), (second,) = said(tmp_path)
    assert first.startswith(f"error: MASTER_PORT={port}: another program of this machine listens there")
    assert "is another program, or another job, and not rank 0 of this one" in second
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.full
def test_a_port_where_another_job_has_met(charades_shards, tmp_path):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.add("nlnet/rank 1", 1)
    codes, seconds = start_at(store.port, charades_shards, tmp_path)
    assert codes == [1, 1]
    assert seconds < 60
    (first,), (second,) = said(tmp_path)
    assert first.startswith(f"error: MASTER_PORT={store.port}: another program of this machine listens there")
    assert "is another program, or another job, and not rank 0 of this one" in second


@pytest.mark.parametrize(
    ("ranks", "more", "words"),
    [
        (3, ["trainer.devices=3"], "data.batch_size=8 does not divide over 3 ranks; use 6 or 9"),
        pytest.param(2, ["trainer.strategy=deepspeed"], "deepspeed", marks=pytest.mark.full),
        pytest.param(2, ["trainer.strategy=nowhere"], "nowhere", marks=pytest.mark.full),
    ],
)
def test_what_no_rank_can_do_is_one_line_on_each(charades_shards, tmp_path, ranks, more, words):
    codes = run_ranks(train_rank, ranks, settings(charades_shards, tmp_path, *more), f"{tmp_path}/log", timeout=100)
    assert codes == [1] * ranks
    lines = said(tmp_path, ranks)
    assert all(len(of_rank) == 1 and words in of_rank[0] for of_rank in lines), lines
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.full
@pytest.mark.parametrize("own", ["seed=1", "optim.optimizer.lr=0.5"])
def test_two_agents_of_torchrun_with_other_words(charades_shards, tmp_path, own):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = []
    for node in (0, 1):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
            "--rdzv-id=apart", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-conf=is_host={int(node == 0)}",
            str(ROOT / "src" / "train.py"), *settings(charades_shards, tmp_path, "trainer.devices=1"),
            "trainer.num_nodes=2", *([own] if node else []),
        ]  # fmt: skip
        with open(tmp_path / f"log.{node}", "w") as output:
            agents.append(
                subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
            )
    first_error([tmp_path / "log.0", tmp_path / "log.1"])
    assert [agent.wait(60) for agent in agents] == [1, 1]
    texts = [(tmp_path / f"log.{node}").read_text() for node in (0, 1)]
    for text in texts:
        (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: the ranks do not agree: ")
        assert f"{own.partition('=')[0]} is " in line


def test_a_restart_that_would_meet_the_ranks_before_it_is_told(monkeypatch, capsys):
    trainer = SimpleNamespace(strategy=SimpleNamespace(cluster_environment=object()))
    for most, said in (("0", ""), ("3", "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")):
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", most)
        assert check_meeting_point(trainer, 1.0) is None
        out = capsys.readouterr().out
        assert said in out
        assert bool(said) == bool(out)
