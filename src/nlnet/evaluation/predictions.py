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

from nlnet.errors import UserError
from nlnet.evaluation.metrics import KINDS, Metrics, compute_metrics
from nlnet.evaluation.views import combine

FILE = "predictions.parquet"
FORMAT = 1
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
            result |= {f"clip1_{name}": value for name, value in first.items()}
            result |= {f"clip_{name}": value for name, value in each.items()}
        return result | {"videos": torch.tensor(float(len(self.keys)))}, absent

    def save(self, path: Path) -> None:
        """Write the file."""
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
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for first in range(0, len(self.keys), _ROWS):
                writer.write_table(self._rows(slice(first, first + _ROWS), schema))

    def _rows(self, rows: slice, schema: pa.Schema) -> pa.Table:
        views_NVK = self.views[rows]
        count, each, classes = views_NVK.shape
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(views_NVK.reshape(-1)), classes)
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * each)
        columns = [
            pa.array(self.keys[rows]),
            pa.array([_classes_of(target) for target in self.targets[rows]], pa.list_(pa.int32())),
            pa.FixedSizeListArray.from_arrays(pa.array(combine(views_NVK, self.kind).reshape(-1)), classes),
            pa.ListArray.from_arrays(offsets, vectors),
        ]
        return pa.table(columns, schema=schema)


def load(path: Path) -> Predictions:
    """The predictions in a file, or in the folder of the evaluation that wrote it. Raises UserError."""
    file = path / FILE if path.is_dir() else path
    try:
        table = pq.read_table(file)
        about = json.loads((table.schema.metadata or {})[b"nlnet"])
        if about["format"] != FORMAT:
            raise UserError(f"{file}: predictions of format {about['format']!r}; this version of nlnet reads {FORMAT}")
        return _parse(table, about)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; src/eval.py writes {FILE} into its run directory") from None
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: not predictions that src/eval.py wrote: {first}") from error


def _parse(table: pa.Table, about: Mapping[str, Any]) -> Predictions:
    if about["kind"] not in KINDS:
        raise ValueError(f"kind {about['kind']!r}")
    classes = tuple(about["classes"])
    flat = table["views"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    labels = table["targets"].to_pylist()
    if about["kind"] == "multiclass":
        targets = np.array([label[0] for label in labels], dtype=np.int64)
    else:
        targets = np.zeros((len(labels), len(classes)), np.float32)
        for row, label in enumerate(labels):
            targets[row, label] = 1
    return Predictions(
        kind=about["kind"],
        classes=classes,
        keys=tuple(table["key"].to_pylist()),
        targets=targets,
        views=np.array(flat).reshape(table.num_rows, -1, len(classes)),
        protocol=about["protocol"],
        groups=about["groups"],
    )


def _classes_of(target: np.ndarray) -> list[int]:
    return [int(target)] if target.ndim == 0 else np.flatnonzero(target).tolist()
