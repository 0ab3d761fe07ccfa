"""Within a table of the paper the rows differ in what the table varies, and in nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from conftest import ROOT
from nlnet.config.compose import compose
from nlnet.reports.tables import load_table, table_names

RECIPES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).with_name("golden") / "recipes.yaml").read_text())

TABLES = {name: load_table(name) for name in table_names() if name.startswith("table")}
# Groups of a table are networks of other depth. torchvision has no ImageNet weights of X152.
DEPTH = {"model.name", "model.backbone", "init.images"}


def rows(table: str) -> list[str]:
    return [row.experiment for row in TABLES[table].rows if row.experiment]


def groups(table: str) -> list[list[str]]:
    """The experiments of each group."""
    of_group: dict[str, list[str]] = {}
    for row in TABLES[table].rows:
        of_group.setdefault(row.group, []).extend([row.experiment] if row.experiment else [])
    return [names for names in of_group.values() if names]


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def varied(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The keys in which some rows differ, with the value of each row; one that a row lacks is None in it."""
    flat = {row: dict(leaves(values)) for row, values in settings.items()}
    keys = {key for values in flat.values() for key in values}
    columns = {key: {row: values.get(key) for row, values in flat.items()} for key in sorted(keys)}
    return {key: column for key, column in columns.items() if len({repr(value) for value in column.values()}) > 1}


def check(table: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """The rows of a group differ in what the table says, in all of it in some group, and groups by depth besides."""
    of_groups = [set(varied({row: settings[row] for row in group})) for group in groups(table)]
    assert set().union(*of_groups) == set(TABLES[table].varies)
    assert set(varied({row: settings[row] for row in rows(table)})) <= {*TABLES[table].varies, *DEPTH}


@pytest.mark.parametrize("table", TABLES)
def test_the_recipes_of_a_table_differ_in_what_it_varies(table: str) -> None:
    assert len(rows(table)) > 1
    check(table, RECIPES)


@pytest.mark.full
@pytest.mark.parametrize("table", TABLES)
def test_nothing_else_differs_in_the_whole_configuration(table: str) -> None:
    whole: dict[str, Any] = {
        row: OmegaConf.to_container(compose([f"experiment={row}"]), resolve=True) for row in rows(table)
    }
    check(table, whole)


@pytest.mark.parametrize("table", ["table2g", "table2f"])
def test_another_stem_in_one_row_is_found(table: str) -> None:
    """Such as the released 55x55 map among rows with the paper's 56x56."""
    settings = {row: RECIPES[row] for row in rows(table)}
    settings[rows(table)[1]] = RECIPES["kinetics_i3d_128f" if table == "table2g" else "kinetics_i3d_32x2"]
    assert {"model.geometry", "model.pool1_padding"} <= set(varied(settings)) - {*TABLES[table].varies, *DEPTH}


def test_what_the_blocks_of_table_2_are_is_said() -> None:
    """The first lines of each file of 2a to 2f, and that it is so."""
    for row in (row for table in TABLES if table[:6] == "table2" and table != "table2g" for row in rows(table)):
        text = (ROOT / "configs" / "experiment" / f"{row}.yaml").read_text()
        top = " ".join(line.removeprefix("# ") for line in text.split("defaults:")[0].splitlines())
        paper = row.startswith("table2a_paper")
        words = (
            ["No scale", "after their convolutions", "He's"] if paper else ["1/sqrt(D)", "before their", "N(0, 0.01)"]
        )
        assert all(word in top for word in words), row
        model = RECIPES[row]["model"]
        assert (model["geometry"], model["pool1_padding"]) == ("paper", 1)
        assert model["nonlocal_options"]["preset"] == ("paper" if paper else "official")
