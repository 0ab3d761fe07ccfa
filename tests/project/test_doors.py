"""docs/extending.md as its reader types it: a package outside of this repository, with no edit to nlnet."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.document import Section, sections
from helpers.preparing import clip
from helpers.typing_in import type_in

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {section.title: section for section in sections(ROOT / "docs" / "extending.md")}
SMALL = [
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=2",
    "trainer.max_epochs=1",
    "data.batch_size=4",
    "data.eval_batch_size=4",
    "data.num_workers=0",
    "callbacks.progress=null",
]
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mine"
version = "1"
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the package's checkout, an empty one beside it, and a folder where it is installed."""
    root = tmp_path_factory.mktemp("outside")
    for section in RECIPES.values():
        for name, text in section.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (root / "mine" / "mine" / "__init__.py").write_text("")
    (root / "mine" / "pyproject.toml").write_text(PYPROJECT)
    (root / "nlnet").mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(root / "site"), str(root / "mine")], check=True, timeout=60)
    shutil.rmtree(root / "mine" / "mine")  # what runs is what was installed
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some videos, and labels.csv beside them."""
    folder = tmp_path_factory.mktemp("videos")
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "split", "label", "seconds"))
        for k in range(12):
            (folder / f"v{k}.mp4").write_bytes(clip(k))
            writer.writerow((f"v{k}", "val" if k > 7 else "train", ("dark", "bright")[k % 2], 1.0))
    return folder


def newest(folder: Path, kind: str) -> str:
    runs = sorted((folder / "logs" / kind / "runs").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return str(runs[-1]) if runs else ""


def run(section: Section, root: Path, names: dict[str, str], environment: dict[str, str]) -> list[str]:
    """Type the commands of a recipe; returns what each printed."""
    printed, folder = [], root / "nlnet"
    for command in section.commands:
        words = command.split()
        for k, word in enumerate(words):
            for name, value in {**names, "RUN": newest(folder, "train"), "EVAL": newest(folder, "eval")}.items():
                if word == name or word.startswith(f"{name}/") or f"={name}" in word:
                    words[k] = word.replace(name, value)
        if words[1:2] == ["src/train.py"]:
            words += SMALL if "size=demo" in words else ["callbacks.progress=null"]
        words += ["protocol.clips=2"] if "protocol=30view" in words else []
        words += ["limit=2"] if words[1:2] == ["src/predict.py"] else []
        printed.append(type_in(" ".join(words), folder, environment, root / "site"))
    return printed


@pytest.mark.parametrize("title", [title for title, section in RECIPES.items() if section.commands])
def test_a_recipe_works_from_outside(
    title: str, mine: Path, videos: Path, charades_shards: Path, kinetics_shards: Path, tmp_path: Path
) -> None:
    names = {"VIDEOS": str(videos), "SHARDS": str(tmp_path / "shards")}
    environment = {"CHARADES_SHARDS": str(charades_shards), "KINETICS_SHARDS": str(kinetics_shards)}
    printed = run(RECIPES[title], mine, names, environment)
    for text in printed:
        assert "Traceback" not in text
    CHECKS.get(title, lambda _: None)(printed)


def seen_in_all(word: str):
    def check(printed: list[str]) -> None:
        assert all(word in text for text in printed)

    return check


def check_network(printed: list[str]) -> None:
    train, _, views, predicted = printed
    assert "VideoResNet" in train
    assert "c2d" not in train.lower()  # size=demo leaves the network alone
    assert "val/clip_top1" in views
    assert "written: predictions.json" in predicted


CHECKS = {
    "A network": check_network,
    "A metric": seen_in_all("label_accuracy"),
    "A callback": seen_in_all("validation: 2 batches"),
    "A task": seen_in_all("val/accuracy"),
    "A pairwise function": seen_in_all("cosine"),
}


@pytest.mark.parametrize("title", [title for title, section in RECIPES.items() if section.python])
def test_the_python_of_a_recipe_runs(title: str, mine: Path) -> None:
    code = "import nlnet\n" + "\n".join(RECIPES[title].python).replace('"RUN"', repr(newest(mine / "nlnet", "train")))
    environment = {"PYTHONPATH": f"{mine / 'site'}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"}
    if title == "A network":  # the run of the newest recipe is another one's: make its own
        runs = (mine / "nlnet" / "logs" / "train" / "runs").glob("*r3d_18*")
        code = "import nlnet\n" + RECIPES[title].python[0].replace('"RUN"', repr(str(sorted(runs)[-1])))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_the_questions_name_files_that_are_there() -> None:
    text = (ROOT / "docs" / "extending.md").read_text().split("## Where would I change")[1]
    rows = [row.split("|")[2] for row in text.splitlines() if row.startswith("| ")][2:]
    assert len(rows) == 13
    for row in rows:
        for name in row.split("`")[1::2]:
            if ("/" in name and not name.startswith("optim/schedule")) or name.endswith("/"):
                places = (ROOT / "src" / "nlnet" / name, ROOT / name)
                assert any(place.exists() for place in places), name
