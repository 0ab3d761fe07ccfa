"""Two network namespaces joined by a cable, as two machines with a common disk. Needs root and `ip`."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = ("10.213.7.1", "10.213.7.2")


class TwoNodes:
    """Commands on two machines, each a namespace."""

    def __init__(self, folder: Path) -> None:
        self.names = [f"nlnet{os.getpid()}{letter}" for letter in "ab"]
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, node: int, command: Sequence[str], log: Path, env: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        """Start a command on machine 0 or 1, its output in `log`."""
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": self.names[node],
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # docs/cluster.md says why
            "TP_SOCKET_IFNAME": self.names[node],
            **env,
        }
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR", "NLNET_RUN_DIR"):
            environment.pop(name, None)
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[node], *command],
                stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def torchrun(
        self,
        words: Sequence[str],
        logs: Path,
        *,
        restarts: int = 0,
        job: str = "job",
        env: Mapping[str, str] = {},
    ) -> list[subprocess.Popen[bytes]]:
        """A training on both, one rank on each; output in `logs.0` and `logs.1`."""
        processes = []
        for node in (0, 1):
            launcher = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
                "--rdzv-backend=c10d", f"--rdzv-id={job}", f"--rdzv-endpoint={ADDRESSES[0]}:29400",
                f"--rdzv-conf=is_host={int(node == 0)}",
                f"--local-addr={ADDRESSES[node]}", f"--max-restarts={restarts}", str(ROOT / "src" / "train.py"),
            ]  # fmt: skip
            processes.append(self.start(node, [*launcher, *words], Path(f"{logs}.{node}"), env))
        return processes

    def cable(self, up: bool) -> None:
        """Plug or unplug the second machine."""
        self._ip("netns", "exec", self.names[1], "ip", "link", "set", self.names[1], "up" if up else "down")

    def __enter__(self) -> "TwoNodes":
        first, second = self.names
        try:
            for name in self.names:
                self._without_names(Path("/etc/netns") / name)
                self._ip("netns", "add", name)
            self._ip("link", "add", first, "netns", first, "type", "veth", "peer", second, "netns", second)
            for name, address in zip(self.names, ADDRESSES, strict=True):
                self._ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
                for device in ("lo", name):
                    self._ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for name in self.names:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in inside:
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        for process in self._processes:
            process.wait()

    @staticmethod
    def _without_names(folder: Path) -> None:
        """What is mounted over /etc there: a server of names is out of reach, and would be waited for."""
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESSES[0]} node0\n{ADDRESSES[1]} node1\n")

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def two_nodes(folder: Path) -> Iterator[TwoNodes]:
    """Two machines; skips where they cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip (iproute2)")
    with TwoNodes(folder) as nodes:
        yield nodes


def wait_all(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> list[int]:
    """Their exit codes."""
    deadline = time.monotonic() + timeout
    return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
