"""docs/experiments.md says what the experiments are, and each file begins as all do."""

import json
from pathlib import Path

import pytest
import yaml
from benchmarks.experiments_table import FOLDER, LEFT_OUT, SECTIONS, Header, gmacs, header, markdown

from conftest import ROOT
from nlnet.config.compose import compose, options

RECIPES = yaml.safe_load((Path(__file__).with_name("golden") / "recipes.yaml").read_text())
COSTS = json.loads((ROOT / "benchmarks" / "results" / "experiments.json").read_text())["gmacs"]
NAMES = [name for name in options("experiment") if not name.startswith(LEFT_OUT)]
HEADERS = {name: header(name) for name in NAMES}
ALIASES = {name: head.alias for name, head in HEADERS.items() if head.alias}
QUICK = ("kinetics_i3d_nl_8x8", "coco_mask_nl")


def test_the_page_is_up_to_date() -> None:
    """`python benchmarks/experiments_table.py` makes it anew."""
    assert (ROOT / "docs" / "experiments.md").read_text() == markdown(HEADERS, RECIPES, COSTS)


def test_every_experiment_has_a_section_and_a_cost_of_its_own() -> None:
    assert {name.split("_")[0] for name in NAMES} == set(SECTIONS)
    assert sorted(COSTS) == sorted(set(NAMES) - set(ALIASES))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in COSTS]
)
def test_the_cost_is_counted(name: str) -> None:
    assert gmacs(name) == COSTS[name]


def test_an_alias_is_its_target() -> None:
    assert all(RECIPES[alias] == RECIPES[target] for alias, target in ALIASES.items())
    distinct = {yaml.safe_dump(RECIPES[name], sort_keys=True) for name in NAMES}
    assert len(distinct) == len(COSTS)  # and whatever is the same recipe is an alias
    assert not set(ALIASES.values()) & set(ALIASES)  # of a recipe, not of an alias


@pytest.mark.parametrize(
    "name", [name if name == "table2c_1" else pytest.param(name, marks=pytest.mark.full) for name in ALIASES]
)
def test_an_alias_composes_as_its_target(name: str) -> None:
    assert compose([f"experiment={name}"]) == compose([f"experiment={ALIASES[name]}"])


def test_a_row_of_an_alias_is_a_row_of_its_table() -> None:
    for name, head in HEADERS.items():
        if name.startswith("table") and name != "table5_r50_gc":  # GCNet's, which the paper does not have
            assert any(source.startswith(f"Table {name[5:].split('_')[0]}, ") for source in head.sources), name


@pytest.mark.parametrize(
    "text",
    [
        "# Table 2f, C2D R50: 71.8 top-1\n# What.\ndefaults:\n",
        "# @package _global_\n# What.\ndefaults:\n",
        "# @package _global_\n# Table 2f, C2D R50: 71.8\n# What.\ndefaults:\n",
        "# @package _global_\n# Table 2f, C2D R50: 71.8 top-1\ndefaults:\n  - x\n",
        "# @package _global_\n# Table 2f, C2D R50: 71.8 top-1\n# No full stop\ndefaults:\n",
        "# @package _global_\n# Table 2f, C2D R50: 71.8 top-1\ndefaults: [x]\nmodel: {}\n",
    ],
)
def test_another_beginning_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml: its first lines have to be"):
        header("mine", tmp_path)


def test_a_beginning_is_read() -> None:
    assert FOLDER.is_dir()
    assert header("table2f_c2d") == Header(["Table 2f, C2D R50: 71.8 top-1"], "", "kinetics_c2d")
    both = header("table2g_nl_i3d")
    assert both.sources == ["Table 2g, NL I3D R50: 76.5 top-1", "Table 3, NL I3D R50: 76.5 top-1"]
    assert both.what.startswith("NL I3D R50 on 128 consecutive frames, with the pools of Table 1, from ")
