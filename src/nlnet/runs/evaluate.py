"""The evaluation of a checkpoint: training's validation once more, or a test of many views."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.mismatch import check_fits
from nlnet.checkpoints.pretrained import chosen_weights, run_state
from nlnet.distributed import is_first, print_once
from nlnet.errors import UserError
from nlnet.evaluation.predictions import FILE
from nlnet.evaluation.views import Views
from nlnet.runs.build import make_trainer, task_class
from nlnet.runs.callbacks.finite import FiniteNumbers
from nlnet.runs.continuing.which import run_folder
from nlnet.runs.execution import check_devices
from nlnet.runs.identity.ranks import agree_first, failing_together
from nlnet.runs.identity.resumed import check_evaluated
from nlnet.runs.loggers import finish
from nlnet.runs.record import logged_metrics
from nlnet.runs.results.report import report
from nlnet.runs.start import Run, start
from nlnet.runs.watching.rank_watch import RankWatch, limit_waiting, rank_timeout_s


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Validate `cfg.ckpt_path` (see `nlnet.config.run_config`); the metrics go to a run folder of their own.

    Callbacks of the configuration are called as in training. Raises UserError for a protocol that is not for this task,
    and for a checkpoint of another network.
    """
    check_devices(cfg.trainer)
    path = Path(cfg.ckpt_path)
    with _settings_of(path):
        views = task_class(cfg).plan_evaluation(cfg.protocol, cfg.data)
        checkpoint = chosen_weights(read_file(path, "ckpt_path="), cfg.weights, f"ckpt_path={path}")
        state = run_state(checkpoint, f"ckpt_path={path}")
        weights = {key.removeprefix("net."): v for key, v in state.items() if str(key).startswith("net.")}
    with failing_together(cfg), _settings_of(path), run_folder(cfg) as placed:
        run = start(placed, weights)
    try:
        return _evaluate(run, views, checkpoint)
    finally:
        run.lock.release()


def _evaluate(run: Run, views: Views | None, checkpoint: Mapping[str, Any]) -> dict[str, float]:
    path = Path(run.cfg.ckpt_path)
    watch = RankWatch(rank_timeout_s(run.cfg), partial(run.record.end_early, "failed", {}))
    try:
        with failing_together(run.cfg):
            with _settings_of(path):
                _load(run, checkpoint, f"ckpt_path={path}")
                trainer = make_trainer(run.cfg, [watch, FiniteNumbers()])
            limit_waiting(trainer, watch.timeout_s)
            agree_first(trainer, run.cfg, run.data)
        with watch.over():
            predictions = run.task.evaluate(trainer, run.data, run.cfg.protocol, views)
    except BaseException as error:
        run.record.end_early("failed", {}, error)
        raise
    finally:
        run.data.close()
    metrics = logged_metrics(trainer)
    finish(figures=run.record.figures())
    run.record.end("finished", metrics)
    if is_first():
        report(metrics, run.task, run.folder)
        if predictions is not None:
            predictions.save(run.folder / FILE)
            print_once(f"  {FILE:<22} the scores of every video and view")
    return metrics


@contextmanager
def _settings_of(path: Path) -> Iterator[None]:
    """What goes wrong while a run is made from the settings of a file is the file's fault, and said in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"ckpt_path={path}: no run can be made with its settings: {type(error).__name__}: {error}; restore its"
            " run's config.yaml (extras.traceback=true shows where)"
        ) from error


def _load(run: Run, checkpoint: Mapping[str, Any], where: str) -> None:
    """The checkpoint's weights into the task, after a look at what it was trained on."""
    state = run_state(checkpoint, where)
    check_fits(state, run.task.state_dict(), where)
    check_evaluated(checkpoint, run.data, run.cfg, where)
    run.task.load_state_dict(state)
