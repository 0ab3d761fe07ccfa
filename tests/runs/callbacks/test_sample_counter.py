"""What is counted, what stops a run, and what a resumed run goes on from."""

from types import SimpleNamespace

import pytest
import torch

from nlnet.errors import UserError
from nlnet.runs.callbacks.sample_counter import ENOUGH_SAMPLES, SampleCounter


def batch(weights, failures, padding=None):
    return {
        "weights": torch.tensor(weights, dtype=torch.float32),
        "padding": torch.tensor(padding or [False] * len(weights)),
        "failures": failures,
        "errors": {cause: f"{key} is broken" for key, cause in reversed(failures)},
        "reading": {"bytes": 1000, "retries": 2, "seconds": 0.5},
    }


def count(account, *batches):
    logged = []
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda figures, **_: logged.append(figures))
    for one in batches:
        account.on_train_batch_end(SimpleNamespace(is_last_batch=one.get("last", False)), module, None, one, 0)
    return logged


def test_everything_is_counted_logged_and_resumed():
    account = SampleCounter(max_skipped=0.5)
    logged = count(
        account,
        batch([1, 1, 0, 0], [("a", "checksum"), ("b", "short")]),
        batch([1, 0, 1, 0], [("c", "checksum")], padding=[False, False, False, True]),
    )
    expected = {
        "samples_read": 4,
        "samples_skipped": {"checksum": 2, "short": 1},
        "first_errors": {"checksum": "a is broken", "short": "b is broken"},
        "bytes_read": 2000,
        "read_retries": 4,
        "data_wait_seconds": 1.0,
    }
    assert account.totals() == expected
    assert logged[0] == {
        "data/samples_read": 2, "data/samples_skipped": 2, "data/gigabytes_read": 1e-6, "data/read_retries": 2,
        "data/wait_seconds": 0.5, "data/skipped/checksum": 1, "data/skipped/short": 1,
    }  # fmt: skip
    assert logged[1]["data/samples_skipped"] == 3  # since the run began
    assert logged[1]["data/skipped/checksum"] == 2
    resumed = SampleCounter(max_skipped=0.5)
    resumed.load_state_dict(account.state_dict())
    assert resumed.totals() == expected
    assert count(resumed, batch([1, 0], [("d", "missing shard")]))[0]["data/skipped/missing_shard"] == 1
    assert resumed.totals() == expected | {
        "samples_read": 5, "bytes_read": 3000, "read_retries": 6, "data_wait_seconds": 1.5,
        "samples_skipped": {"checksum": 2, "short": 1, "missing shard": 1},
        "first_errors": {"checksum": "a is broken", "short": "b is broken", "missing shard": "d is broken"},
    }  # fmt: skip
    assert SampleCounter(max_skipped=0.5).totals() == {}  # nothing to report where nothing was trained


def test_too_large_a_share_stops_once_there_is_enough_to_judge():
    account = SampleCounter(max_skipped=0.1, max_consecutive=50)
    few = batch([1] * 8 + [0] * 2, [("a", "short"), ("b", "short")])
    count(account, *[few] * (ENOUGH_SAMPLES // 10 - 1))
    words = r"40 of 200 .*\(40 short; the first short: a is broken\), more than data.max_skipped=0.1; the last were a"
    with pytest.raises(UserError, match=words):
        count(account, few)


def test_failures_in_a_row_stop_and_a_good_sample_begins_anew():
    lost = [(f"k{k}", "missing shard") for k in range(3)]
    account = SampleCounter(max_skipped=1.0, max_consecutive=6)
    count(account, batch([1, 0, 0, 0], lost), batch([0, 0, 1, 0], lost), batch([0, 0, 0, 1], lost))
    count(account, batch([0, 0, 0], lost))
    resumed = SampleCounter(max_skipped=1.0, max_consecutive=6)  # the row goes on after a resume
    resumed.load_state_dict(account.state_dict())
    with pytest.raises(UserError, match=r"6 of them one after the other \(data.max_consecutive_failures\); .*k2"):
        count(resumed, batch([0, 0, 0], lost))


def test_at_the_end_of_an_epoch_and_of_training_few_samples_are_enough(capsys):
    account = SampleCounter(max_skipped=0.1)
    few = batch([1, 1, 1, 0], [("a", "short")])
    count(account, few)
    assert capsys.readouterr().out == "a sample could not be read (short); the first: a is broken\n"
    with pytest.raises(UserError, match=r"1 of 4 training samples .*more than data.max_skipped=0.1"):
        account.on_train_end(None, None)
    with pytest.raises(UserError, match=r"2 of 8 training samples .*more than data.max_skipped=0.1"):
        count(account, few | {"last": True})
    assert capsys.readouterr().out == ""  # each cause once
    allowed = SampleCounter(max_skipped=0.25)
    count(allowed, few, few | {"last": True})
    allowed.on_train_end(None, None)


def test_an_epoch_without_a_weight_is_an_error_wherever_it_was_resumed():
    nothing, good = batch([0, 0], [("a", "short"), ("b", "short")]), batch([1, 1], [])
    account = SampleCounter(max_skipped=1.0)
    count(account, good | {"last": True}, nothing)
    resumed = SampleCounter(max_skipped=1.0)
    resumed.load_state_dict(account.state_dict())
    with pytest.raises(UserError, match=r"no sample of this epoch has a weight.* \(4 short; the first short: a is"):
        count(resumed, nothing | {"last": True})
    halfway = SampleCounter(max_skipped=1.0)
    count(halfway, good)
    resumed.load_state_dict(halfway.state_dict())
    count(resumed, nothing | {"last": True})  # the first half of this epoch had some
    unweighted = SampleCounter(max_skipped=1.0)
    count(unweighted, batch([0, 0], []))  # a data module's own weights
    with pytest.raises(UserError, match="no sample of the whole training has a weight, so nothing was learned in it;"):
        unweighted.on_train_end(None, None)
