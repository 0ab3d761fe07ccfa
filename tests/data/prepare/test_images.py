"""Which file is the image of a record: its name decides, then its split's folder, then that there is but one."""

from pathlib import Path

import pytest

from nlnet.data.annotations.records import Record
from nlnet.data.prepare.images import ImageFiles, in_both


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def find(root: Path, *named: tuple[str, str], formats: tuple[str, ...] = ("jpeg", "png")) -> list[str]:
    """What is found for (split or end of the annotation file's name, file_name): a path, or the cause."""
    records = []
    for end, name in named:
        split = end.removesuffix("2017").replace("valid", "val")
        records.append(Record(name, split, (), ("stem",), folder=end))
    found = ImageFiles(root, root / "out", formats).find(records)
    return [f.relative_to(root).as_posix() if isinstance(f, Path) else f[0] for f in found]


def test_the_exact_path_comes_first(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.jpg", "train2017/a.jpg", "train2017/b.jpg", "x/train2017/c.jpg", "out/a.jpg")
    assert find(root, ("train2017", "a.jpg")) == ["a.jpg"]
    assert find(root, ("val2017", "train2017/b.jpg")) == ["train2017/b.jpg"]
    assert find(root, ("train2017", "train2017/c.jpg")) == ["x/train2017/c.jpg"]
    assert find(root, ("train2017", "./train2017//b.jpg"), ("train2017", "train2017\\b.jpg")) == ["train2017/b.jpg"] * 2
    assert find(root, ("train2017", "../images/b.jpg")) == ["train2017/b.jpg"]
    assert find(root, ("train2017", "/pictures/me/b.jpg"), ("train2017", "C:\\me\\b.jpg")) == ["train2017/b.jpg"] * 2


def test_then_the_folder_of_the_split(tmp_path: Path) -> None:
    root = tree(tmp_path / "1", *(f"{folder}/a.jpg" for folder in ("train", "val", "maps/train", "train/thumbs")))
    assert find(root, ("train2017", "a.jpg"), ("val2017", "a.jpg")) == ["train/a.jpg", "val/a.jpg"]
    root = tree(tmp_path / "3", "x/train/a.jpg", "y/train/a.jpg")
    assert find(root, ("train", "a.jpg")) == ["ambiguous"]
    root = tree(tmp_path / "2", "images/train/a.jpg", "labels/train/a.jpg", "images/valid/a.jpg")
    assert find(root, ("train", "a.jpg"), ("val", "a.jpg")) == ["images/train/a.jpg", "images/valid/a.jpg"]


def test_then_the_only_file_of_that_name(tmp_path: Path) -> None:
    root = tree(tmp_path, "one/a.jpg", "two/b.jpg", "two/c.png", "images/d.png", "masks/d.png")
    named = [("train", name) for name in ("a.jpg", "b.jpg", "d.png")]
    assert find(root, *named) == ["one/a.jpg", "two/b.jpg", "images/d.png"]
    # The same image in both splits is what somebody wants who overfits a few.
    assert find(root, ("train", "a.jpg"), ("val", "a.jpg")) == ["one/a.jpg"] * 2
    assert in_both([("train", root / "x"), ("val", root / "x"), ("val", root / "y")]) == [
        "1 images are in train and val"
    ]


def test_a_file_of_another_name_is_no_image(tmp_path: Path) -> None:
    """A panoptic PNG for a missing JPEG, another case, another suffix, no suffix."""
    root = tree(tmp_path, "train/a.png", "train/B.jpg", "train/c.jpeg", "train/d", "panoptic/train/e.png")
    names = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    assert find(root, *(("train", name) for name in names)) == ["missing"] * 6
    records = [Record(name, "train", (), ("s",)) for name in names]
    details = [found[1] for found in ImageFiles(root, root / "out").find(records)]  # type: ignore[index]
    assert details[0] == f"no a.jpg in {root}; there is train/a.png, another name"
    assert details[5] == f"no f.jpg in {root}"
    assert find(root, ("train", "d")) == ["train/d"]  # the content decides


def test_a_file_of_another_record_or_split_is_no_stand_in(tmp_path: Path) -> None:
    root = tree(tmp_path, "train2017/a.jpg", "val2017/b.jpg", "other/c.jpg")
    assert find(root, ("train2017", "a.jpg"), ("val2017", "a.jpg"), ("val2017", "b.jpg")) == [
        "train2017/a.jpg",
        "missing",
        "val2017/b.jpg",
    ]
    assert find(root, ("train2017", "a.jpg"), ("val2017", "a.jpg")) == ["train2017/a.jpg"] * 2  # a copy of the file
    assert find(root, ("train2017", "other/c.jpg"), ("train2017", "/far/c.jpg")) == ["other/c.jpg", "missing"]
    assert find(root, ("train2017", "/near/c.jpg"), ("train2017", "/far/c.jpg")) == ["missing"] * 2


def test_sequences_are_no_ambiguity_and_their_folders_are_binding(tmp_path: Path) -> None:
    names = [f"{split}/MOT17-0{s}/img1/{k:06d}.jpg" for split in ("train", "val") for s in (0, 1) for k in range(3)]
    root = tree(tmp_path, *names)
    assert find(root, *((name.split("/")[0], name) for name in names)) == names
    short = [(name.split("/")[0], name.split("/", 1)[1]) for name in names]  # without the split
    assert find(root, *short) == names
    (root / names[1]).unlink()
    (root / names[4]).rename(root / "train/MOT17-01/img1/extra.jpg")
    found = find(root, *((name.split("/")[0], name) for name in names))
    assert found == [name if k not in (1, 4) else "missing" for k, name in enumerate(names)]
    (root / names[0]).unlink()
    assert find(root, ("train", names[0])) == ["missing"]  # another sequence has a file of that name


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".bmp", ".webp"])
def test_formats_that_are_read_where_they_are_named(tmp_path: Path, suffix: str) -> None:
    root = tree(tmp_path, f"train/a{suffix}")
    assert find(root, ("train", f"a{suffix}")) == ["format"]
    [(_, detail)] = ImageFiles(root, root / "out").find([Record(f"a{suffix}", "train", (), ("a",))])  # type: ignore[misc]
    assert "name it in data.image_formats=[jpeg,png," in detail
    assert find(root, ("train", f"a{suffix}"), formats=("jpeg", "png", "tiff", "bmp", "webp")) == [f"train/a{suffix}"]


def test_links_are_followed_and_loops_and_dead_ones_are_not(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "train/b.jpg")
    tree(tmp_path / "far", "a.jpg")
    (root / "linked").symlink_to(tmp_path / "far")
    (root / "train" / "loop").symlink_to(root)
    (root / "train" / "dead.jpg").symlink_to(tmp_path / "nothing.jpg")
    named = [("train", name) for name in ("a.jpg", "b.jpg", "dead.jpg")]
    assert find(root, *named) == ["linked/a.jpg", "train/b.jpg", "missing"]
