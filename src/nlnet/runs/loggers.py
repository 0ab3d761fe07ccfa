"""Weights & Biases with what a run needs of it: offline without a key, and the same id after a resume."""

import os
import secrets
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from nlnet.distributed import is_first
from nlnet.errors import UserError
from nlnet.reading import read_yaml
from nlnet.runs.run_dir import read_record, write_record
from nlnet.text import masked

_LONGEST = 128  # characters of a run's name


def wandb_logger(save_dir: str, project: str, **options: Any) -> WandbLogger:
    """A WandbLogger that writes below the run's folder `save_dir`.

    The id is decided before the run starts and kept in its `summary.json`, so that a run that is resumed there goes on
    under the same id. Without a key (`WANDB_API_KEY` or a login) and without `WANDB_MODE` the run is kept offline, to
    be uploaded later with `wandb sync`.
    """
    folder = Path(save_dir)
    record = read_record(folder)
    run_id = options.pop("id", None) or os.environ.get("WANDB_RUN_ID") or record.get("wandb_id") or secrets.token_hex(4)
    if options.get("name") is None and record.get("wandb_id") is None:  # one that goes on keeps its name
        options["name"] = _varying() or folder.name
    if is_first():
        write_record(folder, record | {"wandb_id": run_id})
    if not _has_key() and "WANDB_MODE" not in os.environ:
        options["offline"] = True
    if masked(sys.argv) != sys.argv:  # W&B would keep the command line
        from wandb import Settings

        options.setdefault("settings", Settings(x_disable_meta=True))
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(save_dir=save_dir, project=project, id=run_id, resume="allow", **options)


def log_images(loggers: Iterable[Logger], name: str, images: Sequence[np.ndarray], step: int) -> None:
    """Give pictures (H, W, 3) uint8 to the loggers that take any: W&B, TensorBoard."""
    for logger in loggers if images else ():
        if hasattr(logger, "log_image"):
            logger.log_image(name, list(images), step=step)
        elif isinstance(logger, TensorBoardLogger):
            for number, image in enumerate(images):
                of_one = name if len(images) == 1 else f"{name}_{number}"
                logger.experiment.add_image(of_one, image, step, dataformats="HWC")


def finish(*, failed: bool = False, figures: Mapping[str, Any] | None = None) -> None:
    """End the W&B run of this process, so that the next point of a multirun gets one of its own.

    Its summary gets these `figures` besides the last of each metric.
    """
    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.run.summary.update(dict(figures or {}))
        wandb.finish(exit_code=int(failed))


def mark_preempting(number: int) -> None:
    """Tell W&B that this run ends by this signal for the sake of others: an agent takes it up again.

    Not for SIGINT, which is a person's, and not where W&B itself ends the run (an early termination).
    """
    wandb = sys.modules.get("wandb")
    if number != signal.SIGINT and wandb is not None and wandb.run is not None and not _is_stopped(wandb.run):
        wandb.run.mark_preempting()


def _is_stopped(run: Any) -> bool:
    """Whether W&B has asked this run to stop, as far as its client has heard of it."""
    with suppress(Exception):  # the client asks itself so, and has no public name for it
        checker = run._run_status_checker._stop_checker
        return bool(checker._asyncer.run(checker._impl._check_should_stop))
    return False


def _varying() -> str | None:
    """What the agent of a sweep has given this run, such as `experiment=table2a_gaussian,seed=0`."""
    try:
        parameters = read_yaml(Path(os.environ["WANDB_SWEEP_PARAM_PATH"]))
        varying = {key: how["value"] for key, how in parameters.items() if isinstance(how, dict) and "value" in how}
    except (KeyError, OSError, UserError, AttributeError):
        return None
    return ",".join(f"{key}={value}" for key, value in varying.items())[:_LONGEST] or None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
