"""Small files that claim to be large, by reader; and a program that gives each to its reader and measures itself.

`python hostile.py READER FOLDER` prints a line of JSON for each case: its name, what became of it, the seconds, and the
peak of the memory over that before the first.
"""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers.hostile_files import images, pickles, tars
from helpers.hostile_texts import Case, configurations, jsons, manifests, yamls


def _read_manifest(path: Path) -> Any:
    from nlnet.data.shards.find import load_manifest
    from nlnet.data.shards.reader import read_sample
    from nlnet.data.shards.source import DEFAULTS, ShardSource

    (path.parent / "x-train-000000.tar").write_bytes(bytes(1024))
    found = load_manifest(str(path.parent), "x", "train")
    return read_sample(ShardSource(str(path.parent), found.shards, DEFAULTS), found.samples[0])


def _read_json(path: Path) -> Any:
    from nlnet import limits
    from nlnet.reading import read_json

    return read_json(path, limits.MANIFEST)


def _read_yaml(path: Path) -> Any:
    from nlnet.reading import read_yaml

    return read_yaml(path)


def _read_config(path: Path) -> Any:
    from nlnet.checkpoints.sources.mmconfig import read_config

    return read_config(path)


def _read_blobs(path: Path) -> Any:
    from nlnet.checkpoints.sources.caffe2_pickle import read_blobs

    return read_blobs(path)


def _read_tar(path: Path) -> Any:
    from nlnet.prediction.inputs import find_videos

    return [video.read() for video in find_videos(str(path))]


def _read_image(path: Path) -> Any:
    from nlnet.data.media.images import decode_image

    return decode_image(path.read_bytes(), 64, 64)


READERS: Mapping[str, tuple[Callable[[], Iterator[Case]], Callable[[Path], Any]]] = {
    "manifest": (manifests, _read_manifest),
    "json": (jsons, _read_json),
    "yaml": (yamls, _read_yaml),
    "mmconfig": (configurations, _read_config),
    "pickle": (pickles, _read_blobs),
    "tar": (tars, _read_tar),
    "image": (images, _read_image),
}


def main(reader: str, folder: Path) -> None:
    from nlnet.data.media.images import ImageError
    from nlnet.data.shards.reader import SampleError
    from nlnet.errors import UserError

    cases, read = READERS[reader]
    files = [(name, folder / str(k) / file, content) for k, (name, file, content) in enumerate(cases())]
    for _, path, content in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    names = [(name, path) for name, path, _ in files]
    del files
    with contextlib.suppress(UserError, OSError):  # what it imports is no part of any case
        read(folder / "absent" / names[0][1].name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, path in names:
        began = time.monotonic()
        try:
            outcome = f"read: {read(path)!r:.60}"
        except (UserError, SampleError, ImageError, OSError, EOFError) as error:
            outcome = f"refused: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error!s:.200}"
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        print(json.dumps([name, outcome, time.monotonic() - began, peak]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
