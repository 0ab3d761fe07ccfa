"""The points of a sweep as processes of this machine, some at a time; only what is missing, and none twice."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlnet.config.words import as_hydra
from nlnet.errors import RunInterrupted
from nlnet.runs.callbacks.signals import StopSignals
from nlnet.saving import CannotWrite
from nlnet.sweeps.claims import Claim, failures
from nlnet.sweeps.outcomes import LOG, Outcome, Told, continuing, is_finished, outcome
from nlnet.sweeps.points import Point
from nlnet.text import say

CLAIMS = ".claims"
_POLL_S = 0.2


@dataclass(frozen=True)
class _Training:
    point: Point
    process: subprocess.Popen
    claim: Claim


class Sweeper:
    """Runs points, each as `command` with its words in a folder of its own below `out`.

    A finished point is skipped, one with a checkpoint is continued, and one that failed is tried once more. Another
    sweeper may share the folder: what it runs is waited for, and taken over if it is killed together with its runs.
    """

    def __init__(self, points: Sequence[Point], out: Path, command: Sequence[str], at_once: int) -> None:
        self.points, self.out, self.command, self.at_once = points, out, command, at_once
        self.told, self.signals = Told(len(points)), StopSignals()
        self._running: list[_Training] = []
        self._outcomes: dict[str, Outcome] = {}
        self._failures: dict[str, int] = {}

    def run(self) -> list[Outcome]:
        """The outcome of every point, in order. Raises RunInterrupted after SIGINT or SIGTERM, when its runs have ended
        with a checkpoint each; a second SIGINT kills them."""
        try:
            (self.out / CLAIMS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWrite(self.out, error) from error
        self._failures = {point.name: failures(self._claim_file(point)) for point in self.points}
        self._skip_finished()
        self.signals.install()
        try:
            self._loop()
        except BaseException:
            for training in self._running:
                os.killpg(training.process.pid, signal.SIGKILL)
            raise
        finally:
            self.signals.restore()
        if self.signals.received is not None:
            raise RunInterrupted(self.signals.received, None)
        return [self._outcomes[point.name] for point in self.points]

    def _loop(self) -> None:
        told = waited = False
        while self._running or self._missing():
            self._reap()
            if self.signals.received is None:
                for point in self._missing():
                    if len(self._running) < self.at_once:
                        self._take(point)
                if not waited and not self._running and self._missing():
                    waited = True
                    say(f"{len(self._missing())} points run in another sweeper; waiting for them", error=True)
            elif not self._running:
                return
            elif not told:
                told = True
                say(f"stopping {len(self._running)} runs; each writes its checkpoint", error=True)
                for training in self._running:
                    training.process.terminate()
            time.sleep(_POLL_S)

    def _missing(self) -> list[Point]:
        taken = {training.point.name for training in self._running} | self._outcomes.keys()
        return [point for point in self.points if point.name not in taken]

    def _skip_finished(self) -> None:
        for point in self.points:
            if is_finished(self.out / point.name):
                self._outcomes[point.name] = outcome(self.out / point.name)
        self.told.skip(len(self._outcomes))

    def _claim_file(self, point: Point) -> Path:
        return self.out / CLAIMS / point.name

    def _take(self, point: Point) -> None:
        """Start a point, unless another sweeper has it, has finished it, or has failed at it since this one started."""
        path = self._claim_file(point)
        claim = Claim.take(path)
        if claim is None:
            return
        folder = self.out / point.name
        if is_finished(folder) or failures(path) > self._failures[point.name]:
            claim.release()
            self._end(outcome(folder))
        else:
            self._running.append(_Training(point, self._start(point, folder, claim), claim))

    def _start(self, point: Point, folder: Path, claim: Claim) -> subprocess.Popen:
        """The process of a point, in a group of its own: a Ctrl-C in the terminal is this process's to pass on."""
        words = [*point.words, *continuing(folder), f"paths.run_dir={as_hydra(str(folder))}"]
        self.told.start(point.name, goes_on="ckpt_path=last" in words)
        cores = max(1, (os.cpu_count() or 1) // self.at_once)
        environment = {"OMP_NUM_THREADS": str(cores)} | os.environ if self.at_once > 1 else None
        try:
            folder.mkdir(exist_ok=True)
            with open(folder / LOG, "ab") as log:
                return subprocess.Popen(
                    [*self.command, *words],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    pass_fds=[claim.descriptor],
                )
        except OSError as error:
            raise CannotWrite(folder / LOG, error) from error

    def _reap(self) -> None:
        for training in list(self._running):
            if (code := training.process.poll()) is None:
                continue
            self._running.remove(training)
            result = outcome(self.out / training.point.name, code)
            if result.status == "failed":
                training.claim.add_failure()
            training.claim.release()
            self._end(result)

    def _end(self, result: Outcome) -> None:
        self._outcomes[result.name] = result
        self.told.end(result)
