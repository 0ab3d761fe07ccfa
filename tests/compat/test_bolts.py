"""lightning-bolts beside Lightning 2. The tests of the schedule itself need `make bolts`."""

import importlib.util
import io
import math
import sys
import warnings

import numpy
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from nlnet.compat.bolts import MOVED, bolts_warmup_cosine, import_bolts
from nlnet.errors import UserError

installed = pytest.mark.skipif(
    importlib.util.find_spec("pl_bolts") is None, reason="lightning-bolts is not installed (make bolts)"
)


def sgd(*rates: float) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(optimizer: SGD, scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """The rate of each group at each of the next steps."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def closed_form(k: int, base: float, warmup: int, total: int, start: float, end: float) -> float:
    if k < warmup:
        return start + (base - start) * k / (warmup - 1)
    return end + (base - end) * (1 + math.cos(math.pi * (k - warmup) / (total - warmup))) / 2


def forget_bolts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pl_bolts"]:
        monkeypatch.delitem(sys.modules, name)


@installed
@pytest.mark.parametrize(
    ("warmup", "total", "start", "end"), [(5, 40, 0.0, 0.0), (2, 3, 1e-3, 0.0), (30, 200, 0.01, 1e-4)]
)
def test_follows_the_closed_form_at_every_step(warmup: int, total: int, start: float, end: float) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = bolts_warmup_cosine(optimizer, total, warmup_steps=warmup, warmup_start_lr=start, min_lr=end)
    seen = rates(optimizer, scheduler, total + 1)
    expected = [[closed_form(k, base, warmup, total, start, end) for base in (0.1, 0.02)] for k in range(total + 1)]
    numpy.testing.assert_allclose(seen, expected, rtol=1e-9, atol=1e-12)


@installed
def test_resumes_bit_for_bit_from_a_state_of_plain_types() -> None:
    whole = sgd(0.1)
    expected = rates(whole, bolts_warmup_cosine(whole, 30, warmup_steps=6), 30)
    first = sgd(0.1)
    scheduler = bolts_warmup_cosine(first, 30, warmup_steps=6)
    seen = rates(first, scheduler, 17)
    file = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = sgd(0.1)
    resumed = bolts_warmup_cosine(second, 30, warmup_steps=6)
    second.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["scheduler"])
    assert seen + rates(second, resumed, 13) == expected


@installed
def test_import_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_bolts(monkeypatch)
    names = set(vars(numpy))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        bolts = import_bolts()
        assert warnings.filters == filters
    assert caught == []
    assert set(vars(numpy)) - names <= set(numpy.__all__)  # numpy itself may load a submodule late
    assert not hasattr(numpy, "int")
    assert MOVED not in sys.modules
    assert bolts.callbacks.TrainingDataMonitor.__module__ == "pl_bolts.callbacks.data_monitor"


@installed
@pytest.mark.parametrize(("share", "total", "steps"), [(0.1, 40, 4), (0.01, 40, 2), (0.5, 41, 20)])
def test_a_warm_up_below_one_is_a_share_of_all_steps(share: float, total: int, steps: int) -> None:
    by_share, by_steps = sgd(0.1), sgd(0.1)
    expected = rates(by_steps, bolts_warmup_cosine(by_steps, total, warmup_steps=steps), total)
    assert rates(by_share, bolts_warmup_cosine(by_share, total, warmup_steps=share), total) == expected


@installed
@pytest.mark.parametrize(("warmup", "total"), [(0.1, 1), (4, 4), (5, 3)])
def test_a_run_shorter_than_its_warm_up_ends_within_it(warmup: float, total: int) -> None:
    optimizer = sgd(0.1)
    seen = rates(optimizer, bolts_warmup_cosine(optimizer, total, warmup_steps=warmup), total)
    assert seen == [[pytest.approx(0.1 * k / (max(warmup, 2) - 1))] for k in range(total)]


@pytest.mark.parametrize("warmup", [-3, 0, 1])
def test_a_warm_up_it_cannot_do_is_refused(warmup: int) -> None:
    with pytest.raises(UserError, match=f"warmup_steps={warmup}: .* optim/schedule=cosine"):
        bolts_warmup_cosine(sgd(0.1), 10, warmup_steps=warmup)


def test_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_bolts(monkeypatch)
    monkeypatch.setattr(sys, "meta_path", [_NoBolts(), *sys.meta_path])
    with pytest.raises(UserError, match="make bolts"):
        import_bolts()
    assert MOVED not in sys.modules


class _NoBolts:
    """A finder under which pl_bolts is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pl_bolts":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
