"""Patches with noise: the same bits on any number of ranks and workers, and what they are made of."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.photographs import SIZES, picture, write_photographs
from nlnet.data.batches.base import RankSlice
from nlnet.data.restoration.batches import NoiseSettings, NoisyBatches, random_patch
from nlnet.data.restoration.folder import ImageFolder, read_split
from nlnet.data.restoration.module import RestorationDataModule
from nlnet.data.restoration.noise import EVALUATION, generator, noisy
from nlnet.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def split(folder: Path, name: str = "train") -> ImageFolder:
    return read_split(str(folder), "photographs", name, ("jpeg", "png"))


def batches(folder: Path, part: RankSlice, *, train: bool = True, seed: int = 0, **noise) -> NoisyBatches:
    settings = NoiseSettings(**{"sigma": (25.0, 25.0), "patch_size": 16, "patches_per_image": 8, **noise})
    name = "train" if train else "val"
    return NoisyBatches(split(folder, name), settings, part, seed=seed, window=10, train=train)


def whole_epoch(made: NoisyBatches, epoch: int) -> dict[str, torch.Tensor]:
    parts = [made[(epoch, t)] for t in range(len(made))]
    return {name: torch.cat([part[name] for part in parts]) for name in ("indices", "inputs", "targets", "sigma")}


def test_an_epoch_is_the_same_bits_on_any_number_of_ranks_and_parts(folder: Path) -> None:
    alone = whole_epoch(batches(folder, RankSlice(8), sigma=(0.0, 55.0)), 3)
    assert sorted(alone["indices"].tolist()) == list(range(24))  # every patch of every image once
    parts = [batches(folder, RankSlice(8, rank, 2, 2), sigma=(0.0, 55.0)) for rank in (0, 1)]
    again = [made[(3, t)] for t in range(6) for made in parts]
    for name in ("indices", "inputs", "targets", "sigma"):
        assert torch.equal(alone[name], torch.cat([part[name] for part in again])), name


def test_a_sample_depends_on_seed_epoch_and_itself_alone(folder: Path) -> None:
    made = batches(folder, RankSlice(4))
    first, again = made[(1, 2)], batches(folder, RankSlice(4))[(1, 2)]  # without what came before
    assert torch.equal(first["inputs"], again["inputs"])
    for other in (batches(folder, RankSlice(4), seed=1)[(1, 2)], made[(2, 2)]):
        assert not torch.equal(first["inputs"], other["inputs"])
    epoch = whole_epoch(made, 0)
    noise = {tensor.numpy().tobytes() for tensor in epoch["inputs"] - epoch["targets"]}
    assert len(noise) == 24


def test_a_training_patch_is_one_of_its_image_and_the_noise_is_that_of_its_deviation(folder: Path) -> None:
    epoch = whole_epoch(batches(folder, RankSlice(8), sigma=(10.0, 50.0), patches_per_image=80), 0)
    files = [Image.open(path).convert("L") for path in split(folder).paths.values()]
    images = [np.asarray(image) for image in files]
    clean = (epoch["targets"] * 255).round().byte().numpy()
    for index, patch in list(zip(epoch["indices"].tolist(), clean, strict=True))[:24]:
        windows = np.lib.stride_tricks.sliding_window_view(images[index // 80], (16, 16))
        turned = [np.rot90(p, k) for p in (patch[0], patch[0, :, ::-1]) for k in range(4)]
        assert any((windows == t).all((2, 3)).any() for t in turned)
    noise = (epoch["inputs"] - epoch["targets"]) * 255
    ratio = noise.double().flatten(1).std(1) / epoch["sigma"]
    assert ratio.mean().item() == pytest.approx(1, abs=0.01)
    assert noise.mean().abs() < 0.2
    assert 10 <= epoch["sigma"].min() < 12
    assert 48 < epoch["sigma"].max() <= 50
    assert epoch["inputs"].min() < 0  # not clipped


def test_whole_images_are_scored_with_the_same_noise_by_every_run(folder: Path) -> None:
    for seed in (0, 1):
        made = batches(folder, RankSlice(2), train=False, seed=seed, channels=3)
        found = [made[(epoch, t)] for epoch, t in ((0, 0), (7, 1))]
        weights = torch.cat([batch["weights"] for batch in found])
        assert weights.tolist() == [1, 1, 1, 0]  # padded
        keys = list(made.paths)
        assert keys == ["0.png", "2.png", "deep/1.png"]
        pixels = picture(*SIZES["val"][0], 10).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        assert np.array_equal(found[0]["targets"][0].numpy(), pixels)
        rng = generator(EVALUATION, 0, "0.png")
        rng.uniform(25, 25)
        assert np.array_equal(found[0]["inputs"][0].numpy(), noisy(pixels, 25, rng))
        gray = found[0]["targets"][1]
        assert torch.equal(gray[0], gray[1])


def test_the_eight_orientations_are_equally_often() -> None:
    pixels, rng = np.arange(4, dtype=np.uint8).reshape(1, 2, 2), np.random.default_rng(0)
    counts: dict[bytes, int] = {}
    for _ in range(4000):
        patch = random_patch(pixels, 2, rng, flip=True).tobytes()
        counts[patch] = counts.get(patch, 0) + 1
    assert len(counts) == 8
    assert all(420 < count < 580 for count in counts.values())
    assert random_patch(pixels, 2, rng, flip=False).tobytes() == pixels.tobytes()


@pytest.mark.full
def test_workers_change_no_bit(folder: Path) -> None:
    common = {"patch_size": 16, "patches_per_image": 8, "batch_size": 4, "sigma": [0, 55], "seed": 5}
    found = []
    for workers in (0, 1):
        data = RestorationDataModule(str(folder), num_workers=workers, **common)
        found.append([batch["inputs"] for batch in data.train_dataloader()])
        data.close()
    assert len(found[0]) == 6
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_picture_that_is_spoiled_later_counts_as_unreadable(folder: Path, tmp_path: Path) -> None:
    made = batches(write_photographs(tmp_path / "own"), RankSlice(24))
    path = made.paths["2.png"]
    path.write_bytes(path.read_bytes()[:-40])
    batch = made[(0, 0)]
    assert batch["weights"].sum() == 16
    assert set(batch["failures"]) == {("2.png", "undecodable")}
    assert str(path) in batch["errors"]["undecodable"]


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


RGB = picture(40, 40, 0)
BAD = {
    "RGBA": (lambda path: save(path, Image.fromarray(RGB).convert("RGBA")), "it has transparency"),
    "gray with alpha": (lambda path: save(path, Image.fromarray(RGB).convert("LA")), "it has transparency"),
    "16 bits gray": (
        lambda path: save(path, Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)),
        "it has more than 8 bits a channel",
    ),
    "smaller than a patch": (
        lambda path: save(path, Image.fromarray(RGB[:30])),
        r"40 x 30 pixels, less than data.patch_size=32",
    ),
    "no image": (lambda path: path.write_bytes(b"no image at all"), "undecodable"),
    "nothing": (lambda path: path.write_bytes(b""), "undecodable"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named_before_anything_is_trained(kind: str, tmp_path: Path) -> None:
    write_photographs(tmp_path)
    write, message = BAD[kind]
    path = tmp_path / "train" / "deep" / "bad.png"
    write(path)
    with pytest.raises(UserError, match=message) as raised:
        RestorationDataModule(str(tmp_path), patch_size=32)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_png_of_16_bits_in_color_is_told_by_its_header(tmp_path: Path) -> None:
    """Pillow would make 8 bits of it without a word."""
    pixels = np.pad(RGB.astype(">u2").reshape(40, -1).view(np.uint8), ((0, 0), (1, 0)))  # a filter byte before each row
    parts = (
        b"IHDR" + struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(pixels.tobytes()),
        b"IEND",
    )
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    (write_photographs(tmp_path) / "train" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with Image.open(tmp_path / "train" / "deep.png") as image:
        assert image.mode == "RGB"
    with pytest.raises(UserError, match=r"deep\.png: .*more than 8 bits a channel"):
        RestorationDataModule(str(tmp_path), patch_size=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "nothing"}, "there is no folder nothing in it; put the images to train on"),
        ({"train_split": "empty"}, r"no image \(.*\.png.*\) in "),
        ({"channels": 2}, "data.channels=2: give 1"),
        ({"sigma": [50, 10]}, r"data.sigma=\[50, 10\]: give a deviation"),
        ({"batch_size": 100}, "data.batch_size=100 is more than the 24 training patches"),
        ({"shards": "s3://bucket/images"}, "images are read from a folder of this machine"),
    ],
)
def test_what_cannot_be_is_refused_in_words(folder: Path, options: dict, message: str) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        RestorationDataModule(**{"shards": str(folder), "patch_size": 16, "patches_per_image": 8, **options})
