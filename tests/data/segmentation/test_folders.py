"""Folders of images and masks: as the data sets are released, and everything that can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlnet.data.batches.base import RankSlice
from nlnet.data.segmentation import names
from nlnet.data.segmentation.layouts import IGNORED
from nlnet.data.segmentation.module import SegmentationDataModule
from nlnet.data.synthetic.signs import build
from nlnet.errors import UserError

SIZE = (40, 24)  # width, height
RNG = np.random.default_rng(0)


def image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def mask(path: Path, numbers: np.ndarray, *, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(numbers.astype(np.uint8))
    if palette:
        made.putpalette(list(range(256)) * 3)
    made.save(path)
    return path


def numbers(*values: int) -> np.ndarray:
    """(24, 40) of stripes of these."""
    return np.repeat(np.resize(values, SIZE[0])[None], SIZE[1], axis=0)


def cityscapes(root: Path, split: str, key: str, content: np.ndarray) -> tuple[Path, Path]:
    city = key.split("_")[0]
    found = image(root / "leftImg8bit" / split / city / f"{key}_leftImg8bit.png")
    return found, mask(root / "gtFine" / split / city / f"{key}_gtFine_labelIds.png", content)


def data(root: Path, dataset: str = "cityscapes", **options: object) -> SegmentationDataModule:
    shared = {"batch_size": 1, "num_workers": 0, "crop": (16, 16), "scale": (40, 24)}
    return SegmentationDataModule(str(root), dataset, **shared | options)


def validation(module: SegmentationDataModule) -> list[dict]:
    batches = module.batches(RankSlice(1), train=False)
    return [batches[0, t] for t in range(len(batches))]


def test_cityscapes_ids_become_the_19_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        cityscapes(tmp_path, split, "aachen_000000_000019", numbers(*range(34)))
    module = data(tmp_path)
    assert len(module.classes) == 19 == len(names.CITYSCAPES_IDS)
    [batch] = validation(module)
    row = batch["labels"][0][0].tolist()
    ids = {
        **dict.fromkeys(range(34), IGNORED),
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
    }
    ids |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert row[:34] == [ids[k] for k in range(34)]
    assert module.val_keys[0] == "aachen/aachen_000000_000019"


def test_ade20k_ignores_0_and_counts_from_1(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        image(tmp_path / "images" / split / "ADE_1.jpg")
        mask(tmp_path / "annotations" / split / "ADE_1.png", numbers(0, 1, 2, 150))
    [batch] = validation(data(tmp_path, "ade20k"))
    assert batch["labels"][0][0, :4].tolist() == [IGNORED, 0, 1, 149]
    assert len(names.ADE20K) == len(set(names.ADE20K)) == 150


def test_voc_reads_the_indices_of_palettes_and_its_lists(tmp_path: Path) -> None:
    for name in ("2007_1", "2007_2", "2007_3"):
        image(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask(tmp_path / "SegmentationClass" / f"{name}.png", numbers(0, 20, 255), palette=True)
    mask(tmp_path / "SegmentationClassAug" / "2007_3.png", numbers(5))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainaug.txt").write_text("2007_1\n2007_3\n")
    (lists / "val.txt").write_text("2007_2\n2007_3\n")
    module = data(tmp_path, "voc", train_split="trainaug")
    assert [list(module.train_keys), list(module.val_keys)] == [["2007_1", "2007_3"], ["2007_2", "2007_3"]]
    first, second = validation(module)
    assert first["labels"][0][0, :3].tolist() == [0, 20, IGNORED]
    assert second["labels"][0].unique().tolist() == [5]  # of SBD, where it has the image


def test_batches_are_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    build(tmp_path / "signs", {"train": 12, "val": 5})
    module = data(tmp_path / "signs", batch_size=4, crop=(32, 48), scale=(128, 64))
    whole = module.batches(RankSlice(4), train=True)[1, 2]
    parts = [module.batches(RankSlice(4, rank, 2), train=True)[1, 2] for rank in (0, 1)]
    assert all((a == b).all() for name in ("images", "labels")
               for a, b in zip(whole[name], parts[0][name] + parts[1][name], strict=True))  # fmt: skip
    seen = [i for rank in (0, 1, 2) for t in range(2)
            for b in [module.batches(RankSlice(3, rank, 3), train=False)[0, t]]
            for i, pads in zip(b["indices"].tolist(), b["padding"].tolist(), strict=True) if not pads]  # fmt: skip
    assert sorted(seen) == list(range(5))


def test_image_and_labels_are_cut_and_mirrored_together(tmp_path: Path) -> None:
    """Images whose red channel is the label."""
    (tmp_path / "classes.txt").write_text("".join(f"class {k}\n" for k in range(40)))
    content = np.add.outer(np.arange(24) // 8, np.arange(40) // 8 * 8)
    for split in ("train", "val"):
        picture = np.stack([content * 5, content * 0, content * 0], -1).astype(np.uint8)
        (path := tmp_path / "images" / split / "a.png").parent.mkdir(parents=True)
        Image.fromarray(picture).save(path)
        mask(tmp_path / "masks" / split / "a.png", content)
    module = data(tmp_path, crop=(20, 30), ratio=(1.0, 1.0), color=False)
    batches, sides = module.batches(RankSlice(1), train=True), set()
    for epoch in range(12):
        batch = batches[epoch, 0]
        pixels, labels = batch["images"][0], batch["labels"][0]
        assert pixels.shape == (3, 20, 30)
        assert (pixels[0] == labels * 5).all()
        sides.add(bool(labels[0, 0] < labels[0, -1]))
    assert sides == {True, False}


# ---- what is wrong is said with the file, before anything is trained


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        cityscapes(tmp_path, split, "aachen_000000_000019", numbers(7, 8))
        cityscapes(tmp_path, split, "bonn_000001_000019", numbers(26))
    return tmp_path


def spoil_palette(found: Path, labels: Path) -> None:
    mask(labels, numbers(7), palette=True)


def spoil_colors(found: Path, labels: Path) -> None:
    image(labels)


def spoil_depth(found: Path, labels: Path) -> None:
    Image.fromarray(numbers(7).astype(np.uint16)).save(labels)


def spoil_label(found: Path, labels: Path) -> None:
    content = numbers(7)
    content[5, 3] = 77
    mask(labels, content)


def spoil_size(found: Path, labels: Path) -> None:
    mask(labels, numbers(7)[:, :30])


def spoil_mask(found: Path, labels: Path) -> None:
    labels.unlink()


def spoil_image(found: Path, labels: Path) -> None:
    found.write_bytes(b"not an image")


def transparent(found: Path, labels: Path) -> None:
    Image.open(found).convert("RGBA").save(found)


def sixteen_bits(found: Path, labels: Path) -> None:
    Image.fromarray((numbers(7) * 300).astype(np.uint16)).save(found)


MASK, IMAGE = r"\S*bonn_000001_000019_gtFine_labelIds.png", r"\S*bonn_000001_000019_leftImg8bit.png"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_palette, rf"{MASK}: mask: a palette image, and here masks are gray images of ids"),
        (spoil_colors, rf"{MASK}: mask: not one number a pixel in 8 bits \(8 bits, RGB\)"),
        (spoil_depth, rf"{MASK}: mask: not one number a pixel in 8 bits \(16 bits, I;16\)"),
        (spoil_label, rf"{MASK}: label: the number 77 at column 3, row 5 is no label; Cityscapes has 19 classes"),
        (spoil_size, rf"{MASK}: a mask of 30 x 24 pixels, and its image {IMAGE} has 40 x 24"),
        (spoil_mask, rf"{MASK}: No such file or directory"),
        (spoil_image, rf"{IMAGE}: undecodable: none of jpeg, png"),
        (transparent, rf"{IMAGE}: pixels: an image with transparency \(RGBA\); save it as RGB"),
        (sixteen_bits, rf"{IMAGE}: pixels: 16 bits a channel, and networks are trained on 8; save it with 8"),
    ],
)
def test_a_bad_file_is_named_in_a_line_before_training(root: Path, spoil, message: str) -> None:
    end = Path("train/bonn/bonn_000001_000019")
    spoil(root / "leftImg8bit" / f"{end}_leftImg8bit.png", root / "gtFine" / f"{end}_gtFine_labelIds.png")
    with pytest.raises(UserError, match=rf"^data.shards={root}: {message}") as error:
        data(root)
    assert "\n" not in str(error.value)


def test_many_bad_files_are_counted(root: Path) -> None:
    for k in range(9):
        spoil_size(*cityscapes(root, "train", f"ulm_{k:06d}_000019", numbers(7)))
    with pytest.raises(UserError) as error:
        data(root)
    *shown, last = str(error.value).splitlines()
    assert (len(shown), last) == (5, "and 4 more")


def test_a_label_that_only_reading_finds_fails_its_sample_alone(root: Path) -> None:
    """Masks are looked at as a whole when they are trained on; the first of them sooner."""
    module = data(root)
    spoil_label(*cityscapes(root, "val", "bonn_000001_000019", numbers(7)))
    first, second = validation(module)
    assert (first["failures"], second["failures"]) == ([], [("bonn/bonn_000001_000019", "label")])
    assert "labelIds.png: label: the number 77 at column 3, row 5" in second["errors"]["label"]
    assert second["weights"].tolist() == [0]
    assert second["labels"][0].unique().tolist() == [IGNORED]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, "no images of the split trian as Cityscapes has them; nearest: train"),
        ({"dataset": "cityscape"}, "data.dataset=cityscape: .* has no classes.txt, .*; nearest: cityscapes"),
        ({"crop": (16,)}, r"data.crop=\[16\]: give two numbers above 0"),
        ({"ratio": (2.0, 0.5)}, r"data.ratio=\[2.0, 0.5\]: give the smaller number first"),
        ({"most_of_one": 0}, "data.most_of_one=0: give a fraction above 0"),
        ({"batch_size": 3}, "data.batch_size=3 is more than the 2 training images"),
    ],
)
def test_settings_that_cannot_be_are_refused(root: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        data(root, **options)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"data.shards={tmp_path}/x: there is no such folder"):
        data(tmp_path / "x")
    with pytest.raises(UserError, match=r"data.shards=s3://a/b: images with masks are read from a folder of this"):
        data("s3://a/b")
