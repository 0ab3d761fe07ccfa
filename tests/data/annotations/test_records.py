"""The annotation readers: what the releases say, and each mistake by file, line and value."""

from pathlib import Path

import pytest

from nlnet.data.annotations.charades import read_charades
from nlnet.data.annotations.kinetics import read_kinetics
from nlnet.errors import UserError

HEADER = "id,subject,actions,length\n"
KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_charades_as_released(tmp_path: Path) -> None:
    (tmp_path / "Charades_v1_train.csv").write_text(
        HEADER + 'A1,"a person, sitting",c092 11.90 21.20;c147 0.00 12.60,24.8\nB2,x,,10.0\n'
    )
    (tmp_path / "Charades_v1_test.csv").write_text(HEADER + "C3,x,c000 1 1,2\n")
    annotations = read_charades(tmp_path)
    assert annotations.task == "multilabel"
    assert annotations.classes == tuple(f"c{i:03d}" for i in range(157))
    assert [(r.video, r.split, r.labels) for r in annotations.records] == [
        ("A1", "train", ((92, 11.9, 21.2), (147, 0.0, 12.6))),
        ("B2", "train", ()),
        ("C3", "test", ((0, 1.0, 1.0),)),
    ]
    assert {(r.start, r.end) for r in annotations.records} == {(None, None)}


def test_charades_class_names(tmp_path: Path) -> None:
    (tmp_path / "Charades_v1_test.csv").write_text(HEADER + "C3,x,c001 1 2,2\n")
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    annotations = read_charades(tmp_path)
    assert annotations.classes == ("c000 Holding some clothes", "c001 Putting clothes somewhere")
    assert annotations.records[0].labels == ((1, 1.0, 2.0),)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("A1,x,c157 0 1,2\n", ["line 2", "'c157'", "157 classes", "nearest: c15"]),
        ("A1,x,,2\nB2,x,c001 5.0 1.0,2\n", ["line 3", "'c001 5.0 1.0'", "0 <= start <= end"]),
        ("A1,x,c001 0 nan,2\n", ["line 2", "'c001 0 nan'"]),
        ("A1,x,c001 zero 1,2\n", ["line 2", "'c001 zero 1'", "c092 11.90 21.20"]),
        ("A1,x,c001 -1 1,2\n", ["line 2", "'c001 -1 1'"]),
        ("A1,x,c001 1,2\n", ["line 2", "'c001 1'", "<class> <start s> <end s>"]),
        ("A1\n", ["line 2", "fewer fields"]),
        (",x,c001 0 1,2\n", ["line 2", "id is empty"]),
    ],
)
def test_charades_mistakes(tmp_path: Path, rows: str, words: list[str]) -> None:
    path = tmp_path / "Charades_v1_train.csv"
    path.write_text(HEADER + rows)
    with pytest.raises(UserError) as caught:
        read_charades(tmp_path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_charades_files_that_are_not_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        UserError, match=r"no Charades_v1_train\.csv or Charades_v1_test\.csv here; it holds notes\.txt"
    ):
        read_charades(tmp_path)
    path = tmp_path / "Charades_v1_train.csv"
    path.write_text("video;actions\n")
    with pytest.raises(UserError, match=r"line 1: no column id, actions in the header 'video;actions'"):
        read_charades(tmp_path)
    path.write_bytes(HEADER.encode() + b"\xff\xfe,x,,2\n")
    with pytest.raises(UserError, match="cannot be read as a CSV file in UTF-8"):
        read_charades(tmp_path)
    path.write_text(HEADER)
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 a\nc000 a\n")
    with pytest.raises(UserError, match="'c000 a' occurs twice"):
        read_charades(tmp_path)


def test_kinetics_as_released(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(KINETICS + "yoga,-aB_3,12,22,train\n")
    (tmp_path / "validate.csv").write_text(
        "\ufeff" + KINETICS.replace("split", "split,is_cc") + '"air, drumming",x,0,10,validate,0\n'
    )
    annotations = read_kinetics(tmp_path)
    assert (annotations.task, annotations.classes) == ("multiclass", ("air, drumming", "yoga"))
    train, val = annotations.records
    assert (train.video, train.split, train.labels, train.folder) == ("-aB_3", "train", ((1, 0.0, 10.0),), "yoga")
    assert (train.stems, train.start, train.end) == (("-aB_3_000012_000022", "-aB_3"), 12.0, 22.0)
    assert (val.split, val.labels) == ("val", ((0, 0.0, 10.0),))
    assert read_kinetics(tmp_path / "train.csv").classes == ("yoga",)
    (tmp_path / "classes.txt").write_text("zumba\nyoga\nair, drumming\n")
    assert [r.labels[0][0] for r in read_kinetics(tmp_path).records] == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("youtube_id,time_start,time_end,split\n", ["line 1", "no column label"]),
        (KINETICS + "yoga,x,0,10,holdout\n", ["line 2", "'holdout'", "validate"]),
        (KINETICS + "yoga,x,10,10,train\n", ["line 2", "empty"]),
        (KINETICS + "yoga,x,10,2,train\n", ["line 2", "'10' to '2'"]),
        (KINETICS + "yoga,x,,2,train\n", ["line 2", "'' to '2'"]),
        (KINETICS + "jogging,x,0,2,train\n", ["line 2", "'jogging'", "classes.txt"]),
    ],
)
def test_kinetics_mistakes(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "classes.txt").write_text("yoga\n")
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_kinetics(tmp_path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_kinetics_without_a_csv(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CSV file here; it is empty"):
        read_kinetics(tmp_path)


def test_kinetics_test_lists_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(KINETICS + "yoga,A,0,10,train\n")
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nB,0,10,test\nC,0,10,test\n")
    annotations = read_kinetics(tmp_path)
    assert [r.video for r in annotations.records] == ["A"]
    assert [(split, name) for split, name, _ in annotations.left_out] == [("test", "test.csv")]
    assert "2 rows have no label" in annotations.left_out[0][2]
    (tmp_path / "mixed.csv").write_text(KINETICS + "yoga,D,0,10,test\n,E,0,10,test\n")
    annotations = read_kinetics([tmp_path / "train.csv", tmp_path / "mixed.csv"])
    assert [r.video for r in annotations.records] == ["A", "D"]
    assert "1 rows have no label" in annotations.left_out[0][2]
    (tmp_path / "mixed.csv").write_text(KINETICS + ",E,0,10,train\n")
    with pytest.raises(UserError, match=r"mixed\.csv, line 2: label is empty"):
        read_kinetics(tmp_path)
    (tmp_path / "mixed.csv").write_text("youtube_id,time_start,time_end,split\nE,0,10,train\n")
    with pytest.raises(UserError, match=r"mixed\.csv, line 1: no column label"):
        read_kinetics(tmp_path)


@pytest.mark.parametrize(
    ("start", "end", "names"),
    [
        ("12", "22.0", ["A_000012_000022"]),
        ("12.5", "22.5", ["A_12.5_22.5", "A_000012_000022", "A_000012_000023"]),
        ("13.5", "23.5", ["A_13.5_23.5", "A_000013_000023", "A_000014_000024", "A_000013_000024"]),
        ("0.04", "10.04", ["A_0.04_10.04", "A_000000_000010", "A_000000_000011"]),
    ],
)
def test_kinetics_seconds_with_fractions(tmp_path: Path, start: str, end: str, names: list[str]) -> None:
    (tmp_path / "train.csv").write_text(KINETICS + f"yoga,A,{start},{end},train\n")
    [record] = read_kinetics(tmp_path).records
    assert record.stems == (*names, "A")
    assert (record.start, record.end) == (float(start), float(end))
    assert record.labels == ((0, 0.0, float(end) - float(start)),)


def test_charades_files_by_their_names(tmp_path: Path) -> None:
    files = [tmp_path / "Charades_v1_train.csv", tmp_path / "my_test.csv"]
    for k, path in enumerate(files):
        path.write_text(HEADER + f"V{k},x,c001 0 1,2\n")
    assert [(r.video, r.split) for r in read_charades(files).records] == [("V0", "train"), ("V1", "test")]
    assert [r.video for r in read_charades(files[1]).records] == ["V1"]
    other = tmp_path / "notes.csv"
    other.touch()
    with pytest.raises(UserError, match=r"notes\.csv: no Charades_v1_train\.csv or Charades_v1_test\.csv is this"):
        read_charades(other)
