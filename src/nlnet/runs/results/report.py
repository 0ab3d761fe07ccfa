"""The last words of a run: its metrics, and where everything is."""

from collections.abc import Mapping
from pathlib import Path

from nlnet.distributed import print_once
from nlnet.tasks.task import Task


def report(metrics: Mapping[str, float], task: Task, run_dir: Path, best: tuple[Path, str] | None = None) -> None:
    """Print the metrics, and a line for each file of the run that is there; `best` is a checkpoint and what it is."""
    for name in sorted(metrics):
        if name.startswith(("val/", "test/")):
            print_once(f"  {name:<24} {metrics[name]:.4f}")
    if absent := task.absent_classes():
        more = f" and {len(absent) - 5} more, see summary.json" if len(absent) > 5 else ""
        print_once(f"  classes without a positive, left out of the mAP: {', '.join(absent[:5])}{more}")
    for name, rule in task.rules().items():
        print_once(f"  {name}: {rule}")
    here = Path.cwd()
    print_once(f"run directory: {run_dir.relative_to(here) if run_dir.is_relative_to(here) else run_dir}")
    files = {
        "summary.json": "what ran, with which result",
        "curves.png": "loss and metrics over the steps",
        "metrics.csv": "every logged metric",
        **task.outputs,
        "attention": "what positions of fixed clips attend to",
        "config.yaml": "the configuration in force",
        **({f"checkpoints/{best[0].name}": best[1]} if best else {}),
        "checkpoints/last.ckpt": "to continue with ckpt_path=last",
    }
    for name, what in files.items():
        if (run_dir / name).exists():
            print_once(f"  {name:<22} {what}")
