"""Turns a folder of videos and its annotations into shards with manifests.

The work is kept by shard: a shard is done when its tar and the small record of it in `.parts` are there, and a run that
was interrupted makes the others when it is started again. The manifests come last: a split with a manifest is whole.
"""

import csv
import fcntl
import io
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from nlnet.data.encode import transcode
from nlnet.data.manifest import Manifest, Sample, Shard, write_atomic, write_manifest
from nlnet.data.plan import Failure, Item, Plan, Settings, make_plan
from nlnet.data.progress import Meter
from nlnet.data.shards import RawSample, write_shard
from nlnet.data.video import VideoError, count_frames, probe
from nlnet.errors import UserError

# A file this much longer than the segment of its row still has to be cut.
_SLACK_S = 1.0


@dataclass(frozen=True)
class _Part:
    """A finished shard; an empty one (every video of it failed) has no tar."""

    split: str
    shard: Shard
    samples: list[Sample]
    failures: list[Failure]


def prepare(settings: Settings, say: Callable[[str], None] = print) -> list[Path]:
    """Writes shards, manifests and `failures.csv` into `settings.out`; returns the paths of the manifests.

    Run again after an interruption, it makes what is missing; the bytes are those of an undisturbed run.
    Raises UserError if the folder holds shards made from other settings or files, and if no video could be read.
    """
    plan = make_plan(settings)
    with _writable(settings.out):
        parts_dir = settings.out / ".parts"
        digest = _digest(settings, plan, parts_dir)
        with _alone(parts_dir):
            write_atomic(parts_dir / "plan.json", digest.encode())
            parts = _make_shards(settings, plan, digest, parts_dir)
        failures = [*plan.failures, *(failure for part in parts for failure in part.failures)]
        _write_failures(settings.out / "failures.csv", failures)
        if not any(part.samples for part in parts):
            shutil.rmtree(parts_dir)
            raise UserError(
                f"none of the {len(failures):,} videos could be used ({_causes(failures)});"
                f" {settings.out / 'failures.csv'} says why for each"
            )
        manifests = [_manifest(settings.dataset, split, plan, parts) for split in plan.splits]
        paths = [write_manifest(settings.out, manifest) for manifest in manifests if manifest.samples]
    for manifest in manifests:
        say(_account(manifest, [failure for failure in failures if failure.split == manifest.split]))
    return paths


def read_sample(item: Item, settings: Settings) -> RawSample | Failure:
    """One video, encoded as it goes into a shard, or why it cannot."""
    record = item.record
    try:
        video = _video(item, settings)
        info = probe(video)
        if settings.encode == "copy" and (decoded := count_frames(video)) != info.frames:
            raise VideoError("undecodable", f"{decoded} of {info.frames} frames can be decoded")
    except VideoError as error:
        return Failure(record.split, record.video, error.cause, str(error))
    except OSError as error:
        return Failure(record.split, record.video, "unreadable", f"{item.path}: {error.strerror}")
    labels = record.labels
    if record.start is not None:
        labels = tuple((index, 0.0, info.duration) for index, _, _ in labels)
    return RawSample(item.key, video, info, labels)


def _video(item: Item, settings: Settings) -> bytes:
    start, end = item.record.start, item.record.end
    cut = item.whole and start is not None and end is not None and probe(item.path).duration > end - start + _SLACK_S
    if settings.encode == "copy":
        if cut:
            raise VideoError("not cut", f"longer than its segment {start:g}-{end:g} s, which encode=h264 would cut out")
        return item.path.read_bytes()
    segment = {"start": start, "end": end} if cut else {}
    return transcode(item.path, short_side=settings.short_side, gop=settings.gop, crf=settings.crf, **segment)


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"out={out}: cannot write there: {error.strerror or error}") from error


def _digest(settings: Settings, plan: Plan, parts_dir: Path) -> str:
    """What the shards are made from, as text; refuses a folder that holds others."""
    mine = {"settings": settings.choices(), "inputs": plan.inputs}
    claim = parts_dir / "plan.json"
    mend = "choose another folder with out=, or delete this one"
    if claim.is_file():
        theirs = json.loads(claim.read_text())
        if theirs != mine:
            raise UserError(f"out={settings.out} holds shards made differently ({_changes(theirs, mine)}); {mend}")
    elif others := [path.name for pattern in ("*.tar", "*-manifest.json") for path in settings.out.glob(pattern)]:
        raise UserError(f"out={settings.out} holds {min(others)}, which this command has no record of; {mend}")
    return json.dumps(mine)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process out; the lock ends with this one, however it ends."""
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"out={folder.parent}: another process is writing shards there") from None
        yield


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    before, now = old["settings"], new["settings"]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changed = [f"{name}={before.get(name)} then, {now.get(name)} now" for name in names]
    return ", ".join(changed) or "the annotations or the video files have changed since"


def _make_shards(settings: Settings, plan: Plan, digest: str, parts_dir: Path) -> list[_Part]:
    names = [f"{settings.dataset}-{split}-{number:06d}.tar" for split, number, _ in plan.shards]
    done = [_load_part(parts_dir / f"{name}.json", digest, settings.out) for name in names]
    missing = [shard for shard, part in zip(plan.shards, done, strict=True) if part is None]
    items = [item for _, _, items in missing for item in items]
    workers = settings.workers or os.cpu_count() or 1
    parts: list[_Part] = []
    pool = ThreadPoolExecutor(workers)
    try:
        with Meter(f"{settings.dataset} videos", len(items)) as meter:
            results = _in_order(pool, lambda item: read_sample(item, settings), items, ahead=2 * workers)
            for (split, _, shard_items), name, part in zip(plan.shards, names, done, strict=True):
                if part is None:
                    part = _make_part(settings.out / name, split, islice(results, len(shard_items)), meter)
                    _save_part(parts_dir / f"{name}.json", digest, part)
                parts.append(part)
    finally:
        pool.shutdown(cancel_futures=True)
    return parts


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], RawSample | Failure], items: Iterable[Item], ahead: int
) -> Iterator[RawSample | Failure]:
    """The results in the order of the items, with at most `ahead` of them waiting in memory."""
    waiting: deque[Future[RawSample | Failure]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _make_part(path: Path, split: str, results: Iterable[RawSample | Failure], meter: Meter) -> _Part:
    failures: list[Failure] = []

    def readable() -> Iterator[RawSample]:
        for result in results:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                yield result
            meter.advance()

    shard, samples = write_shard(path, 0, readable())
    if not samples:
        path.unlink()
    return _Part(split, shard, samples, failures)


def _save_part(path: Path, digest: str, part: _Part) -> None:
    write_atomic(path, json.dumps({"digest": digest, **asdict(part)}).encode())


def _load_part(path: Path, digest: str, out: Path) -> _Part | None:
    """A finished shard, or None if it is to be made."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    shard = Shard(**content["shard"])
    tar = out / shard.name
    if content["digest"] != digest or (shard.samples and not (tar.is_file() and tar.stat().st_size == shard.bytes)):
        return None
    samples = [Sample(**{**row, "labels": tuple(map(tuple, row["labels"]))}) for row in content["samples"]]
    return _Part(content["split"], shard, samples, [Failure(**row) for row in content["failures"]])


def _manifest(dataset: str, split: str, plan: Plan, parts: list[_Part]) -> Manifest:
    full = [part for part in parts if part.split == split and part.samples]
    return Manifest(
        dataset=dataset,
        split=split,
        task=plan.annotations.task,
        classes=plan.annotations.classes,
        groups={},
        shards=tuple(part.shard for part in full),
        samples=tuple(replace(sample, shard=index) for index, part in enumerate(full) for sample in part.samples),
    )


def _write_failures(path: Path, failures: list[Failure]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "video", "cause", "detail"))
    writer.writerows((f.split, f.video, f.cause, f.detail) for f in failures)
    write_atomic(path, text.getvalue().encode())


def _account(manifest: Manifest, failures: list[Failure]) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    count = len(manifest.shards)
    skipped = f"; skipped {len(failures):,} ({_causes(failures)})" if failures else ""
    shards = f"{count:,} shard{'' if count == 1 else 's'}"
    return f"{manifest.dataset} {manifest.split}: {len(manifest.samples):,} videos in {shards}, {amount}{skipped}"


def _causes(failures: list[Failure]) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in Counter(f.cause for f in failures).most_common())
