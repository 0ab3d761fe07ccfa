"""COCO images in shards: `key.jpg` beside a `key.json` with COCO's own records, and the annotations of a split in one
file beside its manifest, for the evaluation."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nlnet import limits
from nlnet.data.annotations.coco_plausible import plausibility
from nlnet.data.annotations.records import Labels
from nlnet.data.media.images import decode_image, member_suffix, open_image
from nlnet.data.media.suffixes import READ_ALWAYS
from nlnet.data.media.video import VideoInfo
from nlnet.data.shards import storage
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.writer import RawSample
from nlnet.errors import UserError
from nlnet.reading import parse_json, read_bytes


def image_sample(key: str, data: bytes, suffix: str, labels: Labels, notes: Mapping[str, Any]) -> RawSample:
    """An image on its way into a shard. COCO's records, `{"image": ..., "annotations": ...}`, go in as they are."""
    info = VideoInfo(frames=1, fps=1.0, width=notes["image"]["width"], height=notes["image"]["height"])
    return RawSample(key, data, info, labels, suffix, notes)


def read_image(path: Path, key: str, labels: Labels, notes: str, formats: Sequence[str] = READ_ALWAYS) -> RawSample:
    """An image file with its records in JSON; it is decoded to see that it can be.

    The bytes of a JPEG or PNG stay as they are; others become a PNG of the same pixels. Raises ImageError and OSError.
    """
    records, data = json.loads(notes), read_bytes(path, limits.SAMPLE)
    width, height = records["image"]["width"], records["image"]["height"]
    image = decode_image(data, width, height, formats=formats, needed=(1, 1))
    suffix = member_suffix(open_image(data, formats))
    if suffix is None:
        file = io.BytesIO()
        image.save(file, "PNG")
        data, suffix = file.getvalue(), "png"
    return image_sample(key, data, suffix, labels, records)


def truth_name(dataset: str, split: str) -> str:
    """The name of a split's annotations, such as "coco-val-annotations.json"."""
    return f"{dataset}-{split}-annotations.json"


def write_truth(
    manifest: Manifest, notes: Callable[[str], Mapping[str, Any]], write: Callable[[str, bytes], None]
) -> Manifest:
    """Writes the annotations of a split's images as one COCO file; returns the manifest that names it.

    `notes` gives the records of the sample with a key.
    """
    records = [notes(sample.key) for sample in manifest.samples]
    content = {
        "images": [record["image"] for record in records],
        "annotations": [row for record in records for row in record["annotations"]],
        "categories": manifest.details["categories"],
    }
    data = json.dumps(content, separators=(",", ":")).encode()
    name = truth_name(manifest.dataset, manifest.split)
    write(name, data)
    told: dict[str, Any] = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    found = plausibility(content)
    told |= {"objects": found.objects, "masks": found.masks, "keypoints": found.keypoints}
    if remarks := found.lines(manifest.split):
        told["remarks"] = remarks
    return replace(manifest, details={**manifest.details, "annotations": told})


def read_truth(manifest: Manifest, root: str, timeout_s: float = storage.TIMEOUT_S) -> dict[str, Any]:
    """The annotations of a split as one COCO dictionary. Raises UserError unless they are the manifest's."""
    told = manifest.details["annotations"]
    url = storage.join(root, truth_name(manifest.dataset, manifest.split))
    try:
        data = storage.read_bytes(url, limits.ANNOTATIONS, timeout_s=timeout_s)
    except OSError as error:
        raise UserError(f"{url}: cannot be read, and the evaluation needs it: {error}") from error
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise UserError(f"{url}: its SHA-256 is not the manifest's; copy it again with the shards")
    content: dict[str, Any] = parse_json(data, url, limits.ANNOTATION_MEMORY)
    return content
