"""Weights & Biases with what a run needs of it: offline without a key, and the same id after a resume."""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from nlnet.distributed import is_first
from nlnet.runs.run_dir import read_record, write_record
from nlnet.text import masked


def wandb_logger(save_dir: str, project: str, **options: Any) -> WandbLogger:
    """A WandbLogger that writes below the run's folder `save_dir`.

    The id is decided before the run starts and kept in its `summary.json`, so that a run that is resumed there goes on
    under the same id. Without a key (`WANDB_API_KEY` or a login) and without `WANDB_MODE` the run is kept offline, to
    be uploaded later with `wandb sync`.
    """
    folder = Path(save_dir)
    record = read_record(folder)
    run_id = options.pop("id", None) or os.environ.get("WANDB_RUN_ID") or record.get("wandb_id") or secrets.token_hex(4)
    if is_first():
        write_record(folder, record | {"wandb_id": run_id})
    if not _has_key() and "WANDB_MODE" not in os.environ:
        options["offline"] = True
    if masked(sys.argv) != sys.argv:  # W&B would keep the command line
        from wandb import Settings

        options.setdefault("settings", Settings(x_disable_meta=True))
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(save_dir=save_dir, project=project, id=run_id, resume="allow", **options)


def finish() -> None:
    """End the W&B run of this process, so that the next point of a multirun gets one of its own."""
    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
