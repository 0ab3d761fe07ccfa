"""Where the ranks meet: a port of rank 0's machine, which has to be rank 0's, and of this job alone."""

import errno
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from torch.distributed import DistError, DistNetworkError, TCPStore

from nlnet.distributed import print_once
from nlnet.errors import UserError

_ANSWER_S = 15.0  # for one who accepts a connection to say who it is
_POLL_S = 0.2


def check_meeting_point(trainer: pl.Trainer, timeout_s: float) -> Any:
    """Look at it before the ranks wait for each other there, which they might without end; what is returned holds it.

    Not under torchrun, whose agents have met already. Raises UserError where another program has the port of rank 0, or
    another job.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None:
        return None
    if _met_already():
        if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            print_once(
                "torchrun --max-restarts: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it; ranks that are started"
                " again may otherwise look for those before them, and fail again (docs/cluster.md)"
            )
        return None
    address, port = environment.main_address, environment.main_port
    if trainer.global_rank == 0:
        return _serve(address, port)
    _wait_for_port(address, port, timeout_s)
    return _join(address, port, trainer.global_rank)


def _met_already() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _serve(address: str, port: int) -> TCPStore:
    try:
        return TCPStore(address, port, is_master=True, wait_for_workers=False, multi_tenant=True)
    except DistNetworkError as error:
        if errno.errorcode[errno.EADDRINUSE] not in str(error):  # it says the name, and has no number
            raise UserError(f"MASTER_ADDR={address} MASTER_PORT={port}: rank 0 cannot listen there: {error}") from error
        raise UserError(
            f"MASTER_PORT={port}: another program of this machine listens there, so the ranks cannot meet; choose a"
            " free port, another one for every job on a machine"
        ) from None


def _wait_for_port(address: str, port: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"MASTER_ADDR={address} MASTER_PORT={port}: rank 0 was not there for {timeout_s:g} s"
                    f" (extras.rank_timeout_s): {error}"
                ) from None
        time.sleep(_POLL_S)


def _join(address: str, port: int, rank: int) -> TCPStore:
    """The store, from a thread: a client waits without end for a program that accepts it and is silent."""
    found: list[TCPStore] = []

    def ask() -> None:
        timeout = timedelta(seconds=_ANSWER_S / 2)
        with suppress(DistError):
            store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
            if store.add(f"nlnet/rank {rank}", 1) == 1:
                found.append(store)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    if not found:
        raise UserError(
            f"MASTER_ADDR={address} MASTER_PORT={port}: what answers there is another program, or another job, and not"
            f" rank 0 of this one; choose a free port, another one for every job on a machine"
        )
    return found[0]
