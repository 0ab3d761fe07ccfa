"""The recipes: what every experiment resolves to, word for word, and the same recipe in epochs.

`python tests/config/test_experiments.py` writes golden/recipes.yaml anew; its difference is what a change does to them.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from nlnet.config.compose import compose, options
from nlnet.optim.schedules import step

GOLDEN = Path(__file__).with_name("golden") / "recipes.yaml"
# One of each kind; the rest are compared by the full tests.
QUICK = [
    "kinetics_c2d", "kinetics_i3d_nl_128f", "kinetics_i3d_8x8_300k_4gpu", "charades_nl_lfb_r101", "table2d_time",
    "table5_r101_nl", "coco_keypoint_nl", "ade20k_dnl", "denoise_nlrn",
]  # fmt: skip
# Training videos; images with objects, and with persons; patches of the images of BSD, or of DIV2K
SAMPLES = {
    "kinetics": 234_643,
    "charades": 7_985,
    "charades, train and test": 7_985 + 1_863,
    "something": 86_017,
    "coco": 117_266,
    "persons": 64_115,
    "cityscapes": 2_975,
    "ade20k": 20_210,
    "voc": 10_582,  # trainaug
    "denoise_nlrn": 400 * 40,
    "denoise_rnan": 800 * 20,
    "denoise_dncnn": 400 * 512,
}
# The others are of the demo's size alone, and their rows are those of configs/tables/ablation_*.yaml.
PUBLISHED = [name for name in options("experiment") if not name.startswith("ablation_")]
SECTIONS = {
    "data": [
        *("dataset", "train_split", "flip", "batch_size"),
        *("frames", "stride", "fps", "size", "scale"),
        *("masks", "keypoints", "short_sides", "max_size"),
        *("ratio", "crop", "most_of_one", "color"),
        *("channels", "sigma", "patch_size", "patches_per_image"),
    ],
    "trainer": ["max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "precision"],
}


def recipe(experiment: str, *more: str) -> dict[str, Any]:
    """What of the configuration decides how a network is trained, in plain types."""
    cfg = compose([f"experiment={experiment}", *more])
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    precise = plain["callbacks"].get("precise_bn")
    plain["optim"]["optimizer"].pop("fused")  # how it is computed, not what
    parts = {name: {key: plain[name][key] for key in keys if key in plain[name]} for name, keys in SECTIONS.items()}
    return parts | {
        "task": plain["task"]["kind"],
        "model": {key: value for key, value in plain["model"].items() if key != "_target_"},
        "init": plain["init"],
        "optim": plain["optim"],
        "precise_bn": precise and precise["batches"],
        "epochs": plain["epochs"],
    }


@functools.cache
def _golden() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(GOLDEN.read_text()) if GOLDEN.is_file() else {}


def golden() -> dict[str, dict[str, Any]]:
    return copy.deepcopy(_golden())


def write() -> None:
    lines = []
    for experiment in PUBLISHED:
        lines.append(f"{experiment}:")
        for name, value in sorted(recipe(experiment).items()):
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=True)
            lines.append(f"  {name}: {text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}")
    GOLDEN.write_text("\n".join(lines) + "\n")


def test_there_is_a_recipe_for_each_experiment() -> None:
    assert list(golden()) == PUBLISHED


@pytest.mark.parametrize(
    "experiment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in golden()]
)
def test_the_recipe_is_the_golden_one(experiment: str) -> None:
    assert recipe(experiment) == golden()[experiment]


def test_every_row_of_the_papers_tables_5_and_6_is_there() -> None:
    names = {name for name in golden() if name.startswith(("table5", "table6"))}
    table5 = {f"table5_{net}_{row}" for net in ("r50", "r101", "x152") for row in ("baseline", "nl")}
    assert names == table5 | {"table5_r50_gc", "table6_baseline", "table6_head", "table6_head_backbone"}
    blocks = {
        name: (golden()[name]["model"]["nonlocal_blocks"], golden()[name]["model"].get("head_blocks")) for name in names
    }
    assert all(count == (int(name.endswith("_nl")), None) for name, count in blocks.items() if name in table5)
    assert [blocks[f"table6_{row}"] for row in ("baseline", "head", "head_backbone")] == [(0, 0), (0, 4), (1, 4)]


def test_every_row_of_the_papers_table_2_is_there() -> None:
    names = [name.removeprefix("table2") for name in golden() if name.startswith("table2")]
    paper = [name for name in names if name.startswith("a_paper_")]  # the same functions with the paper's choices
    assert paper == [f"a_paper_{name}" for name in ("concatenation", "dot_product", "embedded_gaussian", "gaussian")]
    assert [sum(name[0] == letter for name in names) for letter in "abcdefg"] == [5 + len(paper), 5, 8, 8, 4, 6, 6]


def test_every_row_of_the_papers_tables_3_and_4_that_is_its_authors_is_there() -> None:
    names = {name for name in golden() if name.startswith(("table3", "table4"))}
    table4 = {f"table4_{net}{splits}" for net in ("i3d", "nl_i3d") for splits in ("", "_trainval")}
    assert names == table4 | {"table3_nl_i3d", "table3_r101_nl_i3d"}
    for name in table4:
        parts = golden()[name]
        assert parts["model"]["nonlocal_blocks"] == (5 if "nl" in name else 0)
        assert parts["data"]["train_split"] == (["train", "test"] if name.endswith("trainval") else "train")


@pytest.mark.parametrize("experiment", golden())
def test_iterations_and_epochs_are_as_long(experiment: str) -> None:
    """To half an epoch."""
    parts = golden()[experiment]
    kind = "persons" if parts["data"].get("keypoints") else parts["data"]["dataset"]
    kind = experiment if kind == "photographs" else kind
    if not isinstance(splits := parts["data"]["train_split"], str):
        kind += f", {' and '.join(splits)}"
    an_epoch = SAMPLES[kind] / parts["data"]["batch_size"]
    assert parts["trainer"]["max_steps"] / an_epoch == pytest.approx(parts["epochs"], abs=0.5)
    assert all(0 < milestone < 1 for milestone in parts["optim"]["schedule"].get("milestones", ()))  # so they go along


def test_length_epochs_trains_the_same_recipe_in_epochs() -> None:
    in_epochs, in_steps = recipe("kinetics_i3d_8x8_300k", "length=epochs"), golden()["kinetics_i3d_8x8_300k"]
    assert (in_epochs["trainer"].pop("max_steps"), in_epochs["trainer"].pop("max_epochs")) == (-1, 82)
    del in_steps["trainer"]["max_steps"], in_steps["trainer"]["max_epochs"]
    assert in_epochs == in_steps


def rates(total: int, milestones: list[float]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = step(optimizer, total_steps=total, milestones=milestones).lr_lambdas[0]
    return [factor(s) for s in range(0, total, total // 1000)]


@pytest.mark.parametrize(
    ("experiment", "released"),
    [
        ("kinetics_i3d_nl_8x8", [150_000, 300_000]),
        ("kinetics_i3d_nl_128f", [150_000, 300_000]),
        ("kinetics_i3d_8x8_300k", [150_000, 250_000]),
        ("kinetics_i3d_8x8_600k_4gpu", [300_000, 500_000]),
        ("charades_nl", [75_000, 150_000]),
        ("charades_nl_lfb", [20_000]),
        ("coco_mask", [60_000, 80_000]),
        ("denoise_nlrn", [100_000, 200_000, 300_000, 400_000, 450_000]),
        ("denoise_rnan", [200_000, 400_000, 600_000, 800_000]),
        ("denoise_dncnn", [30 * 1600]),
    ],
)
def test_fractions_are_the_published_iterations(experiment: str, released: list[float]) -> None:
    parts = golden()[experiment]
    total = parts["trainer"]["max_steps"]
    assert rates(total, parts["optim"]["schedule"]["milestones"]) == rates(total, released)


if __name__ == "__main__":
    write()
