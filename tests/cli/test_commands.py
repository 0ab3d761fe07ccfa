"""The ways to start a command, as real processes from another folder, and what the wheel carries."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT

ARGUMENTS = ["experiment=charades_nl", "debug=fdr", "size=demo", "data.batch_size=8"]


def start(command, folder, shards, **environment):
    result = subprocess.run(
        [*map(str, command), *ARGUMENTS, f"data.shards={shards}"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (summary,) = Path(folder).glob("logs/debug/runs/*/summary.json")
    figures = json.loads(summary.read_text())["metrics"]
    return {name: value for name, value in figures.items() if name != "data/wait_seconds" and name[:5] != "perf/"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_the_configurations_and_nothing_else_of_the_checkout(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"nlnet/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs <= names
    assert all(name.startswith(("nlnet/", "nlnet-")) for name in names)


@pytest.mark.full
def test_script_and_console_command_do_the_same_from_any_folder(charades_shards, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    script = start([sys.executable, ROOT / "src" / "train.py"], tmp_path / "a", charades_shards)
    console = start([Path(sysconfig.get_path("scripts")) / "nlnet-train"], tmp_path / "b", charades_shards)
    assert script == console


@pytest.mark.full
def test_the_console_command_of_an_installed_wheel(wheel, charades_shards, tmp_path):
    """A fresh environment with the wheel; its dependencies are those of this one, read-only behind it."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True, timeout=120)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True, timeout=120)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    (tmp_path / "work").mkdir()
    where = subprocess.run([python, "-c", "import nlnet; print(nlnet.__file__)"], capture_output=True, text=True)
    assert where.stdout.startswith(str(site))
    start([tmp_path / "env" / "bin" / "nlnet-train"], tmp_path / "work", charades_shards)


@pytest.mark.full
def test_ddp_started_by_the_command_itself(charades_shards, tmp_path):
    command = [sys.executable, str(ROOT / "src" / "train.py"), "experiment=charades_nl", "size=demo", "trainer=ddp_sim"]
    command += [f"data.shards={charades_shards}", "data.batch_size=8", "trainer.max_epochs=1", "data.num_workers=0"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (summary,) = tmp_path.glob("logs/train/runs/*/summary.json")
    assert json.loads(summary.read_text())["metrics"]["val/videos"] == 20


@pytest.mark.full
def test_multinode_started_by_torchrun(charades_shards, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "src" / "train.py"), "experiment=charades_nl", "size=demo", "trainer=multinode"]
    command += ["trainer.accelerator=cpu", "trainer.precision=bf16-mixed", f"data.shards={charades_shards}"]
    command += ["data.batch_size=8", "trainer.max_epochs=1", "data.num_workers=0"]
    earlier = {"NLNET_RUN_DIR": f"{os.getpid()}:{tmp_path}/earlier"}  # of a run in this process
    subprocess.run(command, cwd=tmp_path, env=os.environ | earlier, check=True, capture_output=True, timeout=300)
    (summary,) = tmp_path.glob("logs/train/runs/*/summary.json")
    record = json.loads(summary.read_text())
    assert record["metrics"]["val/videos"] == 20
    assert record["status"] == "finished"
