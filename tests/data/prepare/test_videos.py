"""Which files are taken: several of one name, links, folders and files that cannot be read, other suffixes."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from helpers.preparing import clip, settings
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split\n"
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"


def kinetics(folder: Path, videos: str, split: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"yoga,{video},0,1,{split}\n" for video in videos)
    (folder / f"{split}.csv").write_text(HEADER + rows)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def run(source: Path, out: Path, **more: Any) -> tuple[dict[str, Manifest], list[tuple[str, str, str, str]], list[str]]:
    """The manifests by split, the rows of failures.csv, the lines."""
    said: list[str] = []
    paths = prepare(settings(source, out, "kinetics", **more), said.append)
    manifests = [Manifest.from_json(Path(path).read_text(), path) for path in paths]
    with open(out / "failures.csv", newline="") as file:
        rows = [(r["split"], r["video"], r["cause"], r["detail"]) for r in csv.DictReader(file)]
    return {manifest.split: manifest for manifest in manifests}, sorted(rows), said


def sizes(manifest: Manifest) -> dict[str, int]:
    return {sample.key: sample.frames for sample in manifest.samples}


def test_the_readable_one_of_several_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    source, good, other = tmp_path / "in", clip(1), clip(2, frames=9)
    kinetics(source, "ABCDEF")
    replacements = source / "replacement" / "replacement_for_corrupted_k400"
    put(source / "train" / "A_000000_000001.mp4", good[:300])  # the corrupt one of a pair
    put(replacements / "A_000000_000001.mp4", other)
    put(source / "train" / "B_000000_000001.mp4", good)  # readable both: the replacement is meant
    put(replacements / "B_000000_000001.mp4", other)
    put(source / "train" / "C_000000_000001.mp4", good)  # a replacement that is corrupt itself
    put(replacements / "C_000000_000001.mp4", other[:200])
    put(source / "D.mp4", b"")  # empty, and another suffix
    put(source / "D.webm", other)
    put(source / "E.mp4", good[:250])  # corrupt, and another suffix in no better folder
    put(source / "E.mkv", other)
    put(source / "train" / "F.mp4", good[:250])  # corrupt both
    put(source / "yoga" / "F.mp4", good[:270])
    found, failures, said = run(source, tmp_path / "out")
    assert sizes(found["train"]) == {"A": 9, "B": 9, "C": 8, "D": 9, "E": 9}
    assert [row[:3] for row in failures] == [
        *(("train", video, "not used") for video in "ABCDE"),
        ("train", "F", "undecodable"),
    ]
    details = {row[1]: row[3] for row in failures}
    assert "train/A_000000_000001.mp4" in details["A"]
    assert "D.mp4 has 0 bytes" in details["D"]
    assert details["F"].count("undecodable") == 2
    assert said[0].endswith("; skipped 1 (1 undecodable); 5 other files of the same names not used")


def test_two_that_could_be_it_alike_are_still_an_error(tmp_path: Path) -> None:
    kinetics(tmp_path / "in", "A")
    for name in ("x/A.mp4", "y/A.mp4"):
        put(tmp_path / "in" / name, clip(1))
    with pytest.raises(UserError, match="two files could be the video A"):
        run(tmp_path / "in", tmp_path / "out")


def test_links_are_followed_once_and_broken_ones_are_named(tmp_path: Path) -> None:
    source = tmp_path / "in"
    kinetics(source, "ABCDE")
    put(source / "train" / "A.mp4", clip(1))
    put(tmp_path / "elsewhere" / "B.mp4", clip(2))
    (source / "yoga").mkdir()
    (source / "yoga" / "A.mp4").symlink_to(source / "train" / "A.mp4")  # the same file by two names
    (source / "yoga" / "C.mp4").symlink_to("/nonexistent/C.mp4")
    (source / "yoga" / "D.mp4").symlink_to("D.mp4")
    os.mkfifo(source / "yoga" / "E.mp4")
    (source / "far").symlink_to(tmp_path / "elsewhere")
    (source / "again").symlink_to(tmp_path / "elsewhere")
    (source / "up").symlink_to(source)
    (source / "round").symlink_to("round")
    found, failures, said = run(source, tmp_path / "out")
    assert set(sizes(found["train"])) == {"A", "B"}
    assert [row[:3] for row in failures] == [
        ("train", "C", "missing"),
        ("train", "D", "unreadable"),
        ("train", "E", "unreadable"),
    ]
    assert "is a link to /nonexistent/C.mp4, which is not there" in failures[0][3]
    assert said[0].endswith("skipped 3 (2 unreadable, 1 missing)")


def test_a_folder_that_cannot_be_read_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    kinetics(source, "AB")
    put(source / "A.mp4", clip(1))
    put(source / "locked" / "B.mp4", clip(1))
    scan = os.scandir

    def locked(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    found, failures, said = run(source, tmp_path / "out")
    assert set(sizes(found["train"])) == {"A"}
    assert [(row[0], row[2]) for row in failures] == [("", "unreadable"), ("train", "missing")]
    assert said[-1] == f"kinetics: {source / 'locked'}: Permission denied"


def test_empty_files_and_other_suffixes_are_named(tmp_path: Path) -> None:
    source = tmp_path / "in"
    kinetics(source, "ABCDE")
    put(source / "A.mp4", clip(1))
    put(source / "B.mp4", b"")
    put(source / "C_000000_000001.mp4.part", clip(1))
    put(source / "D.gifv", clip(1))
    put(source / "E.M2TS", clip(1))  # any case, and whatever it really is
    found, failures, _ = run(source, tmp_path / "out")
    assert set(sizes(found["train"])) == {"A", "E"}
    assert [row[:3] for row in failures] == [
        ("train", "B", "empty"),
        ("train", "C", "missing"),
        ("train", "D", "missing"),
    ]
    assert "C_000000_000001.mp4.part has not the suffix of a video" in failures[1][3]
    assert "D.gifv has not the suffix of a video (.3g2, .3gp, " in failures[2][3]


def test_one_file_is_not_two_segments(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "train.csv").write_text(HEADER + "yoga,A,12.2,13.2,train\nyoga,A,12.8,13.8,train\nyoga,B,0.5,1.5,train\n")
    put(source / "A_000012_000013.mp4", clip(1))
    put(source / "B_0.5_1.5.mp4", clip(2))
    found, failures, _ = run(source, tmp_path / "out")
    assert set(sizes(found["train"])) == {"A", "B"}
    [(_, video, cause, detail)] = failures
    assert (video, cause) == ("A", "duplicate")
    assert "its segment from 12.2 s or from 12.8 s; the first row has it" in detail


def test_lists_without_labels_are_said_and_several_can_be_given(tmp_path: Path) -> None:
    source = tmp_path / "in"
    kinetics(source, "A")
    kinetics(source, "B", "validate")
    (source / "test.csv").write_text("youtube_id,time_start,time_end,split\nC,0,1,test\nD,0,1,test\n")
    for video in "ABCD":
        put(source / f"{video}.mp4", clip(1))
    found, failures, said = run(source, tmp_path / "out")
    assert {split: set(sizes(manifest)) for split, manifest in found.items()} == {"train": {"A"}, "val": {"B"}}
    assert [row[:3] for row in failures] == [("test", "test.csv", "no labels")]
    assert said[-1] == f"kinetics: {source / 'test.csv'}: 2 rows have no label and are left out"
    lists = (source / "validate.csv", source / "train.csv")
    found, failures, _ = run(source, tmp_path / "two", annotations=lists)
    assert (set(found), failures) == ({"train", "val"}, [])
    assert found["train"].classes == ("yoga",)


@pytest.mark.parametrize(
    ("case", "annotations", "train", "rows"),
    [
        ("k400_replacement/source", "annotations", 2, [("train", "AAAAAAAAAAA", "not used")]),
        (
            "dangling_symlink",
            "",
            1,
            [("train", "BBBBBBBBBBB", "missing"), ("train", "CCCCCCCCCCC", "missing")],
        ),
        ("unlabelled_test_csv", "", 1, [("test", "kinetics-600_test.csv", "no labels")]),
    ],
)
def test_folders_that_people_brought(
    case: str, annotations: str, train: int, rows: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    if not (CASES / case).is_dir():
        pytest.skip(f"no {CASES / case}")
    source = tmp_path / "in"
    for path in (CASES / case).rglob("*"):
        if path.is_file():
            put(source / path.relative_to(CASES / case), path.read_bytes())
    if case == "dangling_symlink":
        (source / "CCCCCCCCCCC_000000_000010.mp4").symlink_to("/nonexistent")
    found, failures, _ = run(source, tmp_path / "out", annotations=source / annotations, short_side=64)
    assert len(found["train"].samples) == train
    assert [row[:3] for row in failures] == rows
