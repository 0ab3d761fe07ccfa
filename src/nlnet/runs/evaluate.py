"""The evaluation of a checkpoint: training's validation once more, or a test of many views."""

from pathlib import Path

from omegaconf import DictConfig

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.mismatch import check_fits
from nlnet.checkpoints.pretrained import run_state
from nlnet.distributed import is_first, print_once
from nlnet.evaluation.predictions import FILE
from nlnet.runs.build import make_trainer, task_class
from nlnet.runs.record import logged_metrics
from nlnet.runs.report import report
from nlnet.runs.start import start


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Validate `cfg.ckpt_path` (see `nlnet.config.run_config`); the metrics go to a run folder of their own.

    Callbacks of the configuration are called as in training. Raises UserError for a protocol that is not for this task,
    and for a checkpoint of another network.
    """
    views = task_class(cfg).plan_evaluation(cfg.protocol, cfg.data)
    run = start(cfg)
    path = Path(cfg.ckpt_path)
    where = f"ckpt_path={path}"
    state = run_state(read_file(path, "ckpt_path="), where)
    check_fits(state, run.task.state_dict(), where)
    run.task.load_state_dict(state)
    trainer = make_trainer(run.cfg)
    try:
        predictions = run.task.evaluate(trainer, run.data, run.cfg.protocol, views)
    finally:
        run.data.close()
    metrics = logged_metrics(trainer)
    run.record.end("finished", metrics)
    if is_first():
        report(metrics, run.task, run.folder)
        if predictions is not None:
            predictions.save(run.folder / FILE)
            print_once(f"  {FILE:<22} the scores of every video and view")
    return metrics
