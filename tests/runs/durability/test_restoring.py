"""Checkpoints whose state was made to do harm: nothing is removed, and what does not fit is one message."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nlnet.errors import UserError
from nlnet.runs.callbacks.exact_resume import ExactResume
from nlnet.runs.callbacks.sample_counter import SampleCounter
from nlnet.runs.durability.checkpoint_io import DurableCheckpointIO
from nlnet.runs.durability.restoring import CheckedRestore, restoring_error

BATCH = {"failures": [], "reading": {"bytes": 9, "retries": 0, "seconds": 0.1}} | {
    "weights": torch.ones(1),
    "padding": torch.zeros(1, dtype=torch.bool),
}


class Rising(pl.LightningModule):
    """Every epoch is better than the one before, so that every epoch replaces the best checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def training_step(self, batch: Any, _: int) -> Tensor:
        self.log("val", float(self.current_epoch), batch_size=1)
        return self.net(torch.ones(1, 3)).square().sum()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)]


def fit(folder: Path, epochs: int, resume: Path | None = None, *, guarded: bool = True) -> pl.Trainer:
    """Train in `folder`; what goes wrong is raised as a run raises it."""
    best = ModelCheckpoint(folder / "checkpoints", "{epoch}", "val", mode="max", save_last=True)
    unnamed = ModelCheckpoint(folder / "checkpoints", "newest-{epoch}", save_top_k=1)
    callbacks = [best, unnamed, EarlyStopping("val", mode="max"), Timer(), SampleCounter(0.1)]
    callbacks += [CheckedRestore(), ExactResume(folder / "exact", 0, 1)] if guarded else []
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
    )
    if guarded:
        trainer.strategy.checkpoint_io = DurableCheckpointIO()
    loader = DataLoader([BATCH, BATCH], batch_size=None)  # type: ignore[arg-type]
    try:
        trainer.fit(Rising(), loader, ckpt_path=resume, weights_only=True)
    except Exception as error:
        if resume and guarded and (mistake := restoring_error(error, resume, trainer)):
            raise mistake from error
        raise
    return trainer


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:GPU available"),
]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("honest")
    fit(folder, 1)
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def state_of(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    return next(state for key, state in checkpoint["callbacks"].items() if key.startswith(name) and "'val'" in key)


def aimed_at(victim: Path, run: Path, way: str) -> str:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    link = run / "checkpoints" / "link.ckpt"
    if not link.is_symlink():
        link.symlink_to(victim / "file")
    return {
        "absolute": str(victim / "file"),
        "local folder": f"local://{victim}",
        "local file": f"local://{victim}/file",
        "file": f"file://{victim}/file",
        "up": f"{run}/checkpoints/../../{victim.name}/file",
        "up within": f"{run}/checkpoints/x/../../../{victim.name}/file",
        "a link": str(link),
        "a folder": str(victim),
        "a nul": f"{victim}/file\0.ckpt",
    }[way]


WAYS = ["absolute", "local folder", "local file", "file", "up", "up within", "a link", "a folder", "a nul"]
FIELDS = ["kth_best_model_path", "last_model_path", "best_model_path"]


def attack(checkpoint: dict[str, Any], field: str, target: str, run: Path, with_folder: bool) -> None:
    for state in checkpoint["callbacks"].values():
        if "best_k_models" not in state:
            continue
        state[field] = target
        if field == "kth_best_model_path":
            state |= {"best_k_models": {target: torch.tensor(0.0)}, "kth_value": torch.tensor(0.0)}
        if with_folder:
            state["dirpath"] = str(run / "checkpoints")
        else:
            del state["dirpath"]


def victim_in(folder: Path) -> Path:
    victim = folder / "precious"
    victim.mkdir()
    (victim / "file").write_text("x")
    return victim


def crafted(checkpoint: dict[str, Any], path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    copy = torch.load(_written(checkpoint, path), weights_only=True)
    change(copy)
    return _written(copy, path)


def _written(checkpoint: dict[str, Any], path: Path) -> Path:
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("way", WAYS)
def test_no_path_in_a_callbacks_state_is_removed(honest: dict[str, Any], tmp_path: Path, way: str, field: str) -> None:
    victim = victim_in(tmp_path)
    for with_folder in (True, False) if field == "kth_best_model_path" else (True,):
        run = tmp_path / f"run-{with_folder}"
        target = aimed_at(victim, run, way)
        path = crafted(
            honest, tmp_path / "a.ckpt", partial(attack, field=field, target=target, run=run, with_folder=with_folder)
        )
        trainer = fit(run, 2, path)
        assert trainer.current_epoch == 2
        assert (victim / "file").read_text() == "x"
        names = {entry.name for entry in (run / "checkpoints").iterdir()}
        assert names == {"epoch=1.ckpt", "newest-epoch=1.ckpt", "last.ckpt", "link.ckpt"}


def test_the_attack_works_where_nothing_stops_it(honest: dict[str, Any], tmp_path: Path) -> None:
    victim, run = victim_in(tmp_path), tmp_path / "run"
    target = aimed_at(victim, run, "local folder")
    path = crafted(honest, tmp_path / "a.ckpt", lambda c: attack(c, "kth_best_model_path", target, run, False))
    fit(run, 3, path, guarded=False)
    assert not victim.exists()


def test_a_continued_run_keeps_its_own_best(tmp_path: Path) -> None:
    fit(tmp_path, 2)
    trainer = fit(tmp_path, 4, tmp_path / "checkpoints" / "last.ckpt")
    (best, *_) = trainer.checkpoint_callbacks
    assert isinstance(best, ModelCheckpoint)
    assert best.best_k_models == {str(tmp_path / "checkpoints" / "epoch=3.ckpt"): torch.tensor(3.0)}
    assert not (tmp_path / "checkpoints" / "epoch=1.ckpt").exists()  # its own is replaced as always
    (tmp_path / "checkpoints" / "epoch=3.ckpt").unlink()
    fit(tmp_path, 5, tmp_path / "checkpoints" / "last.ckpt")  # a best one that is gone is forgotten
    assert (tmp_path / "checkpoints" / "epoch=4.ckpt").is_file()


@pytest.mark.parametrize("name", ["last.ckpt", "last-1.ckpt"])
def test_what_is_continued_is_no_best_one_to_be_replaced(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        fit(tmp_path, 1)
    own = tmp_path / "checkpoints" / name
    own.touch()
    content = torch.load(tmp_path / "checkpoints" / "epoch=0.ckpt", weights_only=True)
    path = crafted(
        content,
        tmp_path / "a.ckpt",
        partial(attack, field="kth_best_model_path", target=str(own), run=tmp_path, with_folder=True),
    )
    fit(tmp_path, 2, path)
    assert own.exists()


def put(*way: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a checkpoint: the value at the end of `way`, which begins with the keys that lead to it."""

    def change(checkpoint: dict[str, Any]) -> None:
        *path, last, value = way
        node = checkpoint
        for key in path:
            node = state_of(checkpoint, key) if key == "EarlyStopping" else node[key]
        node[last] = value

    return change


LOOPS = ("loops", "fit_loop")
WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "no callbacks": put("callbacks", 3),
    "a list of callbacks": put("callbacks", [1]),
    "a counter of a callback": put("EarlyStopping", "wait_count", "many"),
    "a reason that is none": put("EarlyStopping", "stopping_reason", 99),
    "a callback's state": lambda c: c["callbacks"].update(Timer=7),
    "a time": lambda c: c["callbacks"].update(Timer={"time_elapsed": {"train": "long"}}),
    "counts of samples": lambda c: c["callbacks"].update(SampleCounter={"samples_read": "x"}),
    "causes of samples": lambda c: c["callbacks"].update(SampleCounter={"samples_skipped": {"a": [1]}}),
    "a step of a validation": lambda c: c["callbacks"].update(ExactResume={"validated_step": "x"}),
    "no loops": put("loops", None),
    "no fit loop": put("loops", {}),
    "a loop's counter": put(*LOOPS, "epoch_progress", "current", "processed", "x"),
    "a counter below 0": put(*LOOPS, "epoch_progress", "current", "processed", -5),
    "a fraction of an epoch": put(*LOOPS, "epoch_progress", "total", "ready", 0.5),
    "a counter of another name": put(*LOOPS, "epoch_progress", "current", "reset", 1),
    "a nested counter": put(*LOOPS, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", [1]),
    "the loop's own": put(*LOOPS, "epoch_loop.state_dict", "_batches_that_stepped", "x"),
    "no optimizers": lambda c: c.pop("optimizer_states"),
    "optimizers": put("optimizer_states", ["x"]),
    "a rate": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
    "no rate": lambda c: c["optimizer_states"][0]["param_groups"][0].pop("lr"),
    "parameters": lambda c: c["optimizer_states"][0]["param_groups"][0].update(params=[0, 1, 2]),
    "a moment": lambda c: c["optimizer_states"][0]["state"][0].update(momentum_buffer="x"),
    "a moment's shape": lambda c: c["optimizer_states"][0]["state"][0].update(momentum_buffer=torch.zeros(5)),
    "a state of a parameter": lambda c: c["optimizer_states"][0]["state"].update({0: "x"}),
    "no schedules": lambda c: c.pop("lr_schedulers"),
    "a schedule": put("lr_schedulers", ["x"]),
    "a schedule's epoch": lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
    "a schedule's method": lambda c: c["lr_schedulers"][0].update(get_lr=4),
    "weights": put("state_dict", {"net.weight": torch.zeros(7)}),
    "weights of words": put("state_dict", {"net.weight": "a", "net.bias": "b"}),
    "a version": put("pytorch-lightning_version", "newest"),
    "no version": lambda c: c.pop("pytorch-lightning_version"),
    "more epochs than there are": put(*LOOPS, "epoch_progress", "current", "completed", 50),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_state_that_does_not_fit_is_one_message(honest: dict[str, Any], tmp_path: Path, kind: str) -> None:
    path = crafted(honest, tmp_path / "a.ckpt", WRONG[kind])
    with pytest.raises(UserError) as raised:
        fit(tmp_path / "run", 3, path)
    text = str(raised.value)
    assert text.startswith(f"ckpt_path={path}: its state does not fit this run: ")
    assert text.endswith("to start a new run from its weights set init.checkpoint")
    assert "\n" not in text


def test_other_errors_keep_their_traceback(honest: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    path = crafted(honest, tmp_path / "a.ckpt", lambda c: None)
    monkeypatch.setattr(Rising, "training_step", lambda self, batch, _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run", 3, path)
