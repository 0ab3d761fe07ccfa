"""The project around the package: what is committed, what is locked, what an import costs, and the tools."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "nlnet"


# Joined here, so that this file does not contain what it looks for.
ADDRESSES = [
    "pypi." + "org",
    "pythonhosted" + ".org",
    "download.pytorch" + ".org",
    "anaconda" + ".org",
    "npmjs" + ".org",
    "index" + "-url",
    "find" + "-links",
]
MACHINE_PATH = re.compile(r"(?<![\w.}~/-])/(?:work|home|root|Users|mnt/[a-z]+|tmp" + r")/\w")


def committed_files() -> list[Path]:
    """Every file git tracks or would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(path for name in listing.split("\0") if name and (path := ROOT / name).is_file())


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def python_files() -> list[Path]:
    return [path for path in committed_files() if path.suffix == ".py"]


def test_no_file_names_a_package_registry() -> None:
    found = [(path.name, name) for path in committed_files() for name in ADDRESSES if name in text_of(path)]
    assert found == []


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [(path.name, hit.group()) for path in committed_files() if (hit := MACHINE_PATH.search(text_of(path)))]
    assert found == []


def test_a_machine_path_is_recognized() -> None:
    assert MACHINE_PATH.search("open('/" + "home/me/clips')")
    assert not MACHINE_PATH.search("s3://bucket/" + "home/me, ${paths.root}/" + "work/run")


# ---- the lock


def locked() -> dict[str, list[tuple[Version, str]]]:
    """The versions of each distribution in requirements.lock, each with its block of text."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    versions: dict[str, list[tuple[Version, str]]] = {}
    for block in blocks:
        name, version = re.match(r"([\w.-]+)==([\w.+!]+)", block).groups()
        versions.setdefault(canonicalize_name(name), []).append((Version(version), block))
    return versions


def direct_requirements() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]:
        if (requirement := Requirement(line)).name != project["name"]:
            yield requirement


def test_every_locked_version_has_hashes_and_none_an_address() -> None:
    unhashed = [name for name, found in locked().items() for _, block in found if "--hash=sha256:" not in block]
    assert unhashed == []
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_every_direct_dependency_is_locked_in_a_version_it_allows() -> None:
    versions = locked()
    wrong = [
        str(requirement)
        for requirement in direct_requirements()
        if not (found := versions.get(canonicalize_name(requirement.name)))
        or not all(requirement.specifier.contains(version, prereleases=True) for version, _ in found)
    ]
    assert wrong == [], "run `make lock`"


# ---- imports


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name: str) -> None:
    importlib.import_module(name)


def imported_with(module: str, heavy: list[str]) -> list[str]:
    """Which of `heavy` a fresh process has loaded after `import module`."""
    code = f"import sys, json, {module}; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=120)
    return json.loads(ran.stdout)


LIGHTNING = ["pytorch_lightning", "torchvision", "torchmetrics", "wandb", "matplotlib"]


def test_import_nlnet_is_light() -> None:
    assert imported_with("nlnet", [*LIGHTNING, "av", "hydra", "webdataset", "obstore"]) == []


def test_loader_workers_start_without_lightning() -> None:
    """A worker imports the module of the batches that it makes, and a run waits for it."""
    names = ("loader", "clips", "images", "folder", "views")
    assert imported_with(", ".join(f"nlnet.data.batches.{name}" for name in names), LIGHTNING) == []


def test_commands_answer_mistakes_before_lightning_is_imported() -> None:
    assert imported_with("nlnet.cli.train, nlnet.cli.eval, nlnet.cli.predict", LIGHTNING) == []


# ---- the tools around it


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE).group(1).split()
    listing = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, check=True, text=True).stdout
    assert {"setup", "demo", "test", "lint"} <= set(targets)
    assert [name for name in targets if not re.search(rf"^  {name} +\S", listing, re.MULTILINE)] == []


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_pin_their_actions_and_only_read(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_ci_tests_every_python_that_the_project_allows() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == named


def test_pre_commit_runs_local_hooks_only() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert [hook["id"] for hook in config["repos"][0]["hooks"]] == ["ruff-format", "ruff-check", "mypy", "nbstripout"]
    assert {hook["language"] for hook in config["repos"][0]["hooks"]} == {"system"}
