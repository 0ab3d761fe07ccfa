"""Turns a folder of videos, or of images, and its annotations into shards with manifests.

The work is kept by shard: a shard is done when its tar and the small record of it in `.parts` are there, and a run that
was interrupted makes the others when it is started again. Several machines make a part of the same plan each
(`part=3/16`). The manifests come last: a split with a manifest is whole.
"""

import csv
import io
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from math import inf
from pathlib import Path
from typing import NamedTuple

from nlnet import limits
from nlnet.data.media.encode import transcode_with_begin
from nlnet.data.media.images import ImageError
from nlnet.data.media.pyav import check_frames
from nlnet.data.media.video import VideoError, probe
from nlnet.data.prepare.output import Bucket, Folder, open_output, writable
from nlnet.data.prepare.plan import NOT_USED, Failure, Item, Plan, make_plan
from nlnet.data.prepare.resume import FOLDER, Part, check_fingerprint, load_part, save_part, write_fingerprint
from nlnet.data.prepare.settings import Settings
from nlnet.data.prepare.videos import rivals
from nlnet.data.shards.coco import read_image, write_truth
from nlnet.data.shards.manifest import Manifest, manifest_name
from nlnet.data.shards.storage import join
from nlnet.data.shards.writer import RawSample, write_shard
from nlnet.errors import UserError
from nlnet.limits import TooLarge
from nlnet.progress import Progress
from nlnet.reading import read_bytes
from nlnet.text import cell, say

# A file this much longer than the segment of its row still has to be cut.
_SLACK_S = 1.0
_OTHERS_SAID = 5


def prepare(settings: Settings, say: Callable[[str], None] = say) -> list[str]:
    """Writes shards, manifests and `failures.csv` into `settings.out`; returns the paths or URLs of the manifests.

    Run again after an interruption, it makes what is missing; the bytes are those of an undisturbed run. With
    `settings.part` it makes that part of the shards and no manifest; with `settings.merge` it makes no shard.
    Raises UserError if the output holds shards made from other settings or files, if no video could be read, and if
    there are shards missing to be merged.
    """
    plan = make_plan(settings)
    for line in plan.remarks:
        say(line)
    number, count = settings.part_numbers
    with writable(settings.out):
        output = open_output(settings.out)
        fingerprint = check_fingerprint(settings, plan, output)
        with output.alone(number, count):
            write_fingerprint(output, fingerprint)
            parts = _make_shards(settings, plan, fingerprint, output)
            if count > 1:
                say(_part_account(settings, plan, parts))
                return []
            return _finish(settings, plan, parts, output, say)


def _finish(
    settings: Settings, plan: Plan, parts: Sequence[Part], output: Folder | Bucket, say: Callable[[str], None]
) -> list[str]:
    """Writes what is made from all shards together."""
    failures = [*plan.failures, *(failure for part in parts for failure in part.failures)]
    output.write("failures.csv", _table(failures))
    if not any(part.samples for part in parts):
        output.clear(FOLDER)
        failures = [failure for failure in failures if failure.split in plan.splits]
        raise UserError(
            f"none of the {sum(f.skipped for f in failures):,} videos could be used ({_causes(failures)});"
            f" {join(str(settings.out), 'failures.csv')} says why for each"
        )
    manifests = [_manifest(settings.dataset, split, plan, parts) for split in plan.splits]
    if plan.annotations.images:
        manifests = [_with_ground_truth(manifest, plan, output) for manifest in manifests]
    full = [manifest for manifest in manifests if manifest.samples]
    for manifest in full:
        output.write(manifest_name(manifest.dataset, manifest.split), manifest.to_json().encode())
    for manifest in manifests:
        say(_account(manifest, [failure for failure in failures if failure.split == manifest.split]))
    others = [failure for failure in failures if failure.split not in plan.splits]
    for failure in others[:_OTHERS_SAID]:
        say(f"{settings.dataset}: {failure.detail}")
    if len(others) > _OTHERS_SAID:
        say(f"{settings.dataset}: {len(others) - _OTHERS_SAID:,} more such lines are in failures.csv")
    return [join(str(settings.out), manifest_name(manifest.dataset, manifest.split)) for manifest in full]


class Read(NamedTuple):
    """What became of an item: its sample, if one of its files could be read, and what is said of the others."""

    sample: RawSample | None
    failures: list[Failure]


def read_sample(item: Item, settings: Settings, images: bool) -> Read:
    """One video or image, encoded as it goes into a shard, or why it cannot; from the first file that can be read."""
    split, video = item.record.split, item.record.video
    paths, failed = (item.path, *item.others), list[Failure]()
    for path in paths:
        try:
            sample = _read_file(path, item, settings, images)
        except (VideoError, ImageError, TooLarge) as error:
            failed.append(Failure(split, video, error.cause, f"{path}: {error}" if item.others else str(error)))
        except OSError as error:
            failed.append(Failure(split, video, "unreadable", f"{path}: {error.strerror or error}"))
        else:
            tried = [f"{path} was read instead; {failure.detail}" for failure in failed]
            left = rivals(path, paths[len(failed) + 1 :], item.record)
            tried += [f"{path} was read instead of {other}" for other in left]
            return Read(sample, [Failure(split, video, NOT_USED, why) for why in tried])
    return Read(None, [replace(failed[0], detail="; ".join(failure.detail for failure in failed))])


def _read_file(path: Path, item: Item, settings: Settings, images: bool) -> RawSample:
    record = item.record
    if images:
        return read_image(path, item.key, record.labels, record.notes, settings.formats)
    video, begin = _video(path, item, settings)
    info = probe(video, begin=begin)
    if settings.encode == "copy" and (decoded := check_frames(video)) != info.frames:
        raise VideoError("undecodable", f"{decoded} of {info.frames} frames can be decoded")
    labels = record.labels
    if record.start is not None:
        labels = tuple((index, 0.0, inf) for index, _, _ in labels)
    labels = tuple((index, start, info.times.end if end == inf else end) for index, start, end in labels)
    return RawSample(item.key, video, info, labels)


def _video(path: Path, item: Item, settings: Settings) -> tuple[bytes, Fraction | None]:
    """The encoded file, and the second of its first frame on the clock of the labels, if the file does not tell."""
    cut = _segment(path, item)
    if settings.encode == "copy":
        if cut:
            raise VideoError(
                "not cut", f"longer than its segment {cut[0]:g}-{cut[1]:g} s, which encode=h264 would cut out"
            )
        return read_bytes(path, limits.SAMPLE), None
    encoded = transcode_with_begin(
        path,
        short_side=settings.stored_side,
        gop=settings.gop,
        crf=settings.crf,
        tune=settings.tune,
        fps=settings.fps,
        start=cut[0] if cut else None,
        end=cut[1] if cut else None,
    )
    return encoded.video, Fraction(0) if cut else encoded.begin


def _segment(path: Path, item: Item) -> tuple[float, float] | None:
    """The seconds that have to be cut out of the file, if it is longer than they are."""
    start, end = item.record.start, item.record.end
    if not item.whole or start is None or end is None:
        return None
    return (start, end) if probe(path, whole=False).duration > end - start + _SLACK_S else None


def _make_shards(settings: Settings, plan: Plan, fingerprint: str, output: Folder | Bucket) -> list[Part]:
    """All shards of this process's part; those that are done already are only looked up."""
    number, count = settings.part_numbers
    shards = plan.shards[number - 1 :: count]
    names = [f"{settings.dataset}-{split}-{index:06d}.tar" for split, index, _ in shards]
    done = [load_part(output, fingerprint, name) for name in names]
    missing = [name for name, part in zip(names, done, strict=True) if part is None]
    if settings.merge and missing:
        raise UserError(
            f"out={settings.out}: {len(missing):,} of {len(names):,} shards are still to be made, the first of them"
            f" {missing[0]}; run the parts that are missing, or this command without merge=true, which makes them"
        )
    items = [item for (_, _, items), part in zip(shards, done, strict=True) if part is None for item in items]
    images, workers = plan.annotations.images, settings.workers or os.cpu_count() or 1
    parts: list[Part] = []
    pool = ThreadPoolExecutor(workers)
    try:
        with Progress(f"{settings.dataset} files", len(items)) as progress:
            results = _in_order(pool, lambda item: read_sample(item, settings, images), items, ahead=2 * workers)
            for (split, _, shard_items), name, part in zip(shards, names, done, strict=True):
                if part is None:
                    part = _make_part(output, name, split, islice(results, len(shard_items)), progress)
                    save_part(output, fingerprint, part)
                parts.append(part)
    finally:
        pool.shutdown(cancel_futures=True)
    return parts


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Read], items: Iterable[Item], ahead: int
) -> Iterator[Read]:
    """The results in the order of the items, with at most `ahead` of them waiting in memory."""
    waiting: deque[Future[Read]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _make_part(output: Folder | Bucket, name: str, split: str, results: Iterable[Read], progress: Progress) -> Part:
    failures: list[Failure] = []

    def readable() -> Iterator[RawSample]:
        for result in results:
            failures.extend(result.failures)
            if result.sample is not None:
                yield result.sample
            progress.advance()

    with output.draft(name) as path:
        shard, samples = write_shard(path, 0, readable())
        if not samples:
            path.unlink()
    return Part(split, shard, samples, failures)


def _manifest(dataset: str, split: str, plan: Plan, parts: Sequence[Part]) -> Manifest:
    full = [part for part in parts if part.split == split and part.samples]
    return Manifest(
        dataset=dataset,
        split=split,
        task=plan.annotations.task,
        classes=plan.annotations.classes,
        groups={},
        shards=tuple(part.shard for part in full),
        samples=tuple(replace(sample, shard=index) for index, part in enumerate(full) for sample in part.samples),
        details=plan.annotations.details,
    )


def _with_ground_truth(manifest: Manifest, plan: Plan, output: Folder | Bucket) -> Manifest:
    """The manifest, after the annotations of its images are written beside it; an empty split has none."""
    if not manifest.samples:
        return manifest
    notes = {i.key: i.record.notes for split, _, items in plan.shards for i in items if split == manifest.split}
    return write_truth(manifest, lambda key: json.loads(notes[key]), output.write)


def _table(failures: list[Failure]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "video", "cause", "detail"))
    writer.writerows(map(cell, (f.split, f.video, f.cause, f.detail)) for f in failures)
    return text.getvalue().encode()


def _part_account(settings: Settings, plan: Plan, parts: Sequence[Part]) -> str:
    videos, failures = sum(len(part.samples) for part in parts), [f for part in parts for f in part.failures]
    skipped = _skipped(failures)
    return (
        f"part {settings.part}: {videos:,} videos in {len(parts):,} of {len(plan.shards):,} shards{skipped};"
        " when all parts are done, the same command with merge=true instead of part= writes the manifests"
    )


def _account(manifest: Manifest, failures: list[Failure]) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    count = len(manifest.shards)
    skipped = _skipped(failures)
    files = f"{len(manifest.samples):,} {manifest.things} in {count:,} shard{'' if count == 1 else 's'}"
    return f"{manifest.dataset} {manifest.split}: {files}, {amount}{skipped}"


def _skipped(failures: list[Failure]) -> str:
    count, unused = sum(f.skipped for f in failures), sum(not f.skipped for f in failures)
    said = f"; skipped {count:,} ({_causes(failures)})" if count else ""
    return said + (f"; {unused:,} other files of the same names not used" if unused else "")


def _causes(failures: list[Failure]) -> str:
    counts = Counter(failure.cause for failure in failures if failure.skipped)
    return ", ".join(f"{count:,} {cause}" for cause, count in counts.most_common())
