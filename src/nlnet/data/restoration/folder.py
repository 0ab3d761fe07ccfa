"""The images of a split that lie in a folder, listed and looked at before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlnet import limits
from nlnet.data.media.images import ImageError
from nlnet.data.media.suffixes import IMAGE_FORMATS, image_suffixes
from nlnet.data.restoration.pixels import check_pixels
from nlnet.data.shards.manifest import Manifest, Sample
from nlnet.data.shards.storage import is_remote
from nlnet.errors import UserError
from nlnet.reading import open_regular, read_bytes

_HEAD = 1 << 16  # bytes, in which almost every header ends
_SHOWN = 5


@dataclass(frozen=True)
class ImageFolder:
    """A split: a manifest without shards, and the file of each key."""

    manifest: Manifest
    paths: dict[str, Path]


def read_split(
    root: str, dataset: str, split: str, formats: Sequence[str], *, least_side: int = 1, key: str = "data.patch_size"
) -> ImageFolder:
    """The images in the folder `split` of `root` and in all its folders, by name.

    Args:
        root: a folder of the user's.
        dataset: what the manifest is called.
        split: name of a folder in it.
        formats: of images that are read.
        least_side: no image may be narrower or lower.
        key: what asks for that, for the message.

    Raises UserError where there are none, and, all together, for those that cannot be used.
    """
    if is_remote(root):
        raise UserError(f"data.shards={root}: images are read from a folder of this machine; copy them to one")
    folder = Path(root).expanduser() / split
    if not folder.is_dir():
        raise UserError(
            f"data.shards={root}: there is no folder {split} in it; put the images to train on into FOLDER/train and"
            " those to be scored on into FOLDER/val, or name these with data.train_split and data.val_split"
        )
    files = [path for path in sorted(folder.rglob("*")) if path.name[:1] != "." and path.is_file()]
    found = [path for path in files if path.suffix.lower() in image_suffixes(formats)]
    if not found:
        others = sorted({path.suffix.lower() for path in files} & image_suffixes(IMAGE_FORMATS))
        more = f"; for {', '.join(others)} set data.image_formats=[...]" if others else ""
        raise UserError(f"data.shards={root}: no image ({', '.join(image_suffixes(formats))}) in {folder}{more}")
    samples: list[Sample] = []
    wrong: list[str] = []
    for path in found:
        try:
            samples.append(_sample(path, str(path.relative_to(folder)), len(samples), formats, least_side, key))
        except (ImageError, limits.TooLarge, OSError) as error:
            wrong.append(f"{path}: {error}")
    if wrong:
        more = f"and {len(wrong) - _SHOWN} more images that cannot be used" if len(wrong) > _SHOWN else ""
        raise UserError(*wrong[:_SHOWN], *filter(None, [more]))
    manifest = Manifest(dataset, split, "restoration", (), {}, (), samples)
    return ImageFolder(manifest, {s.key: path for s, path in zip(samples, found, strict=True)})


def _sample(path: Path, key: str, index: int, formats: Sequence[str], least_side: int, asked: str) -> Sample:
    """A file is like a shard of its own; its checksum is not known."""
    with open_regular(path) as file:
        head = file.read(_HEAD)
    try:
        image = check_pixels(head, formats)
    except ImageError:
        if len(head) < _HEAD:
            raise
        image = check_pixels(read_bytes(path, limits.SAMPLE), formats)
    if min(image.size) < least_side:
        raise ImageError("small", f"{image.width} x {image.height} pixels, less than {asked}={least_side}")
    width, height = image.size
    return Sample(key, index, 0, path.stat().st_size, 0, frames=1, fps=1.0, width=width, height=height, labels=())
