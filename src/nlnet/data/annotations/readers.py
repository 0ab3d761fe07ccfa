"""From the name of a data set to the function that reads its annotations; or to one of the user's own."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from nlnet.data.annotations.charades import read_charades
from nlnet.data.annotations.coco import read_coco
from nlnet.data.annotations.coco_check import check_content, describe
from nlnet.data.annotations.coco_plausible import plausibility
from nlnet.data.annotations.kinetics import read_kinetics
from nlnet.data.annotations.records import TASKS, Annotations
from nlnet.data.annotations.something import read_something
from nlnet.errors import UserError, nearest

Reader = Callable[[Any], Annotations]
"""Of a file or folder; those in `OF_SEVERAL` also of several."""

READERS: dict[str, Reader] = {
    "charades": read_charades,
    "kinetics": read_kinetics,
    "something": read_something,
    "coco": read_coco,
}


OF_SEVERAL = ("charades", "kinetics")


def read_annotations(source: Path | tuple[Path, ...], dataset: str, reader: str | None = None) -> Annotations:
    """The annotations in `source`, from the reader of `dataset` or from the function that `reader` names.

    Raises UserError for annotations that cannot be used, and for a reader that cannot be found or returns no such.
    """
    if isinstance(source, tuple) and (reader is not None or dataset not in OF_SEVERAL):
        raise UserError(
            f"annotations={','.join(map(str, source))}: several are read for {' and '.join(OF_SEVERAL)} only; name one"
            " file or folder"
        )
    if reader is None:
        return READERS[dataset](source)
    annotations = _function(reader)(source)
    if not isinstance(annotations, Annotations):
        raise UserError(
            f"reader={reader}: it returned {annotations!r:.80} for {source}, expected"
            " nlnet.data.annotations.records.Annotations"
        )
    _check(annotations, f"reader={reader}")
    return _with_notes(annotations, f"reader={reader}") if annotations.images else annotations


def _function(reader: str) -> Reader:
    module, _, name = reader.rpartition(".")
    if not module:
        raise UserError(f"reader={reader}: expected package.function or package.module.function")
    try:
        found: Any = import_module(module)
    except ImportError as error:
        raise UserError(
            f"reader={reader}: {module} cannot be imported ({error}); is its package installed here, or its folder in"
            " PYTHONPATH?"
        ) from error
    function = getattr(found, name, None)
    if not callable(function):
        what = f"has no {name}" if function is None else f"has a {name} that is no function"
        functions = [key for key, value in vars(found).items() if callable(value) and key[0] != "_"]
        raise UserError(f"reader={reader}: {module} {what}; {nearest(name, functions)}")
    return function


def _check(annotations: Annotations, where: str) -> None:
    """Raises UserError for what a reader of the user's may have got wrong."""
    if annotations.task not in TASKS:
        raise UserError(f"{where}: task {annotations.task!r}; {nearest(str(annotations.task), TASKS)}")
    classes = range(len(annotations.classes))
    for record in annotations.records:
        for index, start, end in record.labels:
            if index not in classes:
                raise UserError(f"{where}: {record.video} has class {index}, expected 0 to {len(classes) - 1}")
            if not 0 <= start <= end:
                raise UserError(f"{where}: {record.video} has a label from {start} s to {end} s")


def _with_notes(annotations: Annotations, where: str) -> Annotations:
    """The annotations of images, each called as its notes call its file. Raises UserError for what is wrong in them."""
    named, plausible = [], {}
    for split in dict.fromkeys(record.split for record in annotations.records):
        content = _content(annotations, split, where)
        if problems := check_content(content):
            first, *further = describe(problems)
            raise UserError(f"{where}, split {split}: {first}", *further)
        plausible[split] = plausibility(content)
        if hopeless := plausible[split].hopeless(split):
            raise UserError(f"{where}: {hopeless}")
        records = (record for record in annotations.records if record.split == split)
        named += [replace(r, video=image["file_name"]) for r, image in zip(records, content["images"], strict=True)]
    return replace(annotations, records=tuple(named), plausible=plausible)


def _content(annotations: Annotations, split: str, where: str) -> dict[str, Any]:
    """The notes of a split's images as one annotation file of COCO."""
    images, rows = [], []
    for record in (record for record in annotations.records if record.split == split):
        try:
            notes = json.loads(record.notes)
            images.append(notes["image"])
            rows += notes["annotations"]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{where}: the notes of {record.video} are {record.notes!r:.80}, expected JSON:"
                ' {"image": ..., "annotations": [...]}, in COCO\'s words'
            ) from None
    return {"images": images, "annotations": rows, "categories": annotations.details.get("categories")}
