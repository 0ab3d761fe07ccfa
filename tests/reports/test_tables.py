"""The tables of the project, and what a table's file may hold."""

import re
import sys
from pathlib import Path

import pytest
from benchmarks.experiments_table import header

from conftest import ROOT
from helpers.document import sections
from nlnet.config.compose import options
from nlnet.errors import UserError
from nlnet.reports.tables import load_table, table_names

EXPERIMENTS = set(options("experiment"))
ROW = "{label: a, experiment: mine, published: [1]}"
HEAD = "title: T\nsource: S\nmetrics: [{name: a, label: b}]\n"


@pytest.mark.parametrize("name", [name for name in table_names() if name.startswith("table")])
def test_rows_repeat_what_their_experiments_say(name: str) -> None:
    """The figures in the first lines of an experiment's file are those of its row."""
    table = load_table(name)
    for row in table.rows:
        if row.experiment not in EXPERIMENTS or (table.baseline_of(row) is None and not row.baseline):
            continue
        sources = [
            source
            for source in header(row.experiment).sources
            if source.startswith(f"Table {name[5:].partition('_')[0]}, ")
        ]
        figures = [float(figure) for source in sources for figure in re.findall(r"(\d\d\.\d) ", source)]
        assert set(figures) <= {*row.published} or not any(row.published), row
        assert bool(figures) == any(row.published), row


def test_the_table_of_the_documents_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = next(section for section in sections(ROOT / "docs" / "extending.md") if section.title == "A table")
    ((path, text),) = page.files.items()
    monkeypatch.setattr(sys, "argv", ["nlnet-report", "--config-dir", str(tmp_path)])
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / Path(path).name).write_text(text)
    table = load_table("mine")
    assert [row.experiment for row in table.rows] == ["charades_i3d", "mine", None]
    assert [metric.scale for metric in table.metrics] == [100, 1]
    assert table.rows[1].published == (37.5, None)


def test_every_row_of_a_table_is_in_it() -> None:
    """Every experiment that is named after a table is a row of that table."""
    named = {name for name in EXPERIMENTS if name.split("_")[0] in table_names()}
    assert named <= {row.experiment for table in map(load_table, table_names()) for row in table.rows}


def test_groups_have_their_own_baseline() -> None:
    table = load_table("table2c")
    assert {row.label: table.baseline_of(row) for row in table.rows if row.baseline} == {"baseline": None}
    baselines = {row.experiment: getattr(table.baseline_of(row), "experiment", None) for row in table.rows}
    assert baselines["table2c_10"] == "table2c_baseline"
    assert baselines["table2c_r101_10"] == "table2c_r101_baseline"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: T\nsource: S\nmetrics: [{name: val/top1, label: x, unit: m}]\nrows: []\n", "metrics, 1: unit: 'm'"),
        (f"title: T\nsource: S\nmetrics: []\nrows: [{ROW}]\n", "metrics has no entry"),
        (f"title: T\nsource: S\nrows: [{ROW}]\n", "metrics: None: expected a list"),
        (HEAD + "rows: [{label: a, published: [1, 2]}]", "rows, 1: published"),
        (HEAD + "rows: [{label: a, publised: [1]}]", "nearest: published"),
        (HEAD + "rows: [{label: a, baseline: 1}]", "expected true or false"),
        (HEAD + "rows: [{label: a}, {label: a}]", "two have the label a"),
        (f"{HEAD}rows: [{ROW}, {ROW[:-1]}, group: g}}]", "experiment mine"),
        (HEAD + "rows: [{label: a, baseline: true}, {label: b, baseline: true}]", "two are the baseline; leave one"),
        ("title: [T]\nsource: S\nmetrics: [{name: a, label: b}]\nrows: []\n", "title: ['T']: expected a text"),
        ("- 1\n", "expected keys of"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_line(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nlnet-report", "--config-dir", str(tmp_path)])
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_table("mine")
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/tables/mine.yaml: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["table2", "../tables/table2a", "", "/etc/passwd"])
def test_another_name_is_no_table(name: str) -> None:
    with pytest.raises(UserError, match="there is no such table; "):
        load_table(name)
