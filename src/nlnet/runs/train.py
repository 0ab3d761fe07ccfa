"""A training from its configuration to its last words."""

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from nlnet.distributed import print_once
from nlnet.errors import RunInterrupted, UserError
from nlnet.runs.build import make_trainer
from nlnet.runs.callbacks.applied import AppliedSettings
from nlnet.runs.callbacks.exact_resume import ExactResume, SaveLast
from nlnet.runs.callbacks.finite import FiniteNumbers
from nlnet.runs.callbacks.metrics_csv import MetricsCsv
from nlnet.runs.callbacks.signals import leave_requeuing
from nlnet.runs.continuing.source import Source, check_source, opened
from nlnet.runs.continuing.which import run_folder
from nlnet.runs.durability.checkpoint_io import DurableCheckpointIO
from nlnet.runs.durability.restoring import CheckedRestore, restoring_error
from nlnet.runs.execution import check_devices
from nlnet.runs.file_names import METRICS
from nlnet.runs.identity.ranks import agree_first, failing_together
from nlnet.runs.identity.resumed import Identity
from nlnet.runs.loggers import finish, mark_preempting
from nlnet.runs.preflight import check_training
from nlnet.runs.probe import ProbeData, probing
from nlnet.runs.record import logged_metrics, settings_yaml
from nlnet.runs.results.best import describe_best, keep_if_best, test_the_best
from nlnet.runs.results.curves import draw
from nlnet.runs.results.report import report
from nlnet.runs.run_dir import discard
from nlnet.runs.start import Run, start
from nlnet.runs.watching.rank_watch import RankWatch, limit_waiting, rank_timeout_s


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Train as `cfg` says (see `nlnet.config.resolve.load`), and test where `test` is true.

    With `train=false` the weights of `ckpt_path` are tested, or else those of `init.checkpoint`. Returns the metrics of
    the last validation (and of the best one's monitored metric as `best`), and the objects: `run_dir`, `trainer`,
    `task`, `data`.
    """
    if cfg.extras.print_config:
        for text in settings_yaml(cfg).split("\n"):
            print_once(text)
    check_devices(cfg.trainer)
    if cfg.extras.get("probe_data"):
        cfg = probing(cfg)
    with failing_together(cfg), run_folder(cfg) as placed:
        placed, source = opened(placed)
        run = start(placed)
    every = run.cfg.extras.checkpoint_every_n_steps
    resume = ExactResume(run.folder / "checkpoints", run.cfg.seed, every, mark_preempting)
    metrics_csv = MetricsCsv(run.folder / METRICS, run.cfg.trainer.log_every_n_steps)
    trainer = None
    try:
        watch = RankWatch(rank_timeout_s(run.cfg), partial(run.record.end_early, "failed", {}))
        with failing_together(run.cfg):
            trainer = _make_trainer(run, (watch, resume, metrics_csv), source)
        return _train(run, trainer, watch, resume, metrics_csv, source)
    except BaseException as error:
        if trainer is None:
            run.record.end_early("failed", {}, error)
            run.data.close()
        raise
    finally:
        run.lock.release()
        if trainer is None and run.new:  # refused before anything was done
            finish(failed=True)
            discard(run.folder)


def _train(
    run: Run,
    trainer: pl.Trainer,
    watch: RankWatch,
    resume: ExactResume,
    metrics_csv: MetricsCsv,
    source: Source | None,
) -> tuple[dict[str, float], dict[str, Any]]:
    cfg, metrics, failed = run.cfg, dict[str, float](), True
    probe = ProbeData(run.data, trainer) if cfg.extras.get("probe_data") else None
    try:
        with watch.over():
            if cfg.train:
                _fit(run, trainer, source.path if source else None)
                _validate_the_end(run, trainer, resume, source)
            metrics = logged_metrics(trainer)
            if cfg.test:
                metrics |= _test(run, trainer)
        failed = False
    except RunInterrupted:
        run.record.end_early("interrupted", metrics)
        raise
    except BaseException as error:
        run.record.end_early("failed", metrics, error)
        raise
    finally:
        finish(failed=failed, figures=run.record.figures())
        run.data.close()
    if probe:
        run.record.measured.append(probe)
        probe.say()
    best = describe_best(trainer, run.task.monitor)
    run.record.end("finished", metrics, best=best[0] if best else None)
    if trainer.is_global_zero and not cfg.trainer.get("fast_dev_run"):
        draw(metrics_csv.path, run.task.monitor, run.folder / "curves.png", run.folder.name)
        report(metrics, run.task, run.folder, best)
    return metrics, {"run_dir": run.folder, "trainer": trainer, "task": run.task, "data": run.data}


def _make_trainer(run: Run, own: tuple[RankWatch, ExactResume, MetricsCsv], source: Source | None) -> pl.Trainer:
    """The trainer, once all that can be looked at before is right. Raises UserError."""
    io = DurableCheckpointIO()
    watch, resume, metrics_csv = own
    callbacks = [
        watch,
        CheckedRestore(),
        FiniteNumbers(resume.path),
        run.counter,
        run.performance,
        metrics_csv,
        resume,
        Identity(run.data),
    ]
    applied = AppliedSettings()
    trainer = make_trainer(run.cfg, [*callbacks, applied], io, last=[SaveLast(resume)])
    check_training(run, trainer)
    leave_requeuing(trainer)
    limit_waiting(trainer, rank_timeout_s(run.cfg))
    if source:
        applied.settings = check_source(source, run, trainer)
        io.hand_over(source.path, source.checkpoint)
    agree_first(trainer, run.cfg, run.data)
    return trainer


def _fit(run: Run, trainer: pl.Trainer, resume_from: Path | None) -> None:
    """Train. Raises UserError for a checkpoint whose state is not that of such a run, and for what is refused."""
    try:
        trainer.fit(run.task, datamodule=run.data, ckpt_path=resume_from, weights_only=True)
    except Exception as error:
        if resume_from and (mistake := restoring_error(error, resume_from, trainer)):
            raise mistake from error
        if isinstance(error, MisconfigurationException):
            raise UserError(" ".join(str(error).split())) from error
        raise


def _validate_the_end(run: Run, trainer: pl.Trainer, resume: ExactResume, source: Source | None) -> None:
    """Where the last steps are not at an epoch's end, or a resume found all steps done: validated, or cut short."""
    logged = resume.validated_step == trainer.global_step and run.task.monitor in trainer.callback_metrics
    if trainer.enable_validation and not logged:
        trainer.validate(run.task, datamodule=run.data, verbose=False)
        validated = resume.path if resume.path.is_file() or source is None else source.path
        if validated.is_file():  # fast_dev_run writes none
            keep_if_best(trainer, validated)


def _test(run: Run, trainer: pl.Trainer) -> dict[str, float]:
    if run.cfg.train:
        return test_the_best(trainer, run.task, run.data)
    trainer.test(run.task, run.data, verbose=False)  # the weights that it was made with
    return logged_metrics(trainer)
