"""The evaluation of a checkpoint: training's validation once more, or a test of many views."""

import time
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from nlnet.data.module import ClipDataModule
from nlnet.data.views import ViewDataModule
from nlnet.errors import UserError
from nlnet.evaluation.predictions import FILE, Predictions
from nlnet.evaluation.views import Views, training_window
from nlnet.runs import checkpoint as checkpoints
from nlnet.runs.accounting import Accounting
from nlnet.runs.converted import run_state
from nlnet.runs.introduction import introduce
from nlnet.runs.protocol import views_of, words
from nlnet.runs.quiet import quiet
from nlnet.runs.setup import make_data, make_run_dir, make_task, make_trainer
from nlnet.runs.summary import Summary
from nlnet.runs.training import report, say
from nlnet.tasks.classification import ClassificationTask
from nlnet.tasks.views import ViewEvaluation, center_predictions


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Validate `cfg.ckpt_path`; the figures go to a run folder of their own."""
    quiet()
    started = time.monotonic()
    images = cfg.task.kind == "detection"
    if images and cfg.protocol.name != "center":
        raise UserError(f"protocol={cfg.protocol.name} is a test of videos, and this run is of images; leave it out")
    views = None if images else views_of(cfg.protocol, int(cfg.data.scale[0]))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = make_data(cfg)
    task = make_task(cfg, data)
    for line in introduce(task, data):
        say(line)
    path = Path(cfg.ckpt_path)
    checkpoint = run_state(checkpoints.read(path))
    checkpoints.check_fits(checkpoint, task.state_dict(), path)
    task.load_state_dict(checkpoint["state_dict"])
    run_dir = make_run_dir(cfg)
    summary = Summary(run_dir, cfg, Accounting(data.max_skipped), task)
    summary.begin()
    cfg.callbacks = {name: node for name, node in (cfg.get("callbacks") or {}).items() if name in ("progress", "panel")}
    trainer = make_trainer(cfg, [])
    summary.save_config(cfg)
    try:
        predictions = None
        if images:  # whose task writes its predictions itself
            trainer.validate(task, data, verbose=False)
        else:
            predictions = _validate(trainer, task, data, views, cfg.protocol)
    finally:
        data.close()
    figures = summary.figures(trainer)
    summary.end("finished", figures, time.monotonic() - started)
    if trainer.is_global_zero:
        report(figures, task, run_dir)
        if predictions is not None:
            predictions.save(run_dir / FILE)
            say(f"  {FILE:<22} the scores of every video and view")
    return figures


def _validate(
    trainer: pl.Trainer, task: ClassificationTask, data: ClipDataModule, views: Views | None, protocol: DictConfig
) -> Predictions:
    """The test with these views; None for the validation of training."""
    keys = [sample.key for sample in data.val.samples]
    if views is None:
        trainer.validate(task, data, verbose=False)
        return center_predictions(task, keys, words(protocol, None, None))
    window = training_window(task.net, data.clip_shape)
    source = ViewDataModule(data, views.clips, views.starts)
    evaluation = ViewEvaluation(task, views, window, keys, words(protocol, views, window))
    try:
        trainer.validate(evaluation, source, verbose=False)
    finally:
        source.close()
    assert evaluation.predictions is not None
    return evaluation.predictions
