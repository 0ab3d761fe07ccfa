"""The process that loader processes are forked from."""

import multiprocessing
from multiprocessing import forkserver


def name_imports() -> None:
    """Say what it imports when it starts, once for all workers."""
    multiprocessing.set_forkserver_preload(["nlnet.data.batches.loader"])


def start_server() -> None:
    """Start it before it is needed, so that it imports what workers need while this process imports the rest."""
    name_imports()
    forkserver.ensure_running()
