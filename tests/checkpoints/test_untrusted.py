"""Files that try to run something: refused in every format that is read, and nothing is run."""

import copyreg
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import py2_pickle
from nlnet import from_pretrained
from nlnet.checkpoints import SOURCES, convert
from nlnet.checkpoints.sources.caffe2_pickle import read_blobs
from nlnet.errors import UserError

TORCH_SOURCES = [name for name in SOURCES if name != "caffe2"]


class Touch:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def test_the_attack_works_where_nothing_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "control"
    pickle.loads(pickle.dumps(Touch(path)))
    assert path.exists()
    text = tmp_path / "control of a text"
    pickle.loads(calls(text)["REDUCE"])
    assert text.exists()


def calls(path: Path) -> dict[str, bytes]:
    """The ways a pickle has of calling something, as texts of protocol 0 and 1."""
    argument = f"S'{path}'\n".encode()
    made = b"cpathlib\nPath\n(" + argument + b"tR"
    touch = b"cbuiltins\ngetattr\n(" + made + b"S'touch'\ntR"
    return {
        "REDUCE": touch + b"(tR.",
        "INST": b"(S'open(" + repr(str(path)).encode().replace(b"'", b'"') + b', "w")\'\nibuiltins\neval\n.',
        "OBJ": b"(cbuiltins\neval\nS'open(" + repr(str(path)).encode().replace(b"'", b'"') + b', "w")\'\no.',
        "NEWOBJ": b"\x80\x02cpathlib\nPath\n(" + argument + b"t\x81.",
        "inside blobs": b"(dS'blobs'\n(dS'conv1_w'\n" + touch + b"(tRss.",
        "as a dtype": b"cnumpy\ndtype\n(" + touch + b"(tRI0\nI1\ntR.",
        "persistent id": b"Ppickle-cloud\n.",
        "ndarray": b"cnumpy\nndarray\n((I2\ntS'f4'\ntR.",
        "other encoding": b"c_codecs\nencode\n(S'x'\nS'idna'\ntR.",
        "BUILD on a callable": b"c_codecs\nencode\n(dS'__defaults__'\n(ltsb.",
        "object array": b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
        "submodule": b"cnumpy.core.multiarray\nfromfile\n(" + argument + b"tR.",
    }


@pytest.mark.parametrize("name", calls(Path("x")))
def test_caffe2(name: str, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(calls(marker)[name])
    with pytest.raises(UserError, match="not a Caffe2 file that can be read safely"):
        convert(path, "caffe2")


def test_caffe2_extension_codes(marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code that stands for a name is looked up like that name."""
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("builtins", "eval"))  # type: ignore[attr-defined]
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x02\x82\x07(S'1'\ntR.")
    with pytest.raises(UserError, match=r"builtins\.eval"):
        convert(path, "caffe2")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("source", TORCH_SOURCES)
def test_torch_formats(source: str, zipped: bool, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    content = {"state_dict": {"g.weight": torch.zeros(1)}, "meta": Touch(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="nothing else in it is run"):
        convert(path, source)


@pytest.mark.parametrize("name", ["converted.pth", "run/checkpoints/best.ckpt"])
def test_from_pretrained(name: str, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "model": {"name": "c2d_demo"}, "extra": Touch(marker)}, path)
    with pytest.raises(UserError, match="nothing else in it is run"):
        from_pretrained(tmp_path / "run" if name.startswith("run") else path)


def test_mmaction2_configuration_is_parsed_not_run(marker: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        f"model = dict(backbone=dict(depth=pathlib.Path({str(marker)!r}).touch()))\n"
    )
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": {"backbone.conv1.conv.weight": torch.zeros(64, 3, 5, 7, 7)}}, weights)
    with pytest.raises(UserError, match=r"no model\.backbone of plain values"):
        convert(weights, "mmaction2", config=config)


def test_slowfast_configuration_is_plain_yaml(marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pyth"
    cfg = f"NONLOCAL: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{marker}]]"
    torch.save({"model_state": {"s1.pathway0_stem.conv.weight": torch.zeros(1)}, "cfg": cfg}, path)
    with pytest.raises(UserError, match="configuration"):
        convert(path, "slowfast")


@pytest.mark.parametrize("protocol", [0, 2])
def test_python2_pickles_are_read(protocol: int, tmp_path: Path) -> None:
    """The good counterpart: every kind of content that the released files have, bit for bit."""
    arrays = {
        "a_w": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 0.5,
        "b_w": np.random.default_rng(0).standard_normal((7, 5)),
        "c": np.array([2**40, -3]),
        "empty": np.zeros((0, 3), np.float32),
    }
    path = tmp_path / "good.pkl"
    path.write_bytes(py2_pickle.dumps({"blobs": arrays | {"lr": 0.1, "model_iter": 3}}, protocol))
    blobs = read_blobs(path)
    assert blobs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert blobs[name].dtype == array.dtype
        np.testing.assert_array_equal(blobs[name], array)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_python3_pickles_are_read(protocol: int, tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    path = tmp_path / "good.pkl"
    path.write_bytes(pickle.dumps({"w": fortran, "n": np.float32(3), "lr": 0.1}, protocol=protocol))
    np.testing.assert_array_equal(read_blobs(path)["w"], fortran)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    good = py2_pickle.dumps({"blobs": {"w": np.arange(6, dtype=np.float32)}})
    path = tmp_path / "bad.pkl"
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(UserError):
            read_blobs(path)
