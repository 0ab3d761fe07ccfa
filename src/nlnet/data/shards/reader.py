"""The bytes of samples, read ahead: neighbors in one request, several requests at a time, within a bound.

What is read depends on the positions that are asked for and on nothing else, so a run that is resumed reads nothing
from before its position.
"""

import errno
import threading
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from nlnet import limits
from nlnet.data.shards import storage
from nlnet.data.shards.source import ShardSource
from nlnet.data.shards.storage import Traffic

# Bytes between two samples that are read and thrown away rather than asked for apart: what a link of 100 MB/s brings in
# 3 ms, less than an object store takes to answer.
GAP = 256 << 10
LONGEST = 8 << 20  # of a request for several samples
_REREADS = 3  # of a sample whose CRC32 is wrong


class Located(Protocol):
    """A sample as the reader sees it."""

    @property
    def key(self) -> str: ...
    @property
    def shard(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def crc32(self) -> int: ...


class SampleError(Exception):
    """A sample that cannot be used; `cause` is the word it is counted under, `detail` what went wrong."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail = cause, detail


Outcome = bytes | SampleError


class SampleSource(Protocol):
    """Where samples come from: a `ShardSamples`, say, or files."""

    @property
    def traffic(self) -> Traffic:
        """Counts what is read."""
        ...

    def read_samples(self, group: Sequence[Located]) -> list[Outcome]:
        """What becomes of each sample of a group that `merge` has put together. Called from any thread."""
        ...


class _Range(NamedTuple):
    """Samples that are read together, by their slots in the batch."""

    slots: list[int]
    result: "Future[list[Outcome]]"


class SampleReader:
    """Samples by batch: `ahead` starts reading batches to come, `take` waits for one.

    Args:
        source: what reads a group of samples.
        parallel: groups that are read at a time, each in a thread.
        ahead_bytes: what may be read and not yet taken; one batch is read whatever its size.
    """

    def __init__(self, source: SampleSource, parallel: int, ahead_bytes: float) -> None:
        self.source, self.ahead_bytes = source, ahead_bytes
        self._pending: dict[Hashable, list[_Range]] = {}
        self._threads = _Threads(parallel)

    def ahead(self, upcoming: Iterable[tuple[Hashable, Sequence[Located]]]) -> None:
        """Read the batches `(name, samples)`, in order and as far as the bound allows; forget all others."""
        wanted: set[Hashable] = set()
        held = 0
        for name, samples in upcoming:
            held += sum(sample.length for sample in samples)
            if wanted and held > self.ahead_bytes:  # the first is wanted now, whatever its size
                break
            wanted.add(name)
            if name not in self._pending:
                self._pending[name] = [self._start(samples, slots) for slots in merge(samples)]
        for name in self.pending() - wanted:
            for part in self._pending.pop(name):
                part.result.cancel()

    def pending(self) -> set[Hashable]:
        """The batches that are read or being read, and not yet taken."""
        return set(self._pending)

    def take(self, name: Hashable) -> list[Outcome]:
        """What became of each sample of a batch that `ahead` was told of."""
        parts = self._pending.pop(name)
        outcomes: dict[int, Outcome] = {}
        for part in parts:
            outcomes.update(zip(part.slots, part.result.result(), strict=True))
        return [outcomes[slot] for slot in sorted(outcomes)]

    def close(self) -> None:
        """End the threads."""
        self.ahead([])
        self._threads.close()

    def _start(self, samples: Sequence[Located], slots: list[int]) -> _Range:
        group = [samples[slot] for slot in slots]
        return _Range(slots, self._threads.submit(self.source.read_samples, group))


class ShardSamples:
    """The samples in shards, each checked against its CRC32."""

    def __init__(self, source: ShardSource) -> None:
        self.source, self.traffic = source, source.traffic

    def read_samples(self, group: Sequence[Located]) -> list[Outcome]:
        """Neighbors in one shard, by a single read."""
        return _read(self.source, group)


def read_sample(source: ShardSource, sample: Located) -> bytes:
    """The bytes of one sample, checked. Raises SampleError."""
    (outcome,) = _read(source, [sample])
    if isinstance(outcome, SampleError):
        raise outcome
    return outcome


def _read(source: ShardSource, group: Sequence[Located]) -> list[Outcome]:
    shard, begin = group[0].shard, group[0].offset
    if len(group) == 1 and group[0].length > limits.SAMPLE.most:  # of several, `merge` bounds the sum
        return [SampleError("too large", str(limits.SAMPLE.excess(group[0].key, group[0].length)))]
    try:
        data = source.read(shard, begin, _span(group))
    except EOFError as error:
        # One that lies beyond the end must not take its neighbors with it.
        return [_failed(group[0], error)] if len(group) == 1 else [_read(source, [sample])[0] for sample in group]
    except OSError as error:
        return [_failed(sample, error) for sample in group]
    return [_checked(source, s, data[s.offset - begin : s.offset - begin + s.length]) for s in group]


def _checked(source: ShardSource, sample: Located, data: bytes) -> Outcome:
    """The bytes, if they are the sample's. If not they are asked for again: they may have been spoilt on the way."""
    for reread in range(_REREADS + 1):
        if zlib.crc32(data) == sample.crc32:
            return data
        if reread == _REREADS:
            break
        source.traffic.add(retries=1)
        try:
            data = source.read(sample.shard, sample.offset, sample.length)
        except (OSError, EOFError) as error:
            return _failed(sample, error)
    where = f"{sample.key} in {source.urls[sample.shard]} at {sample.offset}"
    return SampleError("checksum", f"{where}: its CRC32 is not the manifest's{storage.web_page(data)}")


def _failed(sample: Located, error: OSError | EOFError) -> SampleError:
    causes = {FileNotFoundError: "missing shard", EOFError: "truncated shard", PermissionError: "permission denied"}
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return SampleError("no space" if full else causes.get(type(error), "unreadable"), f"{sample.key}: {error}")


def _span(group: Sequence[Located]) -> int:
    return max(sample.offset + sample.length for sample in group) - group[0].offset


def merge(samples: Sequence[Located]) -> list[list[int]]:
    """Slots of samples that one request brings: neighbors in a shard, not more than GAP apart, LONGEST in all."""
    groups: list[list[int]] = []
    begin = end = 0
    for slot in sorted(range(len(samples)), key=lambda k: (samples[k].shard, samples[k].offset)):
        sample = samples[slot]
        stop = sample.offset + sample.length
        if (
            groups
            and samples[groups[-1][-1]].shard == sample.shard
            and sample.offset - end <= GAP
            and stop - begin <= LONGEST
        ):
            groups[-1].append(slot)
            end = max(end, stop)
        else:
            groups.append([slot])
            begin, end = sample.offset, stop
    return groups


class _Threads:
    """A pool whose threads do not keep a process from ending, as an executor's would until every read is through."""

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            threading.Thread(target=_work, args=(self._jobs,), daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._jobs.put((future, function, arguments))
        return future

    def close(self) -> None:
        for _ in range(self._count):
            self._jobs.put(None)


def _work(jobs: "SimpleQueue[Any]") -> None:
    while (job := jobs.get()) is not None:
        future, function, arguments = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        del job, future, function, arguments  # or the last result would live until the next job
