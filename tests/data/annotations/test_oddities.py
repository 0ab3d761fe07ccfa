"""Annotation files with one mistake or oddity each: none passes in silence or is a traceback, good ones are taken."""

import contextlib
import copy
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers.oddities import KINDS, make, pictures
from helpers.preparing import settings
from nlnet.data.modules.detection import DetectionDataModule
from nlnet.data.prepare.folder import check_folder
from nlnet.data.prepare.run import prepare
from nlnet.errors import UserError
from nlnet.evaluation.coco import average_precisions


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


def module(folder: Path, **more: Any) -> DetectionDataModule:
    defaults = {"masks": False, "batch_size": 1, "num_workers": 0, "short_sides": [48], "max_size": 64}
    return DetectionDataModule(str(folder), **(defaults | more))


def pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """The figures of pycocotools itself, for annotation ids shifted to begin with 1."""
    rows = copy.deepcopy(truth["annotations"])
    first = min(row["id"] for row in rows)
    for row in rows:
        row["id"] += 1 - first
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": rows}
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return [float(value) for value in judged.stats[:6]]


def guesses(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """A detection near most objects, some of another class."""
    rng = random.Random(seed)
    return [
        {
            "image_id": row["image_id"],
            "category_id": row["category_id"] if rng.random() < 0.9 else 4,
            "bbox": [value + rng.randint(-2, 2) for value in row["bbox"][:2]] + row["bbox"][2:],
            "score": round(rng.random(), 1),
        }
        for row in truth["annotations"]
        if rng.random() < 0.9
    ]


def judge(name: str, seed: int, shared: Path, tmp_path: Path, thorough: bool) -> None:
    """What a training, a verification and, if `thorough`, a preparation make of a folder is what is right."""
    kind = KINDS[name]
    folder = make(tmp_path / f"{seed}", shared, kind, seed)
    out, said = tmp_path / f"out{seed}", list[str]()
    if kind.outcome == "refused":
        with pytest.raises(UserError) as raised:
            module(folder)
        assert kind.words in str(raised.value), (name, str(raised.value))
        _refused_elsewhere(folder, out if thorough else None, kind.words, name)
        return
    data = module(folder)
    told = [f"{problem.where}: {problem.detail}" for problem in check_folder(folder)]
    lists = [data.remarks, told]
    if thorough:
        prepare(settings(folder, out, "coco"), said.append)
        lists += [said[:-2], module(out).remarks]
    for lines in lists:
        wanted = not lines if kind.outcome == "fine" else any(kind.words in line for line in lines)
        assert wanted, (name, lines)
    if not thorough:
        return
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    assert all(batch["failures"] == [] for batch in batches), name
    truth = data.ground_truth()
    results = guesses(truth, seed)
    ours = average_precisions(truth, results, "box")
    assert list(ours.values()) == pytest.approx(pycocotools(truth, results), abs=1e-12), name


def _refused_elsewhere(folder: Path, out: Path | None, words: str, name: str) -> None:
    """By the verification, and by the preparation: at once, or with the image in the list of failures."""
    if words != "no object in the split":  # test images have none
        found = _said(lambda: [f"{problem.cause}: {problem.detail}" for problem in check_folder(folder)])
        assert words in found, (name, found)
        if out is None:
            return
        made = _said(lambda: prepare(settings(folder, out, "coco"), lambda _: None))
        assert words in made or words in (out / "failures.csv").read_text(), (name, made)


def _said(act: Callable[[], Any]) -> str:
    try:
        return str(act())
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind(name: str, shared: Path, tmp_path: Path) -> None:
    judge(name, 1000 + list(KINDS).index(name), shared, tmp_path, thorough=False)


@pytest.mark.full
def test_two_of_every_kind(shared: Path, tmp_path: Path) -> None:
    names = list(KINDS)
    assert len(names) >= 100
    for k, name in enumerate(names * 2):
        judge(name, k, shared, tmp_path, thorough=True)
