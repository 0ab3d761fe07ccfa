"""The tables of docs/scale.md are those of their results, and what they claim of an order comes out again."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def script(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@pytest.fixture(scope="module")
def scale() -> Any:
    return script("scale")


def test_the_page_shows_how_long_a_start_takes() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / "benchmarks" / "results" / "resume_time.json").read_text(encoding="utf-8"))
    assert script("resume_time").table(report) in page
    [million] = [found for found in report["sets"] if found["samples"] == 10**6]
    seconds = million["cpu_seconds"]
    assert max(seconds.values()) - seconds["new"] <= 3
    assert max(million["manifest_in_a_worker"].values()) <= 300


def test_the_page_shows_the_results(scale: Any) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text(encoding="utf-8"))
    assert scale.order_table(results) in page
    assert scale.manifest_table(results) in page
    assert f"{results['requests_a_second']:,.0f} ranges" in page
    rows = results["orders"]
    assert [row["samples"] for row in rows] == [10**6, 10**7, 10**8]
    assert all(row["ranks_agree"] and row["left_out"] == row["samples"] % scale.BATCH for row in rows)
    assert max(row["epoch_megabytes"] for row in rows) < 10


def test_a_small_set_gives_figures_of_the_same_kind(scale: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale.orders, "WHOLE", scale.orders.WHOLE)  # which the script changes
    kept = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text(encoding="utf-8"))
    found = scale.order_figures(100_000)
    assert set(found) == set(kept["orders"][0])
    assert (found["left_out"], found["ranks_agree"]) == (100_000 % scale.BATCH, True)
    assert 0.9 < found["requests_a_clip"] <= 1
    listed = scale.manifest_figures(20_000)
    assert set(listed) == set(kept["manifest"])
    for name in ("json", "column", "object"):
        assert listed[f"{name}_bytes_a_sample"] == pytest.approx(kept["manifest"][f"{name}_bytes_a_sample"], rel=0.2)
