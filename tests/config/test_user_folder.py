"""Configurations of people who build on the project, in a folder of their own: `--config-dir FOLDER`."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf

from nlnet.cli import eval as eval_command
from nlnet.cli import predict as predict_command
from nlnet.cli import train as train_command
from nlnet.config.compose import compose, groups, options
from nlnet.config.resolve import load
from nlnet.config.search_path import split_flags
from nlnet.errors import UserError

FILES = {
    "experiment/mine": """
        # @package _global_
        defaults:
          - override /data: mine
          - override /model: mine
          - override /task: multiclass
          - override /callbacks: mine
          - _self_
        model: {nonlocal_blocks: 5}
        trainer: {max_steps: 1000}
        """,
    "data/mine": """
        defaults: [_clips]
        dataset: kinetics
        shards: ${oc.env:MY_SHARDS,null}
        shards_variable: MY_SHARDS
        """,
    "model/mine": """
        defaults: [i3d_r50]
        dropout: 0.25
        """,
    "callbacks/mine": """
        defaults: [default]
        seconds: {_target_: pytorch_lightning.callbacks.Timer}
        """,
    "size/tiny": """
        # @package _global_
        size_name: tiny
        model: {dropout: 0.0}
        """,
    "weather/rain": "amount: 3",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "it's mine"
    for name, text in FILES.items():
        path = (root / name).with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.strip("\n").split("\n")) + "\n")
    return root


@pytest.fixture
def flag(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process whose command line has the flag."""
    monkeypatch.setattr("sys.argv", ["eval.py", "--config-dir", str(folder), "ckpt_path=x"])


@pytest.mark.usefixtures("flag")
def test_a_folder_adds_choices_and_replaces_none() -> None:
    cfg = load(["experiment=mine", "data.shards=/data/mine"])
    assert (cfg.data.shards_variable, cfg.data.frames, cfg.experiment_name) == ("MY_SHARDS", 32, "mine")
    assert (cfg.model.name, cfg.model.dropout, cfg.model.nonlocal_blocks) == ("i3d_r50", 0.25, 5)
    assert {"seconds", "best"} <= set(cfg.callbacks)
    assert {"mine", "charades_nl"} <= set(options("experiment"))
    assert "_clips" not in options("data")
    assert {"weather", "optim/schedule"} <= set(groups())


@pytest.mark.usefixtures("flag")
@pytest.mark.parametrize(
    ("override", "expected"), [("experiment=mime", "mine"), ("model=mind", "mine"), ("wether=rain", "weather")]
)
def test_the_nearest_names_are_the_users_too(override: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"nearest: .*{expected}"):
        compose([override])


def test_without_the_flag_nothing_of_it_is_there(folder: Path) -> None:
    assert "mine" not in options("experiment")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """The configurations that the command would have trained."""
    seen: list[DictConfig] = []
    replacement = SimpleNamespace(train=lambda cfg: (seen.append(cfg) or {"val/top1": 1.0}, {}))
    monkeypatch.setitem(sys.modules, "nlnet.runs.train", replacement)  # which would import Lightning
    return seen


@pytest.mark.parametrize("words", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_a_demo_keeps_the_users_choices(words: list[str], folder: Path, command, trained: list[DictConfig]) -> None:
    words = [word.format(folder) for word in words]
    code, _, err = command(train_command.main, *words, "experiment=mine", "debug=fdr", "size=demo")
    assert code == 0, err
    (cfg,) = trained
    chosen = cfg.size_name, cfg.model.name, cfg.model.nonlocal_blocks, cfg.data.shards_variable
    assert chosen == ("demo", "c2d_demo", 5, "MY_SHARDS")
    assert cfg.trainer.fast_dev_run


def test_a_demo_may_be_of_the_users_size(folder: Path, command, trained: list[DictConfig]) -> None:
    words = ["--config-dir", str(folder), "experiment=mine", "demo_size=tiny"]
    code, out, err = command(train_command.main, *words)
    assert code == 0, err
    assert "DEMO" in out
    assert (trained[0].size_name, trained[0].model.name) == ("tiny", "i3d_r50")
    assert "seconds" in trained[0].callbacks


def test_hydras_own_search_path_is_kept(folder: Path, command, trained: list[DictConfig]) -> None:
    path = str(folder).replace("'", "\\'")
    code, _, err = command(train_command.main, f"hydra.searchpath=['file://{path}']", "experiment=mine", "size=demo")
    assert code == 0, err
    assert (trained[0].size_name, trained[0].data.shards_variable) == ("demo", "MY_SHARDS")


def test_mistakes_on_the_command_line_name_the_users_choices(folder: Path, command) -> None:
    code, _, err = command(train_command.main, "--config-dir", str(folder), "experiment=mime")
    assert (code, "nearest: mine" in err) == (1, True), err
    code, _, err = command(train_command.main, "--config-dir", f"{folder}/nowhere", "experiment=mine")
    assert (code, f"{folder}/nowhere" in err) == (1, True), err


def test_a_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["predict.py", "-cd", "/nowhere"])
    with pytest.raises(UserError, match="--config-dir /nowhere: there is no such folder"):
        compose(config_name="predict")


def test_eval_takes_groups_from_the_folder(folder: Path, command, tmp_path: Path, monkeypatch) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    OmegaConf.save(load(["experiment=kinetics_i3d", "size=demo"]), tmp_path / "run" / "config.yaml", resolve=True)
    seen: list[DictConfig] = []
    monkeypatch.setitem(sys.modules, "nlnet.runs.evaluate", SimpleNamespace(evaluate=seen.append))
    words = ["-cd", str(folder), f"ckpt_path={checkpoint}", "data=mine", "callbacks=mine", "data.shards=/data/mine"]
    code, _, err = command(eval_command.main, *words)
    assert code == 0, err
    assert (seen[0].data.shards_variable, "seconds" in seen[0].callbacks) == ("MY_SHARDS", True)


def test_predict_reads_the_flag(folder: Path, command) -> None:
    code, _, err = command(predict_command.main, "--config-dir", str(folder), "ckpt_path=/nowhere.pt", "source=x.mp4")
    assert (code, "/nowhere.pt" in err) == (1, True), err


def test_the_flag_is_taken_out_of_the_arguments() -> None:
    assert split_flags(["a=1", "--config-dir", "/x", "b=2", "-cd=/y"]) == ([Path("/y")], ["a=1", "b=2"])
    assert split_flags(["a=1", "-c", "job"]) == ([], ["a=1", "-c", "job"])
