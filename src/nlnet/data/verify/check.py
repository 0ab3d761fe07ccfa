"""Holds shards against their manifests, and the annotations in a folder of COCO's own files against its images."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nlnet import limits
from nlnet.data.prepare.folder import check_folder, is_plain
from nlnet.data.shards import storage
from nlnet.data.shards.find import MANIFEST, folder_of
from nlnet.data.shards.manifest import Manifest
from nlnet.data.verify.coco import GroundTruth, check_ground_truth
from nlnet.data.verify.report import DEFAULTS, Finding, Options, Report
from nlnet.data.verify.shard import ShardCheck
from nlnet.errors import UserError
from nlnet.progress import Progress


def verify(shards: str, options: Options = DEFAULTS) -> Report:
    """Checks the shards of every manifest in a folder or prefix, or of the one manifest that `shards` names; or the
    annotations in a folder of COCO's own files.

    What is wrong with the shards is in the report.
    Raises UserError where there is no manifest, or one that cannot be read.
    """
    if is_plain(shards):
        return Report(shards, options.span, findings=[Finding(*problem) for problem in check_folder(Path(shards))])
    root, names = find_manifests(shards)
    report = Report(root, options.span)
    contents: dict[bytes, list[str]] = {}
    for name in names:
        manifest = _manifest(root, name)
        report.manifests.append(manifest)
        _check_shards(manifest, root, options, report, contents)
        _describe(manifest, report)
    if not options.duplicates:
        report.findings += [Finding(same[0], "duplicate", _same(same)) for same in contents.values() if len(same) > 1]
    return report


def _check_shards(
    manifest: Manifest, root: str, options: Options, report: Report, contents: dict[bytes, list[str]]
) -> None:
    """Adds what is wrong with the shards of a manifest to the report, and to `contents` who holds the same bytes."""
    ground_truth: GroundTruth | None = None
    if manifest.task == "detection":
        ground_truth, problems = check_ground_truth(manifest, root)
        report.findings += (Finding(*problem) for problem in problems)
    check, count = ShardCheck(manifest, root, options, ground_truth), len(manifest.shards)
    with ThreadPoolExecutor(options.workers) as pool, Progress(f"{manifest.split} shards", count) as progress:
        for job in [pool.submit(check, index) for index in range(count)]:
            checked = job.result()
            report.findings += checked.findings
            report.thumbnails += checked.thumbnails
            report.bytes += checked.bytes
            report.decoded += checked.decoded
            for digest, where in checked.contents:
                contents.setdefault(digest, []).append(where)
            progress.advance()


def find_manifests(shards: str) -> tuple[str, list[str]]:
    """The folder or prefix, and the manifests in it. Raises UserError if there are none."""
    if (root := folder_of(shards)) != shards:
        return root, [shards.partition("?")[0].rpartition("/")[2]]
    names = storage.list_folder(shards, MANIFEST)
    if not names:
        raise UserError(
            f"{shards}: no *{MANIFEST} here; name the folder or prefix that prepare wrote to, or a manifest"
        )
    return shards, names


def _manifest(root: str, name: str) -> Manifest:
    url = storage.join(root, name)
    try:
        return Manifest.from_json(storage.read_bytes(url, limits.MANIFEST), url)
    except OSError as error:
        raise UserError(f"{url}: cannot be read: {error}") from error


def _describe(manifest: Manifest, report: Report) -> None:
    counts = Counter(dict.fromkeys(manifest.classes, 0))
    for sample in manifest.samples:
        counts.update({manifest.classes[index] for index, _, _ in sample.labels})
        if sample.frames < report.span and manifest.task != "detection":
            report.short.append((manifest.split, sample.key, sample.frames))
    report.labels[manifest.split] = counts
    report.samples += len(manifest.samples)


def _same(where: list[str]) -> str:
    splits = {name.split("/", 1)[0] for name in where}
    leak = ", and in several splits" if len(splits) > 1 else ""
    return f"the same file as {', '.join(where[1:4])}{', ...' if len(where) > 4 else ''}{leak}"
