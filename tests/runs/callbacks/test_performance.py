"""Figures of a training's speed are those of its steps, and a probe of the data changes nothing that is kept."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nlnet.config.resolve import load
from nlnet.data.batches.base import complete_batch
from nlnet.errors import UserError
from nlnet.runs.callbacks.performance import Performance, matmul_rate
from nlnet.runs.probe import STEPS, ProbeData
from nlnet.runs.train import train

BASE = ["experiment=charades_nl", "size=demo", "data.batch_size=2", "data.num_workers=0", "callbacks.progress=null"]
BATCH, STEP_S, WAIT_S = 4, 0.02, 0.01


def batches(count):
    for _ in range(count):
        time.sleep(WAIT_S)
        yield complete_batch({}, torch.arange(BATCH)) | {"reading": {"bytes": 0, "retries": 0, "seconds": WAIT_S}}


def test_the_figures_are_those_of_the_steps_alone():
    logged = {}
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda found, **_: logged.update(found))
    trainer = SimpleNamespace(precision="32-true", log_every_n_steps=5)
    performance = Performance(gmacs=0.5)
    assert performance.totals() == {}
    performance.on_train_start(trainer, module)
    for _ in range(2):
        time.sleep(0.1)
        performance.on_train_epoch_start(trainer, module)
        for k, batch in enumerate(batches(10)):
            time.sleep(STEP_S)
            performance.on_train_batch_end(trainer, module, None, batch, k)
            if k == 6:
                time.sleep(0.5)  # a validation
                performance.on_validation_end(trainer, module)
    found = performance.totals()["performance"]
    assert (
        set(logged)
        == {f"perf/{name}" for name in found}
        == {f"perf/{n}" for n in ("samples_per_second", "data_wait_share", "mfu")}
    )
    for rate in (found["samples_per_second"], logged["perf/samples_per_second"]):
        assert 0.5 < rate * (STEP_S + WAIT_S) / BATCH <= 1
    assert 0.1 < found["data_wait_share"] <= WAIT_S / (STEP_S + WAIT_S)
    peak = 6 * 0.5e9 * found["samples_per_second"] / found["mfu"]
    assert 0.2 < matmul_rate(torch.device("cpu"), "32-true") / peak < 5


def test_a_device_that_is_not_known_has_no_utilization():
    assert matmul_rate(torch.device("meta"), "32-true") == 0


def test_a_probe_tells_the_share_of_the_data(capsys):
    data = SimpleNamespace(train_dataloader=lambda: list_of_batches)
    list_of_batches = batches(1000)
    probe = ProbeData(data, SimpleNamespace(callbacks=[]))
    loader = data.train_dataloader()
    assert len(loader) == 2 * STEPS
    seen = []
    for batch in loader:
        seen.append(batch["reading"]["seconds"])
        time.sleep(STEP_S)
    assert seen == [WAIT_S] * STEPS + [0.0] * STEPS
    found = probe.totals()["probe"]
    assert found["data_share"] == pytest.approx(WAIT_S / (STEP_S + WAIT_S), abs=0.15)
    assert found["samples_per_second"]["from memory"] > found["samples_per_second"]["as they come"]
    probe.say()
    assert "of the time is for data. A perfect loader would give" in capsys.readouterr().out
    short = ProbeData(SimpleNamespace(train_dataloader=lambda: batches(2)), SimpleNamespace(callbacks=[]))
    list(short._taken_over())
    with pytest.raises(UserError, match="fewer than 4 batches"):
        short.result()


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.full
def test_a_run_that_probes_keeps_nothing_and_changes_no_other(charades_shards, tmp_path, capsys):
    words = [*BASE, f"data.shards={charades_shards}", "trainer.max_epochs=1"]
    train(load([*words, f"paths.run_dir={tmp_path}/run", "trainer.limit_train_batches=2"]))
    before = contents(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"samples_per_second", "data_wait_share", "mfu"} == set(summary["performance"])
    train(load([*words, f"paths.run_dir={tmp_path}/probed", "extras.probe_data=true", "callbacks=precise_bn"]))
    probed = json.loads((tmp_path / "probed" / "summary.json").read_text())
    assert set(probed["probe"]) == {"seconds", "samples_per_second", "data_share"}
    assert not list((tmp_path / "probed").rglob("*.ckpt"))
    assert "Nothing was trained" in capsys.readouterr().out
    for more in (f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", "ckpt_path=last", "test=true"):
        with pytest.raises(UserError, match="keeps nothing of it"):
            train(load([*words, f"paths.run_dir={tmp_path}/run", "extras.probe_data=true", more]))
    with pytest.raises(UserError, match="holds the records of a run"):
        train(load([*words, f"paths.run_dir={tmp_path}/run", "extras.probe_data=true"]))
    assert contents(tmp_path / "run") == before
