"""Real processes that need not import everything first: children of a server that has done so."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).resolve().parents[1])
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["nlnet.runs.train", "torch._dynamo", "matplotlib.backends.backend_agg"])


def run_process(target: Callable[..., Any], *arguments: Any, timeout: float = 120) -> int:
    """Run `target` in a process of its own and return its exit code, negative for the signal that killed it."""
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"{target.__name__}{arguments} was still running after {timeout} s")
    assert process.exitcode is not None
    return process.exitcode


def run_ranks(target: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 120) -> list[int]:
    """Run `target(rank, world_size, port, *arguments)` in one process a rank and return their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=target, args=(r, world_size, port, *arguments)) for r in range(world_size)]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + timeout
    for process in ranks:
        process.join(max(0.1, deadline - time.monotonic()))
    stuck = [process for process in ranks if process.is_alive()]
    for process in stuck:
        process.kill()
        process.join()
    if stuck:
        raise TimeoutError(f"{len(stuck)} of {world_size} ranks were still running after {timeout} s")
    return [process.exitcode or 0 for process in ranks]


def train_rank(rank: int, world_size: int, port: int, overrides: Sequence[str], log: str) -> None:
    """One rank of a training, started as a scheduler starts it."""
    become(rank, world_size, port)
    train_command(overrides, f"{log}.{rank}")


def eval_rank(rank: int, world_size: int, port: int, overrides: Sequence[str]) -> None:
    """One rank of an evaluation, likewise."""
    import torch

    torch.set_num_threads(1)
    become(rank, world_size, port)
    os.environ.pop("NLNET_RUN_DIR", None)
    from nlnet.config.run_config import load_run_config
    from nlnet.runs.evaluate import evaluate

    evaluate(load_run_config(overrides))


def become(rank: int, world_size: int, port: int) -> None:
    """Have the environment of a rank that a launcher has started."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }


def train_command(overrides: Sequence[str], log: str | None = None) -> None:
    """What `python src/train.py OVERRIDES` does, in this process."""
    import torch

    torch.set_num_threads(1)
    os.environ.pop("NLNET_RUN_DIR", None)  # of a run that a test has made in its own process
    sys.path.insert(0, TESTS)
    sys.argv = ["train.py", *overrides]
    if log:
        sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115 - until the process ends
    from nlnet.cli.train import main

    main()
