import math

import pytest
import torch

from nlnet.config.compose import compose
from nlnet.errors import UserError
from nlnet.optim.schedules import constant, cosine, poly, step, step_epochs


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


def test_poly_is_what_segmentation_is_trained_with():
    """mmsegmentation's: from 0.01 to 0.0001 by (1 - s / S)^0.9; here of a rate of 0.5."""
    seen = rates(poly, 100, power=0.9, final=0.01)
    assert seen == pytest.approx([0.005 + 0.495 * (1 - s / 100) ** 0.9 for s in range(100)])
    assert rates(poly, 6, warmup=2)[:3] == pytest.approx([0.25, 0.5, 0.5])


def test_detectrons_1x_from_its_source():
    """A third of the rate, linear to the whole of it at step 500, a tenth after 60k and 80k of 90k."""
    schedule = compose(["experiment=coco_mask"]).optim.schedule
    options = {key: value for key, value in schedule.items() if not key.startswith("_")}
    factor = step(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), 90_000, **options).lr_lambdas[0]
    for s in (0, 1, 250, 499):
        alpha = s / 500
        assert factor(s) == pytest.approx((1 - alpha) / 3 + alpha, abs=1e-5)
    for s, rate in ((500, 1), (59_999, 1), (60_001, 0.1), (79_999, 0.1), (80_001, 0.01), (89_999, 0.01)):
        assert factor(s) == pytest.approx(rate)


def test_cosine_closed_form():
    expected = [0.5 * (s + 1) / 10 for s in range(10)]
    expected += [0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * (s - 10) / 90)) / 2) for s in range(10, 100)]
    assert rates(cosine, 100, warmup=10, final=0.1) == pytest.approx(expected, abs=1e-12)


def test_milestones_in_epochs():
    in_steps = rates(step, 120, milestones=[44, 88], warmup=5)
    assert rates(step_epochs, 120, milestones=[4.4, 8.8], warmup=0.5, epochs=12) == in_steps
    for unknown in (-1, None):
        with pytest.raises(UserError, match=r"trainer\.max_epochs"):
            rates(step_epochs, 120, milestones=[4], epochs=unknown)


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_rescaled_when_the_rate_changes(nesterov):
    """As released: V <- mu V + lr g, p <- p - V (Nesterov: p - (1 + mu) V + mu V_old), V scaled by new / old rate."""
    torch.manual_seed(0)
    start, mu = torch.randn(5, dtype=torch.float64), 0.9
    lrs = [0.5] * 4 + [0.05] * 4 + [0.005] * 4

    def gradient(p):
        return p.sin() + 0.1 * p

    ends = []
    for rescale in (True, False):
        p, v = start.clone(), torch.zeros(5, dtype=torch.float64)
        for t, lr in enumerate(lrs):
            v = v * lr / lrs[t - 1] if rescale and t else v
            old, v = v, mu * v + lr * gradient(p)
            p = p - ((1 + mu) * v - mu * old if nesterov else v)
        ends.append(p)
    ours = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([ours], lr=0.5, momentum=mu, nesterov=nesterov)
    scheduler = step(optimizer, total_steps=12, milestones=[4, 8])
    for _ in lrs:
        ours.grad = gradient(ours.detach())
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(ours.detach(), ends[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ends[0], ends[1], rtol=1e-3)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="must not decrease"):
        rates(step, 10, milestones=[8, 2])
    with pytest.raises(ValueError, match="-3"):
        rates(constant, 10, warmup=-3)
