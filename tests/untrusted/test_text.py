"""Names from files on terminals, in tables and pages: shown, and never lines or commands of their own."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from helpers.shards import write_tiny
from nlnet.cli.checkpoints.convert import main as convert
from nlnet.cli.eval import main as evaluate
from nlnet.cli.predict import main as predict
from nlnet.cli.train import main as train
from nlnet.cli.verify import main as verify
from nlnet.data.prepare.plan import Failure
from nlnet.data.shards.manifest import Manifest, write_manifest
from nlnet.errors import UserError
from nlnet.models import build_model
from nlnet.progress import Progress
from nlnet.text import cell, shown

EVIL = "\nerror: forged\x1b[31m\r\x07\u202e\u2028\u200b\x85\udc80[red]=1"
SEEN = r"\nerror: forged\x1b[31m\r\x07\u202e\u2028\u200b\x85\udc80[red]=1"


def check(text: str, *, quoted: bool = True) -> None:
    """No line is forged, nothing but line breaks of our own is sent, and what was sent is shown."""
    assert not any(line.startswith("error: forged") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    assert not quoted or r"\nerror: forged\x1b[31m" in text


def test_what_is_shown() -> None:
    assert shown(EVIL) == SEEN
    assert shown(SEEN) == SEEN  # once more changes nothing
    assert shown("Füße, 手, שלום, emoji 🎈, a\\b") == "Füße, 手, שלום, emoji 🎈, a\\b"
    for code in (*range(32), *range(127, 160), 0xAD, 0x200B, 0x200E, 0x202A, 0x2066, 0x2069, 0xFEFF, 0xE0041):
        assert shown(chr(code)).startswith("\\")


def test_an_error_is_as_many_lines_as_it_was_given() -> None:
    assert str(UserError(f"a{EVIL}", f"  b{EVIL}")) == f"a{SEEN}\n  b{SEEN}"
    assert str(UserError("plain")) == "plain"


def test_a_cell_is_no_formula() -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1"):
        assert not cell(text).startswith(("=", "+", "-", "@", "\t", "\n"))
    assert cell("a=1") == "a=1"


def test_prepared_failures_are_plain_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    from nlnet.data.prepare import run

    table = run._table([Failure("train", "=HYPERLINK(1)", "unreadable", EVIL)])
    rows = list(csv.reader(io.StringIO(table.decode())))
    assert rows[1] == ["train", "'=HYPERLINK(1)", "unreadable", SEEN]


def test_progress_shows_markup_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with Progress(f"[red]x[/red]{EVIL}", 1) as progress:
        progress.bar, progress.told = None, 0.0
        progress.console = Console(file=out, markup=False, emoji=False, highlight=False)
        progress.advance()
    check(out.getvalue())
    assert "[red]x[/red]" in out.getvalue()


@pytest.fixture(scope="module")
def evil_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose classes, groups and keys are as bad as they can be."""
    folder = write_tiny(tmp_path_factory.mktemp("evil"), train=16, val=8, shards=1)
    for split in ("train", "test"):
        path = folder / f"charades-{split}-manifest.json"
        manifest = Manifest.from_json(path.read_text(), str(path))
        names = tuple(f"c{k}{EVIL}" for k in range(4))
        samples = tuple(replace(sample, key=f"{sample.key}{EVIL}") for sample in manifest.samples)
        write_manifest(folder, replace(manifest, classes=names, groups={f"g{EVIL}": (0, 1)}, samples=samples))
    return folder


def test_verify_and_its_page(evil_shards: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    html = tmp_path / "page.html"
    code, out, err = command(verify, str(evil_shards), "--html", str(html), "--decode", "0")
    assert code == 1  # keys are not those in the shards
    check(out)
    check(err, quoted=False)
    check(html.read_text())


@pytest.fixture(scope="module")
def evil_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    model = {"name": "c2d_demo", "num_classes": 3}
    names = [f"c{k}{EVIL}" for k in range(3)]
    torch.save({"model": model, "state_dict": build_model(**model).state_dict(), "classes": names}, path)
    return path


def test_predict(evil_weights: Path, evil_shards: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    clip = ("frames=4", "stride=1", "crop=32")
    (tmp_path / f"bad{EVIL[:20]}.mp4").write_bytes(b"no video")
    for source in (evil_shards / "charades-test-{000000..000000}.tar", tmp_path):
        words = (f"ckpt_path={evil_weights}", f"source={source}", f"out={tmp_path}/out.json")
        _, out, err = command(predict, *words, *clip, "limit=2")
        check(out + err, quoted=False)
        assert r"\nerror: forged" in out + err
    command(predict, f"ckpt_path={evil_weights}", f"source={evil_shards}", f"out={tmp_path}/out.json", *clip, "limit=2")
    if (tmp_path / "out.json").is_file():
        assert (tmp_path / "out.json").read_text().isascii()


def test_convert(tmp_path: Path, command: Callable[..., Any]) -> None:
    path = tmp_path / "w.pyth"
    torch.save({"model_state": {f"w{EVIL[:30]}": torch.zeros(1)}}, path)
    code, out, err = command(convert, str(path), "--source", "slowfast", "--set", f"geometry={EVIL[1:14]}")
    assert code == 1
    check(out + err, quoted=False)
    assert len(err.splitlines()) == 1


@pytest.mark.full
def test_train_and_eval(evil_shards: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    small = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=1"]
    small += ["callbacks.progress=null", "data.max_skipped=1", "data.max_missing_eval=8", f"data.shards={evil_shards}"]
    code, out, err = command(train, *small, f"paths.run_dir={tmp_path}/run")
    assert code == 0, err
    check(out, quoted=False)
    check(err, quoted=False)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert header.isprintable()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    words = (f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", f"paths.log_dir={tmp_path}/logs")
    code, out, err = command(evaluate, *words)
    assert code == 0, err
    check(out, quoted=False)
    check(err, quoted=False)
