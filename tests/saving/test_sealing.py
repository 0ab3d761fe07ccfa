"""Damaged files are found: every bit counts."""

import errno
import io
import os
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlnet.checkpoints.files import read_file
from nlnet.errors import UserError
from nlnet.sealing import check_whole, is_whole, save_sealed

CONTENT: dict[str, Any] = {
    "state_dict": {f"layer{k}": torch.randn(40 + k, generator=torch.Generator().manual_seed(k)) for k in range(8)},
    "global_step": 7,
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / "a.ckpt"
    save_sealed(CONTENT, path)
    return path.read_bytes()


def places(data: bytes, count: int) -> Iterator[int]:
    """Bytes of every part: headers, the pickle, tensors, padding, the directory, its end, the seal."""
    end = data.rindex(b"PK\5\6")
    directory = data.index(b"PK\1\2")
    bounds = [0, 64, 1500, directory, end, end + 20, len(data)]
    rng = np.random.default_rng(len(data))
    for first, last in pairwise(bounds):
        yield from rng.integers(first, last, count // 6 + 1).tolist()


def test_everybody_reads_a_sealed_file(sealed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(sealed)
    for read in (
        torch.load(path, weights_only=True),
        torch.load(path, weights_only=True, mmap=True),
        torch.load(io.BytesIO(sealed), weights_only=True),
        read_file(path),
    ):
        assert read["global_step"] == 7
        assert all(torch.equal(read["state_dict"][name], value) for name, value in CONTENT["state_dict"].items())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    plain = io.BytesIO()
    torch.save(CONTENT, plain)
    length = len(plain.getvalue())
    differing = [k for k in range(length) if plain.getvalue()[k] != sealed[k]]
    assert differing == [length - 2]  # the length of the comment


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.full)])
def test_a_flipped_bit_is_refused_and_the_way_out_is_named(sealed: bytes, tmp_path: Path, count: int) -> None:
    path = tmp_path / "last.ckpt"
    (tmp_path / "last-1.ckpt").write_bytes(sealed)
    accepted, rng = [], np.random.default_rng(0)
    for place in places(sealed, count):
        data = bytearray(sealed)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read_file(path, "ckpt_path=")
        except UserError as error:
            text = str(error)
            assert text.startswith(f"ckpt_path={path}: damaged"), text
            assert text.endswith(f"ckpt_path={tmp_path / 'last-1.ckpt'}"), text
            assert "weights_only" not in text
        else:
            accepted.append(place)
    assert accepted == []


@pytest.mark.parametrize("offset", [0, 1 << 12, 1 << 16, -(1 << 12)])
def test_zeros_and_a_cut_are_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "a.ckpt"
    save_sealed({"a": torch.arange(1 << 16)}, path)
    data = bytearray(path.read_bytes())
    begin = offset % len(data)
    data[begin : begin + 4096] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged since it was written.*copy it again"):
        read_file(path)
    for length in (100, 4096, len(data) - 1):
        save_sealed({"a": torch.arange(1 << 16)}, path)
        os.truncate(path, length)
        assert not is_whole(path)


def test_a_file_without_a_seal_is_held_against_its_archives_checksums(tmp_path: Path) -> None:
    path = tmp_path / "older.ckpt"
    torch.save(CONTENT, path)
    good = path.read_bytes()
    assert read_file(path)["global_step"] == 7
    for value in CONTENT["state_dict"].values():
        data = bytearray(good)
        data[good.index(value.numpy().tobytes()) + 5] ^= 4
        path.write_bytes(data)
        with pytest.raises(UserError, match="Bad CRC-32"):
            read_file(path)
        assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["layer0"], torch.zeros(40))
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    check_whole(path)  # of other kinds nothing is known


def test_what_is_read_back_is_compared_with_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes other bytes than it is given."""

    class Forgetful(io.FileIO):
        def write(self, data: Any) -> int:
            flipped = bytearray(data)
            if len(flipped) > 150:
                flipped[100] ^= 1
            return super().write(flipped)

    monkeypatch.setattr("builtins.open", lambda path, mode: Forgetful(path, mode))
    with pytest.raises(OSError, match="read back otherwise"):
        save_sealed(CONTENT, tmp_path / "a.ckpt")


def test_a_disk_that_fails_half_way_is_an_oserror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's writer ends the process where a stream fails under it."""

    class Full(io.FileIO):
        taken = 0

        def write(self, data: Any) -> int:
            self.taken += len(data)
            if self.taken > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr("builtins.open", lambda path, mode: Full(path, mode))
    with pytest.raises(OSError, match="No space left"):
        save_sealed(CONTENT, tmp_path / "a.ckpt")
