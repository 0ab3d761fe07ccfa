"""Learning-rate schedules by optimizer step, as closed-form factors of the base rate.

Each is called as `schedule(optimizer, total_steps=...)`; the trainer supplies the total. A warm-up of `w` steps rises
linearly: factor (s + 1) / w at step s < w, so that no step has a rate of 0. Lengths below 1 are shares of the total.
"""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nlnet.errors import UserError


def step(
    optimizer: Optimizer,
    total_steps: int,
    *,
    milestones: Sequence[float],
    gamma: float = 0.1,
    warmup: float = 0,
    warmup_start: float = 0,
) -> LambdaLR:
    """gamma^k once the k-th milestone is reached (paper section 4.1: a tenth at every 150k of 400k iterations).

    With a `warmup_start` of f > 0 the warm-up is f + (1 - f) s / w at step s < w, as Detectron's with f = 1/3.
    """
    marks = [_steps(mark, total_steps) for mark in milestones]
    if marks != sorted(marks):
        raise ValueError(f"milestones must not decrease, got {list(milestones)}")
    length = _steps(warmup, total_steps)
    return _schedule(optimizer, length, lambda s: gamma ** sum(s >= mark for mark in marks), warmup_start)


def step_epochs(
    optimizer: Optimizer,
    total_steps: int,
    *,
    milestones: Sequence[float],
    epochs: int,
    gamma: float = 0.1,
    warmup: float = 0,
) -> LambdaLR:
    """`step` with milestones and warm-up in epochs, of `epochs` altogether; half an epoch is 0.5.

    Raises UserError if the run's length is not given in epochs.
    """
    if epochs is None or epochs < 1:
        raise UserError("optim/schedule=step_epochs counts epochs: set trainer.max_epochs, or length=epochs")
    marks = [_epochs(mark, epochs, total_steps) for mark in milestones]
    return step(optimizer, total_steps, milestones=marks, gamma=gamma, warmup=_epochs(warmup, epochs, total_steps))


def cosine(optimizer: Optimizer, total_steps: int, *, warmup: float = 0, final: float = 0.0) -> LambdaLR:
    """final + (1 - final) (1 + cos(pi (s - w) / (S - w))) / 2, half a period from the end of the warm-up to the end."""
    start = _steps(warmup, total_steps)

    def factor(s: int) -> float:
        progress = min(1.0, (s - start) / max(1, total_steps - start))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return _schedule(optimizer, start, factor)


def poly(
    optimizer: Optimizer, total_steps: int, *, power: float = 0.9, warmup: float = 0, final: float = 0.0
) -> LambdaLR:
    """final + (1 - final) (1 - (s - w) / (S - w))^power, from the end of the warm-up to the end."""
    start = _steps(warmup, total_steps)

    def factor(s: int) -> float:
        left = max(0.0, 1 - (s - start) / max(1, total_steps - start))
        return final + (1 - final) * left**power

    return _schedule(optimizer, start, factor)


def constant(optimizer: Optimizer, total_steps: int, *, warmup: float = 0) -> LambdaLR:
    """1 after the warm-up."""
    return _schedule(optimizer, _steps(warmup, total_steps), lambda _: 1.0)


def _schedule(optimizer: Optimizer, warmup: int, factor: Callable[[int], float], start: float = 0) -> LambdaLR:
    def rate(s: int) -> float:
        if s >= warmup:
            return factor(s)
        return start + (1 - start) * s / warmup if start else (s + 1) / warmup

    return LambdaLR(optimizer, rate)


def _epochs(length: float, epochs: int, total_steps: int) -> int:
    return round(length * total_steps / epochs)


def _steps(length: float, total_steps: int) -> int:
    if length < 0:
        raise ValueError(f"a length in steps, or in shares of the total below 1, cannot be {length}")
    return round(length * total_steps) if 0 < length < 1 else int(length)
