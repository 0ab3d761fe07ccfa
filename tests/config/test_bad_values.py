"""Three bad values for every key: one line that names the key, at once, and no run folder."""

import re
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nlnet.cli.train import main
from nlnet.config.compose import compose

KEYS = Path(__file__).with_name("config_keys.txt").read_text().split()
DEFAULTS = OmegaConf.to_container(compose(), resolve=True)

GROUPS = {"callbacks", "data", "extras", "model", "optim", "paths", "task", "trainer"}
FILLED_IN = {"demo", "experiment_name", "typed"}
NUMBERS = {  # that are null by default
    "data.fps", "epochs", "extras.threads", "model.nonlocal_options.inner_channels", "model.pool1_frames",
    "optim.lr_batch", "trainer.gradient_clip_val", "trainer.limit_train_batches", "trainer.limit_val_batches",
    "model.pool2_frames", "trainer.val_check_interval",
}  # fmt: skip
SETTINGS = {"model.dilations", "model.nonlocal_groups", "model.spatial_strides", "task.loss"}  # likewise

BAD = {
    "group": ["5", "[no_such_choice]", "no_such_choice"],
    "target": ["5", "[1]", "no_dots"],
    "settings": ["5", "abc", "[1]"],
    "number": ["abc", "-7", "[1]"],
    "yes or no": ["maybe", "3", "[true]"],
    "text": ["''", "[1]", "{a: 1}"],
    "list": ["5", "abc", "{a: 1}"],
    "null or text": ["[1]", "{a: 1}", "[null]"],
}


def kind(key):
    default = DEFAULTS
    for part in key.split("."):
        default = default[part]
    if key in GROUPS:
        return "group"
    if key.endswith("_target_"):
        return "target"
    if isinstance(default, dict) or key in SETTINGS:
        return "settings"
    if isinstance(default, bool):
        return "yes or no"
    if isinstance(default, int | float) or key in NUMBERS:
        return "number"
    if isinstance(default, list):
        return "list"
    return "null or text" if default is None else "text"


def test_the_kinds_cover_what_there_is():
    kinds = {key: kind(key) for key in KEYS}
    assert set(kinds.values()) == set(BAD)
    assert {key for key, of in kinds.items() if of == "group"} == GROUPS
    assert kinds["seed"] == kinds["optim.optimizer.lr"] == "number"
    assert kinds["callbacks.best.save_on_train_epoch_end"] == "yes or no"


FEW = KEYS[7::23]


@pytest.mark.parametrize("key", [key if key in FEW else pytest.param(key, marks=pytest.mark.full) for key in KEYS])
def test_bad_values_get_one_line_at_once(command, tmp_path, key):
    for value in BAD[kind(key)]:
        logs = [] if key == "paths.log_dir" else [f"paths.log_dir={tmp_path}"]
        began = time.process_time()
        code, _, err = command(main, "size=demo", *logs, f"{key}={value}")
        lines = err.strip().splitlines()
        assert (code, len(lines)) == (1, 1), (value, err)
        assert lines[0].startswith("error: ")
        name = "(experiment|typed)" if key in FILLED_IN else key.removesuffix("._target_")
        assert re.search(rf"\b{name}\b", lines[0]), lines[0]
        assert time.process_time() - began < 3
        assert list(tmp_path.iterdir()) == []
