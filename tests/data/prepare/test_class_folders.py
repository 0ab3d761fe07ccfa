"""A folder of videos for each class, as docs/start.md turns it into shards."""

import math
from pathlib import Path

import pytest

from helpers.document import sections
from helpers.preparing import clip, settings
from nlnet.data.annotations.kinetics import read_kinetics
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.errors import UserError

START = Path(__file__).resolve().parents[3] / "docs" / "start.md"


def test_the_page_makes_the_annotations_of_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in {"jump": 2, "run": 12}.items():
        (tmp_path / "videos" / name).mkdir(parents=True)
        for k in range(count):
            (tmp_path / "videos" / name / f"{k:04d}.mp4").write_bytes(clip(k, frames=4 + k))
    (tmp_path / "videos" / "0001.mp4").write_bytes(clip(99))  # no class's
    (code,) = (code for section in sections(START) for code in section.python)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(START), "exec"), {})

    val, train = (Manifest.from_json(Path(path).read_text(), path) for path in map(str, _prepare(tmp_path)))
    assert (train.split, train.task, train.classes) == ("train", "multiclass", ("jump", "run"))
    assert [(s.key, s.labels) for s in sorted(val.samples, key=lambda s: s.key)] == [
        ("jump_0000", ((0, 0.0, 4 / 8),)),
        ("run_0000", ((1, 0.0, 4 / 8),)),
        ("run_0010", ((1, 0.0, 14 / 8),)),
    ]
    assert sorted(s.frames for s in train.samples) == sorted([5, *(4 + k for k in range(1, 12) if k != 10)])


def _prepare(root: Path) -> list[Path | str]:
    return list(prepare(settings(root / "videos", root / "shards", "kinetics"), lambda _: None))


def test_a_row_without_times_is_the_whole_video_and_half_a_segment_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("label,youtube_id,time_start,time_end,split\nrun,a,,,train\n")
    (record,) = read_kinetics(table).records
    assert (record.start, record.end, record.labels, record.stems) == (None, None, ((0, 0.0, math.inf),), ("a",))
    table.write_text("label,youtube_id,time_start,time_end,split\nrun,a,1,,train\n")
    with pytest.raises(UserError, match=r"labels.csv, line 2: segment '1' to '', expected seconds, 0 <= start < end"):
        read_kinetics(table)
