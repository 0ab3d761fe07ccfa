"""docs/cluster.md and the files of scripts/: what they say is computed, parsed and composed."""

import json
import subprocess

import pytest
import yaml
from benchmarks.recipe_costs import costs, table
from torch.distributed.run import get_args_parser

from conftest import ROOT
from nlnet.config.compose import compose

RECIPES = yaml.safe_load((ROOT / "tests" / "config" / "golden" / "recipes.yaml").read_text())
GMACS = json.loads((ROOT / "benchmarks" / "results" / "experiments.json").read_text())["gmacs"]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def test_the_table_of_costs_is_up_to_date() -> None:
    """`python benchmarks/recipe_costs.py` prints it anew."""
    assert table(RECIPES, GMACS) in PAGE


def test_a_cost_by_hand() -> None:
    cost = costs({"trainer": {"max_steps": 400_000}, "data": {"batch_size": 64}, "epochs": 109}, 41.3, 100, 0.51)
    assert cost["samples"] == 25_600_000
    assert cost["hours"] == pytest.approx(25.6e6 * 41.3e9 * 2 * 3 / 100e12 / 3600)
    assert cost["terabytes"] == pytest.approx(13.056)


def torchrun(arguments: list[str]) -> tuple[object, list[str]]:
    """What torchrun understands, and the words of the training."""
    options = get_args_parser().parse_args(arguments)
    assert options.training_script == "src/train.py"
    return options, options.training_script_args


def test_the_job_of_kubernetes_starts_what_torchrun_and_we_understand(monkeypatch: pytest.MonkeyPatch) -> None:
    service, job = yaml.safe_load_all((ROOT / "scripts" / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options, words = torchrun(container["args"])
    nodes, gpus = job["spec"]["completions"], container["resources"]["limits"]["nvidia.com/gpu"]
    assert (options.nnodes, options.nproc_per_node) == (str(nodes), str(gpus))
    assert job["spec"]["parallelism"] == nodes
    assert options.rdzv_endpoint.startswith(f"{job['metadata']['name']}-0.{service['metadata']['name']}:")
    assert pod["subdomain"] == service["metadata"]["name"]
    assert options.rdzv_id == f"$({container['env'][0]['name']})"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(gpus))
    monkeypatch.setenv("GROUP_WORLD_SIZE", str(nodes))
    trainer = compose(words).trainer
    assert (trainer.devices, trainer.num_nodes, trainer.strategy) == (gpus, nodes, "ddp")


def test_the_script_of_slurm_is_bash_and_its_trainer_has_slurms_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "scripts" / "train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    trainer = compose(["experiment=kinetics_i3d_nl", "trainer=slurm"]).trainer
    assert (trainer.devices, trainer.num_nodes, trainer.accelerator) == (8, 2, "gpu")


def test_the_command_of_torchrun_on_the_page() -> None:
    (line,) = [line for line in PAGE.splitlines() if line.startswith("torchrun ")]
    options, words = torchrun(line.split()[1:])
    assert options.max_restarts == 20
    assert words == ["experiment=kinetics_i3d_nl", "trainer=multinode"]
