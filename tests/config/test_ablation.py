"""The ablation: every point composes, its tables have its rows, and the rows of a table differ in what it varies."""

import itertools

import pytest
import yaml
from omegaconf import OmegaConf

from conftest import ROOT
from nlnet.config.compose import compose
from nlnet.config.resolve import load
from nlnet.data.synthetic.longrange import GROUPS

SWEEP = yaml.safe_load((ROOT / "configs" / "sweeps" / "ablation.yaml").read_text())
TABLES = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "configs" / "tables").glob("ablation_*.yaml"))
}
ROWS = SWEEP["parameters"]["experiment"]["values"]


def flat(experiment: str) -> dict[str, object]:
    """The settings by dotted key."""
    found: dict[str, object] = {}

    def add(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                add(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            found[prefix] = node

    add(OmegaConf.to_container(compose([f"experiment={experiment}", "size=ablation"])), "")
    return found


COMPOSED = {name: flat(name) for name in ROWS}


def test_the_points_are_all_rows_with_three_seeds_and_shared_rows_once() -> None:
    assert len(set(ROWS)) == len(ROWS) == 11
    assert SWEEP["parameters"]["seed"]["values"] == [0, 1, 2]
    assert sorted({row["experiment"] for table in TABLES.values() for row in table["rows"]}) == sorted(ROWS)
    assert [len(table["rows"]) for table in TABLES.values()] == [5, 4, 4, 4]


@pytest.mark.parametrize("variable", ["", "WANDB_SWEEP_ID", "SLURM_JOB_ID"])
def test_a_point_trains_on_the_built_in_set_wherever_it_is_started(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in for no data, so nobody has to ask for it."""
    if variable:
        monkeypatch.setenv(variable, "7")
    cfg = load(["experiment=ablation_time", "seed=2"])
    assert (cfg.demo, cfg.data.dataset, cfg.data.shards.split("/")[-1]) == (True, "longrange", "longrange-v1")
    assert (cfg.model.name, cfg.data.frames, cfg.data.size, cfg.data.flip) == ("c2d_demo", 4, 32, False)


def test_every_row_differs_from_the_others_and_only_in_what_its_table_varies() -> None:
    for table in TABLES.values():
        rows = [row["experiment"] for row in table["rows"]]
        assert rows[0] == "ablation_baseline"
        assert table["rows"][0]["baseline"]
        for a, b in itertools.combinations(rows, 2):
            differing = {key for key in COMPOSED[a] if COMPOSED[a][key] != COMPOSED[b][key]}
            assert differing
            assert differing <= set(table["varies"]), (a, b)


def test_the_tables_show_what_is_logged() -> None:
    logged = {None, *(f"val/AUROC_{group}" for group in GROUPS)}
    assert all({metric["name"] for metric in table["metrics"]} <= logged for table in TABLES.values())
    assert SWEEP["metric"]["name"] == load([f"experiment={ROWS[0]}"]).task.monitor in logged
