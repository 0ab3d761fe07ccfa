"""`predictions.parquet`: every video's scores, so that a metric can be computed again, models fused and compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from nlnet import limits
from nlnet.errors import UserError
from nlnet.evaluation.metrics import KINDS, Metrics, compute_metrics
from nlnet.evaluation.views import combine
from nlnet.limits import TooLarge
from nlnet.reading import parse_json
from nlnet.saving import replacing

FILE = "predictions.parquet"
DETECTIONS = "predictions.json"
"""What an evaluation of a detector writes instead, in COCO's result format."""
FORMAT = 1
_WRONG = (KeyError, ValueError, TypeError, OSError, IndexError, AttributeError, RecursionError)  # of a foreign file
_OF_CLIPS = ("mAP", "top1", "top5")
_ROWS = 256  # written at a time: with 30 views of 400 classes, 12 MB


@dataclass(frozen=True)
class Predictions:
    """The scores of N videos from V views each, over K classes.

    In the file a row is a video: `key`; `targets`, the indices of its classes; `scores` (K), combined over the views
    as `nlnet.evaluation.views.combine` does; `views` (V, K), crop by crop and clip by clip within a crop. The schema's
    metadata holds, under "nlnet" as JSON, the kind, the names of the classes, their groups and the protocol.

    Args:
        kind: "multilabel" or "multiclass".
        classes: the names of the classes.
        keys: the videos.
        targets: (N, K) of 0 and 1 for multilabel, (N,) class indices for multiclass.
        views: (N, V, K) float32.
        protocol: how the views were taken; plain values.
        groups: named sets of class indices that are reported apart.
    """

    kind: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    targets: np.ndarray
    views: np.ndarray
    protocol: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for scores that are not finite: whatever is computed of them would be no figure."""
        bad = ~np.isfinite(self.views).all((1, 2))
        if bad.any():
            names = [key for key, spoiled in zip(self.keys, bad.tolist(), strict=True) if spoiled]
            more = f", and {len(names) - 64} more" if len(names) > 64 else ""
            raise UserError(
                f"the scores of {len(names)} videos are not finite, and no metric is made of them:"
                f" {', '.join(names[:64])}{more}; look at these videos, or take weights of an earlier step"
            )

    @property
    def scores(self) -> np.ndarray:
        """(N, K) float32, combined over the views."""
        return combine(self.views, self.kind)

    def metrics(self, further: Metrics | None = None) -> tuple[dict[str, Tensor], list[int]]:
        """The metrics of the videos; and of single views where there are several; and the classes without a video.

        `clip1_...` are of each video's first view, in the first clip; `clip_...` take every view as a sample of its
        own. Both are the sanity checks of the official test.
        """
        targets = torch.from_numpy(self.targets)
        scores = torch.from_numpy(self.scores)
        result, absent = compute_metrics(self.kind, scores, targets, self.groups, further)
        count = self.views.shape[1]
        if count > 1:
            views = torch.from_numpy(self.views)
            first, _ = compute_metrics(self.kind, views[:, 0], targets)
            each, _ = compute_metrics(self.kind, views.flatten(0, 1), targets.repeat_interleave(count, 0))
            result |= {f"clip1_{name}": first[name] for name in _OF_CLIPS if name in first}
            result |= {f"clip_{name}": each[name] for name in _OF_CLIPS if name in each}
        return result | {"videos": torch.tensor(float(len(self.keys)))}, absent

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises UserError if the disk does not take it."""
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "classes": list(self.classes),
            "groups": {name: list(members) for name, members in self.groups.items()},
            "protocol": dict(self.protocol),
        }
        vector = pa.list_(pa.float32(), len(self.classes))
        columns = {"key": pa.string(), "targets": pa.list_(pa.int32()), "scores": vector, "views": pa.list_(vector)}
        schema = pa.schema(list(columns.items()), metadata={"nlnet": json.dumps(about)})
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for first in range(0, len(self.keys), _ROWS):
                writer.write_table(self._rows(slice(first, first + _ROWS), schema))

    def _rows(self, rows: slice, schema: pa.Schema) -> pa.Table:
        views_NVK = self.views[rows]
        count, each, classes = views_NVK.shape
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(views_NVK.reshape(-1)), classes)
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * each)
        columns = [
            pa.array([key.encode(errors="backslashreplace").decode() for key in self.keys[rows]], pa.string()),
            pa.array([_classes_of(target) for target in self.targets[rows]], pa.list_(pa.int32())),
            pa.FixedSizeListArray.from_arrays(pa.array(combine(views_NVK, self.kind).reshape(-1)), classes),
            pa.ListArray.from_arrays(offsets, vectors),
        ]
        return pa.table(columns, schema=schema)


def is_detection(path: Path) -> bool:
    """Whether `path` is a file of detections, or the folder of an evaluation that wrote no other predictions."""
    if path.is_dir():
        return (path / DETECTIONS).is_file() and not (path / FILE).is_file()
    return path.suffix == ".json"


def load(path: Path) -> Predictions:
    """The predictions in a file, or in the folder of the evaluation that wrote it. Raises UserError."""
    file = path / FILE if path.is_dir() else path
    try:
        if not file.is_file():
            raise FileNotFoundError(file)
        with pq.ParquetFile(file, read_dictionary=["key"]) as parquet:
            _check_size(parquet.metadata, file)
            table = parquet.read()
        about = parse_json((table.schema.metadata or {})[b"nlnet"], "")
        if not isinstance(about, dict):
            raise ValueError("its metadata is no object")
        if about["format"] != FORMAT:
            raise UserError(f"{file}: predictions of format {about['format']!r}; this version of nlnet reads {FORMAT}")
        return _parse(table, about)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; src/eval.py writes {FILE} into its run directory") from None
    except TooLarge:
        raise
    except (pa.ArrowException, LookupError, ValueError, TypeError, AttributeError, MemoryError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: not predictions that src/eval.py wrote: {first}") from error


def _check_size(metadata: pq.FileMetaData, file: Path) -> None:
    """Encodings say in a few bytes what takes gigabytes: a run of equal values, compressed zeros."""
    groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
    columns = [group.column(k) for group in groups for k in range(group.num_columns)]
    values = sum(column.num_values for column in columns) + metadata.num_rows
    unpacked = sum(column.total_uncompressed_size for column in columns)
    limits.UNPACKED.check_unpacked(max(unpacked, 8 * values), file.stat().st_size, file)


def _parse(table: pa.Table, about: Mapping[str, Any]) -> Predictions:
    if about["kind"] not in KINDS:
        raise ValueError(f"kind {about['kind']!r}")
    classes = tuple(about["classes"])
    limits.CLASSES.check(len(classes))
    limits.UNPACKED.check_unpacked(4 * table.num_rows * len(classes), table.nbytes)
    groups, protocol = dict(about["groups"]), dict(about["protocol"])
    if not isinstance(about["classes"], list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are no list of names")
    known = range(len(classes))
    if not all(isinstance(k, int) and k in known for members in groups.values() for k in members):
        raise ValueError("its groups are no lists of classes")
    flat = table["views"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    labels, keys = table["targets"].to_pylist(), tuple(table["key"].to_pylist())
    if not all(isinstance(key, str) for key in keys) or not all(k in known for label in labels for k in label):
        raise ValueError("a row without a name, or with a class that there is not")
    if about["kind"] == "multiclass":
        targets = np.array([label[0] for label in labels], dtype=np.int64)
    else:
        targets = np.zeros((len(labels), len(classes)), np.float32)
        for row, label in enumerate(labels):
            targets[row, label] = 1
    return Predictions(
        kind=about["kind"],
        classes=classes,
        keys=keys,
        targets=targets,
        views=np.array(flat).reshape(table.num_rows, -1, len(classes)),
        protocol=protocol,
        groups=groups,
    )


def _classes_of(target: np.ndarray) -> list[int]:
    return [int(target)] if target.ndim == 0 else np.flatnonzero(target).tolist()
