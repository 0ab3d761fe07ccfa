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
        "reading": {"bytes": 1000, "retries": 2, "seconds": 0.5},
    }


def count(account, *batches):
    logged = []
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda figures, **_: logged.append(figures))
    for one in batches:
        account.on_train_batch_end(SimpleNamespace(world_size=1), module, None, one, 0)
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
    }  # fmt: skip
    assert SampleCounter(max_skipped=0.5).totals() == {}  # nothing to report where nothing was trained


def test_too_large_a_share_stops_once_there_is_enough_to_judge():
    account = SampleCounter(max_skipped=0.1, max_consecutive=50)
    few = batch([1] * 8 + [0] * 2, [("a", "short"), ("b", "short")])
    count(account, *[few] * (ENOUGH_SAMPLES // 10 - 1))
    with pytest.raises(UserError, match=r"40 of 200 .*\(40 short\), more than data.max_skipped=0.1; the last were a"):
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
