"""What settings in a file may say: our classes with plain values, and never code, places, hosts or the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.strangers import hostile_values, paths_of, with_value
from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.trust.schema import CLASSES, YOURS
from nlnet.trust.settings import settings_of_file

RECIPES = [
    [
        "experiment=charades_nl",
        "size=demo",
        "callbacks=precise_bn",
        "logger=wandb",
        "optim/schedule=bolts_warmup_cosine",
    ],
    ["experiment=kinetics_i3d_nl", "trainer=ddp", "logger=tensorboard", "data.shards=/data/k", "optim=adamw"],
    ["experiment=coco_mask_nl", "size=demo"],
    ["experiment=cityscapes_ann", "size=demo", "task.window=[64,64]"],
    ["experiment=coco_keypoint_nl", "data.shards=/data/coco", "init.checkpoint=x", "debug=limit"],
]


def settings(words: list[str]) -> dict[str, Any]:
    """A run's configuration as it is saved: every interpolation resolved."""
    cfg = OmegaConf.to_container(load([*words, "paths.run_dir=/runs/x"]), resolve=True)
    assert isinstance(cfg, dict)
    return cfg


@pytest.mark.parametrize("words", RECIPES)
def test_what_our_runs_save_is_taken(words: list[str]) -> None:
    cfg = settings(words)
    taken = settings_of_file(cfg, "config.yaml", run_dir="/runs/x")
    for key in YOURS:
        part, _, name = key.partition(".")
        assert name not in taken[part]
        cfg[part].pop(name, None)
    assert taken == cfg


def check_harmless(node: Any, key: str = "") -> None:
    """Every class is one of ours in its place, and no text would be resolved."""
    if isinstance(node, Mapping):
        group = f"{key.split('.')[0]}.*"
        if "_target_" in node:
            assert node["_target_"] in CLASSES.get(key, CLASSES.get(group, ())), (key, node)
        for name, inner in node.items():
            assert isinstance(name, str)
            check_harmless(inner, f"{key}.{name}" if key else name)
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            check_harmless(inner, f"{key}.{index}")
    else:
        assert node is None or isinstance(node, bool | int | float | str), (key, node)
        assert "${" not in str(node)
        assert key not in YOURS
        if key.startswith(("callbacks.", "logger.")) and not key.endswith("_target_"):
            assert not str(node).startswith(("/etc", "~", "..")), (key, node)


def outcome(changed: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The refusal, or what is taken."""
    try:
        return "", settings_of_file(changed, "config.yaml", run_dir="/runs/x")
    except UserError as error:
        return str(error).removeprefix("config.yaml: "), {}


@pytest.mark.parametrize("words", [RECIPES[0], *(pytest.param(words, marks=pytest.mark.full) for words in RECIPES[1:])])
def test_no_value_of_any_field_gets_further_than_the_schema(words: list[str], tmp_path: Path) -> None:
    cfg = settings(words)
    values = hostile_values(tmp_path, 1)
    refused = taken = 0
    for path in paths_of(cfg):
        for value in values:
            message, got = outcome(with_value(cfg, path, value))
            check_harmless(got)
            refused, taken = refused + bool(message), taken + bool(got)
            assert bool(message) != bool(got)
            assert len(message) < 600
    assert refused > taken > 100


def test_a_key_is_a_name_and_hydra_gets_no_words_of_its_own() -> None:
    cfg = settings(RECIPES[0])
    for extra in ({7: 1}, {"_args_": [1]}, {"_target_": 3}, {"_other_": 1}, {None: 1}, {"x" * 5000: 1}):
        for part in ("model", "optim", "callbacks", "trainer", "extras"):
            with pytest.raises(UserError, match=r"^config\.yaml: "):
                settings_of_file(cfg | {part: cfg[part] | extra}, "config.yaml")


def test_classes_of_a_package_are_taken_when_it_is_named_again() -> None:
    cfg = settings(RECIPES[2])
    own = cfg | {"callbacks": {"mine": {"_target_": "collections.Counter", "path": "/etc/x"}}}
    with pytest.raises(
        UserError, match=r"callbacks\.mine\._target_=collections\.Counter .*allow_targets=\[collections\]"
    ):
        settings_of_file(own, "config.yaml")
    assert settings_of_file(own, "config.yaml", ["collections"])["callbacks"] == own["callbacks"]
    for target, why in (
        ("collections._itemgetter", "is defined in _operator|is defined in operator"),  # only imported there
        ("collections._sys.exit", "neither a function nor a class"),
        ("collections.nothing", "cannot be imported"),
    ):
        changed = cfg | {"callbacks": {"mine": {"_target_": target}}}
        with pytest.raises(UserError, match=why):
            settings_of_file(changed, "config.yaml", ["collections"])
