"""The sweep files of the project: each is what W&B reads, and every point of each composes."""

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from conftest import ROOT
from nlnet.config.resolve import load
from nlnet.config.words import read_words
from nlnet.reports.tables import load_table
from nlnet.sweeps.points import points
from nlnet.sweeps.sweep_file import read_sweep

FOLDER = ROOT / "configs" / "sweeps"
TABLES = sorted(path.stem for path in FOLDER.glob("table*.yaml"))
ROWS = [(name, point) for name in TABLES for point in points(read_sweep(FOLDER / f"{name}.yaml"))]


def content(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def agents_words(sweep, values):
    """The words after the program in the command that W&B's agent makes of a point."""
    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros |= {"env": [], "interpreter": [], "program": []}
    words = create_sweep_command(list(sweep["command"]))
    parts = [macros.get(word[2:-1], [word]) if word.startswith("${") else [word] for word in words]
    return [word for part in parts for word in part if word not in ("-m", "nlnet.cli.train")]


def test_there_is_one_for_each_table():
    of_letters = [f"table2{letter}" for letter in "abcdefg"]
    assert sorted([*of_letters, "table2a_paper", *(f"table{number}" for number in range(3, 7))]) == TABLES


@pytest.mark.parametrize("name", TABLES)
def test_points_are_the_rows_of_the_table_times_the_seeds(name):
    parameters = content(name)["parameters"]
    rows, seeds = parameters["experiment"]["values"], parameters["seed"]["values"]
    within = ["table4", "table4_trainval"] if name == "table4" else [name]
    assert rows == [row.experiment for table in within for row in load_table(table).rows if row.experiment]
    found = [point.name for _, point in ROWS if _ == name]
    assert found == [f"experiment={row},seed={seed}" for row in rows for seed in seeds]


@pytest.mark.parametrize(("name", "point"), ROWS, ids=lambda part: getattr(part, "name", part))
def test_an_agent_types_what_runs_here(name, point):
    sweep = content(name)
    values = dict(word.split("=") for word in point.words if word.split("=")[0] in sweep["parameters"])
    there = read_words(agents_words(sweep, values | {"seed": int(values["seed"])}))
    assert there == ["logger=wandb", *point.words]


def check_composes(name, point):
    cfg = load(["logger=wandb", *point.words, "data.shards=/data"])
    assert cfg.logger.wandb.group == name
    assert list(cfg.logger.wandb.tags) == [name]
    assert cfg.task.monitor == content(name)["metric"]["name"]
    assert point.name == f"experiment={cfg.experiment_name},seed={cfg.seed}"
    assert cfg.size_name == "full"


@pytest.mark.parametrize("name", TABLES)
def test_the_first_point_composes(name):
    check_composes(*next(row for row in ROWS if row[0] == name))


@pytest.mark.parametrize(("name", "point"), ROWS, ids=lambda part: getattr(part, "name", part))
@pytest.mark.full
def test_every_point_composes(name, point):
    check_composes(name, point)


def test_the_search_composes_at_its_corners():
    sweep = content("search")
    for pick in (min, max):
        values = {
            key: how["value"] if "value" in how else pick(how["values"]) if "values" in how else how[pick.__name__]
            for key, how in sweep["parameters"].items()
        }
        cfg = load([*read_words(agents_words(sweep, values)), "data.shards=/data"])
        assert cfg.optim.optimizer.lr == values["optim.optimizer.lr"]
        assert cfg.model.nonlocal_blocks == values["model.nonlocal_blocks"]
        assert cfg.model.dropout == values["model.dropout"]
        assert cfg.optim.optimizer.weight_decay == values["optim.optimizer.weight_decay"]
        assert cfg.task.monitor == sweep["metric"]["name"]


@pytest.mark.parametrize("name", [*TABLES, "search"])
def test_a_file_is_of_the_schema_of_wandbs_sweeps(name):
    """Its own validator is in a package apart (`make peers`), which the server has as well."""
    spec = importlib.util.find_spec("sweeps")
    if spec is None or spec.origin is None:
        pytest.skip("the package sweeps is not installed: make peers")
    schema = json.loads((Path(spec.origin).parent / "config" / "schema.json").read_text())
    checker = jsonschema.FormatChecker()
    checker.checks("float")(lambda value: isinstance(value, float))
    checker.checks("integer")(lambda value: isinstance(value, int))
    validator = jsonschema.Draft7Validator(schema, format_checker=checker)
    assert [error.message for error in validator.iter_errors(content(name))] == []
    assert list(validator.iter_errors(content(name) | {"method": "guess"})) != []
