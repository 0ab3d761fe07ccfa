"""A run whose newest checkpoint is damaged goes on from the one before, says so, and ends where it would have."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nlnet.cli.eval import main as eval_main
from nlnet.cli.train import main
from nlnet.config.resolve import load
from nlnet.runs.train import train


@pytest.fixture(scope="module")
def words(charades_shards: Path) -> list[str]:
    return [
        "experiment=charades_nl",
        "size=demo",
        f"data.shards={charades_shards}",
        "data.batch_size=8",
        "data.num_workers=0",
        "callbacks.progress=null",
        "extras.checkpoint_every_n_steps=3",
        "trainer.max_epochs=1",
        "trainer.limit_val_batches=1",
    ]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps, with checkpoints of the third and the last."""
    _, objects = train(load([*words, f"paths.log_dir={tmp_path_factory.mktemp('whole')}"]))
    return objects["run_dir"]


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole.parents[2], tmp_path / "logs")
    return tmp_path / "logs" / whole.relative_to(whole.parents[2])


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def states(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_it_goes_on_from_the_one_before(command: Any, run: Path, words: list[str], what: str) -> None:
    last, expected = run / "checkpoints" / "last.ckpt", states(run)
    damage(last) if what == "damaged" else last.unlink()
    code, out, err = command(main, *words, f"paths.log_dir={run.parents[2]}", "ckpt_path=last")
    assert (code, err) == (0, "")
    assert f"ckpt_path=last: {last} is {what}; continuing the checkpoint before it\n" in out
    assert f"continuing {last.with_name('last-1.ckpt')} after step 3\n" in out
    assert all(torch.equal(value, expected[name]) for name, value in states(run).items())


def test_both_damaged_is_one_line_with_the_way_out(command: Any, run: Path, words: list[str]) -> None:
    for name in ("last.ckpt", "last-1.ckpt"):
        damage(run / "checkpoints" / name)
    code, _, err = command(main, *words, f"paths.log_dir={run.parents[2]}", "ckpt_path=last")
    (line,) = err.strip().splitlines()
    assert code == 1
    assert line.startswith(f"error: ckpt_path={run / 'checkpoints' / 'last-1.ckpt'}: damaged since it was written")
    assert "weights_only" not in err


def test_an_evaluation_of_a_damaged_one_names_the_others(command: Any, run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    damage(best)
    code, _, err = command(eval_main, f"ckpt_path={best}", f"paths.log_dir={run.parents[2]}")
    (line,) = err.strip().splitlines()
    assert code == 1
    assert line.startswith(f"error: ckpt_path={best}: damaged since it was written")
    assert line.endswith(f"or take ckpt_path={best.with_name('last-1.ckpt')}")


def test_a_state_that_does_not_fit_is_one_line_and_the_record_says_so(
    command: Any, run: Path, words: list[str], tmp_path: Path
) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["callbacks"]["SampleCounter"]["samples_read"] = "many"
    torch.save(content, tmp_path / "crafted.ckpt")
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "metrics.csv").write_text("step,epoch,val/mAP\n1,0,0.4\n99,9,0.5\n")
    code, _, err = command(main, *words, f"paths.run_dir={folder}", f"ckpt_path={tmp_path / 'crafted.ckpt'}")
    (line,) = err.strip().splitlines()
    assert code == 1
    assert line.startswith(
        f"error: ckpt_path={tmp_path / 'crafted.ckpt'}: its state does not fit this run: ValueError: "
    )
    assert '"status": "failed"' in (folder / "summary.json").read_text()
    assert not (folder / ".lock").exists()
    assert "99,9,0.5" in (folder / "metrics.csv").read_text()  # no row is lost to a run that went no further
