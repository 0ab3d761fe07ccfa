"""The W&B sweep file, expanded as an agent expands it."""

import itertools

import pytest
import yaml

from conftest import ROOT
from nlnet.config.resolve import load


def points():
    sweep = yaml.safe_load((ROOT / "configs" / "sweeps" / "table2a.yaml").read_text())
    names = list(sweep["parameters"])
    for values in itertools.product(*(sweep["parameters"][name]["values"] for name in names)):
        arguments = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        fixed = {"${env}": [], "${interpreter}": [], "${program}": [], "${args_no_hyphens}": arguments}
        yield [part for word in sweep["command"] for part in fixed.get(word, [word])]


def test_the_file_runs_this_program_and_names_a_logged_figure():
    sweep = yaml.safe_load((ROOT / "configs" / "sweeps" / "table2a.yaml").read_text())
    assert (ROOT / sweep["program"]).is_file()
    assert "${args_no_hyphens}" in sweep["command"]
    assert sweep["metric"]["name"] == load(next(iter(points()))).task.monitor


@pytest.mark.parametrize("overrides", list(points()), ids=str)
def test_every_point_composes(overrides):
    cfg = load([*overrides, "data.shards=/data/kinetics"])
    assert cfg.logger.wandb.save_dir is None  # the run's folder, once there is one
    assert cfg.size_name == "full"
    assert cfg.model.name == "c2d_r50"


def test_the_points_are_the_rows_of_the_table():
    configs = [load([*overrides, "data.shards=/data/kinetics"]) for overrides in points()]
    rows = {(cfg.model.nonlocal_blocks, cfg.model.pairwise) for cfg in configs}
    functions = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
    assert rows == {(0, "embedded_gaussian"), *((1, name) for name in functions)}
