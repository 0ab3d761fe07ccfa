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
from itertools import islice

from nlnet import limits
from nlnet.data.media.encode import transcode
from nlnet.data.media.images import ImageError
from nlnet.data.media.video import VideoError, count_frames, probe
from nlnet.data.prepare.output import Bucket, Folder, open_output, writable
from nlnet.data.prepare.plan import Failure, Item, Plan, make_plan
from nlnet.data.prepare.resume import FOLDER, Part, check_fingerprint, load_part, save_part, write_fingerprint
from nlnet.data.prepare.settings import Settings
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


def prepare(settings: Settings, say: Callable[[str], None] = say) -> list[str]:
    """Writes shards, manifests and `failures.csv` into `settings.out`; returns the paths or URLs of the manifests.

    Run again after an interruption, it makes what is missing; the bytes are those of an undisturbed run. With
    `settings.part` it makes that part of the shards and no manifest; with `settings.merge` it makes no shard.
    Raises UserError if the output holds shards made from other settings or files, if no video could be read, and if
    there are shards missing to be merged.
    """
    plan = make_plan(settings)
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
        raise UserError(
            f"none of the {len(failures):,} videos could be used ({_causes(failures)});"
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
    return [join(str(settings.out), manifest_name(manifest.dataset, manifest.split)) for manifest in full]


def read_sample(item: Item, settings: Settings, images: bool) -> RawSample | Failure:
    """One video or image, encoded as it goes into a shard, or why it cannot."""
    record = item.record
    try:
        if images:
            return read_image(item.path, item.key, record.labels, record.notes)
        video = _video(item, settings)
        info = probe(video)
        if settings.encode == "copy" and (decoded := count_frames(video)) != info.frames:
            raise VideoError("undecodable", f"{decoded} of {info.frames} frames can be decoded")
    except (VideoError, ImageError, TooLarge) as error:
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
        return read_bytes(item.path, limits.SAMPLE)
    return transcode(
        item.path,
        short_side=settings.short_side,
        gop=settings.gop,
        crf=settings.crf,
        tune=settings.tune,
        start=start if cut else None,
        end=end if cut else None,
    )


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


def _make_part(
    output: Folder | Bucket, name: str, split: str, results: Iterable[RawSample | Failure], progress: Progress
) -> Part:
    failures: list[Failure] = []

    def readable() -> Iterator[RawSample]:
        for result in results:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                yield result
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
    skipped = f"; skipped {len(failures):,} ({_causes(failures)})" if failures else ""
    return (
        f"part {settings.part}: {videos:,} videos in {len(parts):,} of {len(plan.shards):,} shards{skipped};"
        " when all parts are done, the same command with merge=true instead of part= writes the manifests"
    )


def _account(manifest: Manifest, failures: list[Failure]) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    count = len(manifest.shards)
    skipped = f"; skipped {len(failures):,} ({_causes(failures)})" if failures else ""
    files = f"{len(manifest.samples):,} {manifest.things} in {count:,} shard{'' if count == 1 else 's'}"
    return f"{manifest.dataset} {manifest.split}: {files}, {amount}{skipped}"


def _causes(failures: list[Failure]) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in Counter(f.cause for f in failures).most_common())
