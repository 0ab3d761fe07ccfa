"""Files that claim to be large: refused in words, in little memory and in time."""

import json
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers import hostile
from helpers.hostile_files import tars
from helpers.hostile_texts import manifest as manifest_of
from nlnet.checkpoints.files import read_file
from nlnet.cli.predict import main as predict
from nlnet.data.shards.find import load_manifest
from nlnet.data.shards.reader import SampleError, read_sample
from nlnet.data.shards.source import DEFAULTS, ShardSource
from nlnet.errors import UserError
from nlnet.evaluation.predictions import FILE, load
from nlnet.limits import LIMITS, MANIFEST, SAMPLE, UNPACKED, TooLarge
from nlnet.models import build_model

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
MOST_BYTES, MOST_SECONDS = 10**9, 20.0
QUICK = ("manifest", "tar")


@pytest.mark.parametrize(
    "reader", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.full) for name in hostile.READERS]
)
def test_every_case_is_refused(reader: str, tmp_path: Path) -> None:
    """At least 20 a reader, in a process of its own whose memory is measured."""
    command = [sys.executable, str(TESTS / "helpers" / "hostile.py"), reader, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment())
    assert done.returncode == 0, done.stderr[-500:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == len(list(hostile.READERS[reader][0]())) >= 20
    for name, outcome, seconds, peak in cases:
        assert outcome.startswith("refused: "), (name, outcome)
        assert outcome.isprintable(), (name, outcome)
        assert seconds < MOST_SECONDS, (name, seconds)
        assert peak < MOST_BYTES, (name, peak)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)])}


def run(*command: str) -> tuple[int, str, str]:
    """A command with at most 12 GB of addresses: (exit code, standard output, standard error)."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))

    words = [sys.executable, *command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=120, preexec_fn=bounded)
    return done.returncode, done.stdout, done.stderr


def refused(code: int, errors: str) -> str:
    """The one line of a refusal."""
    assert code == 1, errors
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


def write_sparse(folder: Path, size: int) -> None:
    """A shard of no bytes on the disk, all of which are one sample."""
    with open(folder / "x-train-000000.tar", "wb") as file:
        file.truncate(size)
    content = manifest_of(length=size, shard_bytes=size)
    (folder / "x-train-manifest.json").write_text(json.dumps(content))


def test_a_sample_of_5_gib_in_a_sparse_shard_is_a_bad_one(tmp_path: Path) -> None:
    size = 5 << 30
    write_sparse(tmp_path, size)
    manifest = load_manifest(str(tmp_path), "x", "train")
    message = rf"^too large: a: a sample or media file of {size:,} bytes, at most {SAMPLE.most:,} are allowed"
    with pytest.raises(SampleError, match=message) as caught:
        read_sample(ShardSource(str(tmp_path), manifest.shards, DEFAULTS), manifest.samples[0])
    assert caught.value.cause == "too large"


@pytest.mark.full
def test_the_command_names_such_a_sample(tmp_path: Path) -> None:
    write_sparse(tmp_path, 5 << 30)
    code, out, errors = run(str(ROOT / "src" / "verify.py"), str(tmp_path))
    assert code == 1
    assert "Traceback" not in errors
    assert "train/a: too large: a sample or media file" in out


def write_zip(path: Path, method: int, data: bytes = bytes(64 << 20)) -> None:
    """A checkpoint with one tensor, whose bytes are packed."""
    torch.save({"state_dict": {"w": torch.zeros(len(data) // 4)}}, path)
    with zipfile.ZipFile(path) as whole:
        entries = {entry: whole.read(entry) for entry in whole.namelist()}
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_checkpoint_is_refused(method: int, tmp_path: Path) -> None:
    path = tmp_path / "small.pt"
    write_zip(path, method)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"small\.pt: .*a compressed entry"):
        read_file(path)


def test_a_directory_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    """Every number of the directory's entries in turn."""
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {"w": torch.ones(1000)}}, path)
    good = path.read_bytes()
    assert torch.equal(read_file(path)["state_dict"]["w"], torch.ones(1000))
    at = good.rindex(b"PK\x01\x02")  # of the last entry
    big = good.index(b"PK\x01\x02")
    refused = 0
    for entry in {at, big}:
        for field, width in ((10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)):
            for value in (1, 2 ** (8 * width - 1), 2 ** (8 * width) - 2):
                bad = bytearray(good)
                bad[entry + field : entry + field + width] = value.to_bytes(width, "little")
                path.write_bytes(bytes(bad))
                try:
                    assert torch.equal(read_file(path)["state_dict"]["w"], torch.ones(1000))
                except UserError:
                    refused += 1
    assert refused >= 30


@pytest.mark.parametrize(
    "value",
    [b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"\x8a\x06\0\0\0\0\0\x01", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_storage_that_claims_more_than_the_file_is_refused(value: bytes, zipped: bool, tmp_path: Path) -> None:
    path, count = tmp_path / "w.pt", b"M\xe8\x03"  # 1,000
    torch.save({"w": torch.ones(1000)}, path, _use_new_zipfile_serialization=zipped)
    good = path.read_bytes()
    assert count in good
    if zipped:
        with zipfile.ZipFile(path) as whole:
            entries = {entry: whole.read(entry) for entry in whole.namelist()}
        with zipfile.ZipFile(path, "w") as changed:
            for name, content in entries.items():
                changed.writestr(name, content.replace(count, value) if name.endswith("data.pkl") else content)
    else:
        path.write_bytes(good.replace(count, value))
    with pytest.raises(UserError, match=r"w\.pt: not a checkpoint"):
        read_file(path)


def test_repeated_tensors_and_deep_values_are_refused_and_small_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1).expand(1000, 1000)}, path)
    assert read_file(path)["w"].shape == (1000, 1000)
    deep: list = []
    for _ in range(100):
        deep = [deep]
    shapes = {"state_dict": {"w": torch.zeros(1).expand(10**6, 10**6)}}, {"w": torch.zeros(10**9, 0)}, {"w": deep}
    for content in (*shapes, {"classes": ["c"] * 10**5}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"w\.pt: "):
            read_file(path)


def test_predictions_that_unpack_to_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNPACKED.variable, "10000000")
    table = pa.table({"key": pa.array(["k"] * (1 << 21)).dictionary_encode(), "scores": np.zeros(1 << 21, np.float32)})
    pq.write_table(table, tmp_path / FILE, compression="zstd")
    assert (tmp_path / FILE).stat().st_size < 100_000
    with pytest.raises(TooLarge, match=r"predictions\.parquet: content of .* bytes, at most 10,000,000 are allowed"):
        load(tmp_path)


@pytest.mark.full
def test_a_packed_tar_and_a_sparse_member_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = build_model("c2d_demo", num_classes=3)
    weights = tmp_path / "w.pt"
    torch.save({"model": {"name": "c2d_demo", "num_classes": 3}, "state_dict": net.state_dict()}, weights)
    cases = {name: content for name, _, content in tars()}
    reasons = {f"sparse {6 << 30}": "goes on beyond the end", "gzip": "no tar header at 0"}
    for name, reason in reasons.items():
        (tmp_path / "x-000.tar").write_bytes(cases[name])
        words = [f"ckpt_path={weights}", f"source={tmp_path}/x-{{000..000}}.tar", "frames=4", "stride=1", "crop=32"]
        monkeypatch.setattr(sys, "argv", ["predict", *words])
        with pytest.raises(SystemExit) as ended:
            predict()
        assert reason in refused(int(str(ended.value.code)), capsys.readouterr().err)


def test_each_limit_is_raised_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [limit.variable for limit in LIMITS]
    assert len(set(names)) == len(names) > 20
    for limit in LIMITS:
        assert limit.variable.startswith("NLNET_MAX_")
        with pytest.raises(TooLarge, match=rf"at most {limit.default:,} are allowed.*set {limit.variable}="):
            limit.check(limit.default + 1, "here")
        monkeypatch.setenv(limit.variable, str(limit.default + 1))
        limit.check(limit.default + 1)
    for wrong in ("", "0", "-1", "1e9", "x", "9" * 30, "\u0661"):
        monkeypatch.setenv(MANIFEST.variable, wrong)
        with pytest.raises(UserError, match=rf"{MANIFEST.variable}=.*expected a whole number of bytes"):
            MANIFEST.check(1)


def test_every_limit_is_documented() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    for limit in LIMITS:
        assert f"| `{limit.variable}` | {limit.default:,} {limit.unit} | {limit.what} |" in text
