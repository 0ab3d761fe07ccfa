"""A Slurm of two nodes on this machine: munged, slurmctld and two slurmd with ports and files of their own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=600
JobRequeue=1
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Slurm:
    """Its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}

    def call(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        words = self.call("scontrol", "-o", "show", "job", number).split()
        return dict(word.partition("=")[::2] for word in words)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Start it, and end it with all of its jobs; skips where it is not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"Slurm needs root and Debian's slurm-wlm and munge; missing: {', '.join(missing) or 'root'}")
    probes = [socket.socket() for _ in range(3)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    for name in ("state", "spool.n1", "spool.n2", "munge"):
        (folder / name).mkdir(mode=0o700)
    (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, host=socket.gethostname(), ports=ports))
    munge = folder / "munge"
    made, daemons = Slurm(folder), []
    made.call("mungekey", "--create", f"--keyfile={munge}/key")
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket",
         f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"],
        ["slurmctld", "-D", "-c", "-i"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]  # fmt: skip
    try:
        for k, command in enumerate(commands):
            with open(folder / f"daemon.{k}", "wb") as output:
                daemons.append(subprocess.Popen(command, env=made.environment, stdout=output, stderr=subprocess.STDOUT))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "State=IDLE" not in (nodes := made.call("scontrol", "-o", "show", "nodes")) or nodes.count("IDLE") < 2:
            assert time.monotonic() < deadline, nodes
            time.sleep(0.5)
        yield made
        subprocess.run(["scancel", "--state=RUNNING", "--full", "--signal=KILL"], env=made.environment, check=False)
        time.sleep(2)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
