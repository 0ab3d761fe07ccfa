import math

import pytest
import torch

from nlnet.runs.schedules import constant, cosine, step


def rates(schedule, steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = schedule(optimizer, total_steps=steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_step_is_the_papers():
    seen = rates(step, 400, milestones=[150, 300])
    assert seen == pytest.approx([0.5] * 150 + [0.05] * 150 + [0.005] * 100)


def test_shares_and_steps_say_the_same():
    assert rates(step, 400, milestones=[0.375, 0.75], warmup=0.05) == rates(step, 400, milestones=[150, 300], warmup=20)


def test_warm_up_rises_linearly_and_never_stands_still():
    assert rates(constant, 6, warmup=4) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert rates(constant, 3, warmup=1) == pytest.approx([0.5] * 3)


def test_cosine_closed_form():
    expected = [0.5 * (s + 1) / 10 for s in range(10)]
    expected += [0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * (s - 10) / 90)) / 2) for s in range(10, 100)]
    assert rates(cosine, 100, warmup=10, final=0.1) == pytest.approx(expected, abs=1e-12)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="must not decrease"):
        rates(step, 10, milestones=[8, 2])
    with pytest.raises(ValueError, match="-3"):
        rates(constant, 10, warmup=-3)
