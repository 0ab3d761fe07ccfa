"""lightning-bolts 0.7.0 beside Lightning 2: the one name its import misses, and its learning-rate schedule.

`import pl_bolts` fails on Lightning 2 because two of its callbacks import `apply_to_collection` from
`pytorch_lightning.utilities.apply_func`, a module that moved to lightning-utilities. `import_bolts` stands in for that
module while pl_bolts loads; everything in pl_bolts but its reinforcement-learning and YOLO models then imports.
"""

import importlib
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nlnet.errors import UserError

MOVED = "pytorch_lightning.utilities.apply_func"
UNDER_REVIEW = "The feature .* is currently marked under review"


def import_bolts() -> ModuleType:
    """`import pl_bolts`, leaving behind no stand-in module, no warning filter and no new name in numpy.

    Raises UserError where lightning-bolts is not installed.
    """
    if "pl_bolts" in sys.modules:
        return sys.modules["pl_bolts"]
    with _moved_module(), _numpy_as_it_was(), _review_warnings_silenced():
        try:
            return importlib.import_module("pl_bolts")
        except ModuleNotFoundError as error:
            if error.name != "pl_bolts":
                raise
    raise UserError(
        "the schedule bolts_warmup_cosine needs lightning-bolts, which is not installed: run `make bolts`, or choose "
        "nlnet's own optim/schedule=cosine"
    )


def bolts_warmup_cosine(
    optimizer: Optimizer, total_steps: int, *, warmup_steps: float, warmup_start_lr: float = 0.0, min_lr: float = 0.0
) -> LRScheduler:
    """pl_bolts' LinearWarmupCosineAnnealingLR, to be stepped after each optimizer step.

    With T = total_steps and w = warmup_steps, where a value below 1 is a share of T and stands for two steps at least,
    the rate of a parameter group of base rate b at step k is

        warmup_start_lr + (b - warmup_start_lr) k / (w - 1)          for k < w,
        min_lr + (b - min_lr) (1 + cos(pi (k - w) / (T - w))) / 2    for w <= k <= T:

    the first step is taken at `warmup_start_lr`, the last one of the warm-up at b. A run shorter than its warm-up ends
    within it.

    Raises UserError where lightning-bolts is not installed, and for w of 0 or 1: pl_bolts divides by w - 1, and without
    a warm-up its rate would stay at `warmup_start_lr` for good.
    """
    w = max(2, round(warmup_steps * total_steps)) if 0 < warmup_steps < 1 else int(warmup_steps)
    if w < 2:
        raise UserError(
            f"optim.schedule.warmup_steps={warmup_steps}: bolts_warmup_cosine needs at least 2 steps, or a share of "
            "all steps between 0 and 1; for no warm-up choose optim/schedule=cosine"
        )
    import_bolts()
    schedules = importlib.import_module("pl_bolts.optimizers.lr_scheduler")
    with _review_warnings_silenced():
        scheduler: LRScheduler = schedules.LinearWarmupCosineAnnealingLR(
            optimizer, w, max(total_steps, w + 1), warmup_start_lr=warmup_start_lr, eta_min=min_lr
        )
    return scheduler


@contextmanager
def _moved_module() -> Iterator[None]:
    from lightning_utilities.core.apply_func import apply_to_collection

    stand_in = ModuleType(MOVED)
    stand_in.apply_to_collection = apply_to_collection  # type: ignore[attr-defined]
    sys.modules[MOVED] = stand_in
    try:
        yield
    finally:
        del sys.modules[MOVED]


@contextmanager
def _numpy_as_it_was() -> Iterator[None]:
    # pl_bolts gives numpy back its removed aliases (numpy.int, ...): kept, they would hide their use elsewhere.
    before = set(vars(numpy))
    try:
        yield
    finally:
        for name in (set(vars(numpy)) - before) & {"object", "bool", "int", "float"}:
            delattr(numpy, name)


@contextmanager
def _review_warnings_silenced() -> Iterator[None]:
    # Ignored by message, since their category exists only once pl_bolts is loaded; and recorded as well, since pl_bolts
    # puts a filter of its own before ours while it loads. Any other warning goes on its way.
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("ignore", message=UNDER_REVIEW)
        warnings.filterwarnings("ignore", message="In the future `np.object`", category=FutureWarning)
        yield
    for warning in caught:
        if not re.match(UNDER_REVIEW, str(warning.message)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
