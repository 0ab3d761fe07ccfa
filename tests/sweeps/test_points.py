"""Sweep files, their points, and what Hydra makes of a point's words."""

import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nlnet.config.words import as_hydra
from nlnet.errors import UserError
from nlnet.sweeps.points import points
from nlnet.sweeps.record import note_words
from nlnet.sweeps.sweep_file import find_sweep, read_sweep

letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.text("abcdefgh_", min_size=1, max_size=5)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), letters)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


@settings(max_examples=100, deadline=None)
@example("A\u00b9")  # a digit for Python, and no sign of Hydra's
@given(values)
def test_a_value_survives_hydras_grammar(value):
    read = OverridesParser.create().parse_override(f"key={as_hydra(value)}")
    assert not read.is_sweep_override()
    assert json.dumps(read.value()) == json.dumps(value)


def sweep(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(content))
    return read_sweep(path)


def test_a_grid_is_every_combination_with_names_that_say_what_varies(tmp_path):
    parameters = {
        "size": {"value": "demo"},
        "optim": {"parameters": {"optimizer": {"parameters": {"lr": {"values": [0.1, 1e-5]}}}}},
        "tags": {"values": [["a b"], ["c=d,e"], ["a b"]]},
    }
    command = ["${env}", "${interpreter}", "-m", "nlnet.cli.train", "logger=wandb", "demo=1", "${args_no_hyphens}"]
    found = points(sweep(tmp_path, {"method": "grid", "parameters": parameters, "command": command}))
    assert [point.words for point in found] == [
        ("demo=1", "size=demo", f"optim.optimizer.lr={rate}", f"tags=['{tag}']")
        for rate in ("0.1", "1e-05")
        for tag in ("a b", "c=d,e")
    ]
    names = [point.name for point in found]
    assert len({name.lower() for name in names}) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789=,.-_") for name in names)
    assert names[0].startswith("optim.optimizer.lr=0.1,tags=")


def test_plain_points_have_plain_names(tmp_path):
    parameters = {"experiment": {"values": ["table2a_gaussian"]}, "seed": {"values": [0, 1]}}
    found = points(sweep(tmp_path, {"method": "grid", "parameters": parameters}))
    assert [point.name for point in found] == [f"experiment=table2a_gaussian,seed={seed}" for seed in (0, 1)]


def test_values_that_only_look_alike_are_points_of_their_own(tmp_path):
    parameters = {"a": {"values": [1, "1", True, "True", "x/y", "x y", "x" * 300, "x" * 301]}}
    found = points(sweep(tmp_path, {"method": "grid", "parameters": parameters}))
    assert len({point.name for point in found}) == 8
    assert all(len(point.name.encode()) < 200 for point in found)


def test_random_points_are_those_of_the_seed_and_more_of_them_continue(tmp_path):
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
        "dropout": {"min": 0.0, "max": 0.5},
        "blocks": {"values": [0, 1, 5], "probabilities": [0.5, 0.5, 0]},
        "epochs": {"min": 2, "max": 4},
        "decay": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25},
    }
    mine = sweep(tmp_path, {"method": "random", "parameters": parameters, "run_cap": 40})
    found = points(mine)
    assert points(mine, count=10) == found[:10]
    assert points(mine, count=10, seed=1) != found[:10]
    drawn = [dict(word.split("=") for word in point.words) for point in found]
    assert all(1e-4 <= float(point["lr"]) <= 0.1 and 0 <= float(point["dropout"]) <= 0.5 for point in drawn)
    assert {point["blocks"] for point in drawn} == {"0", "1"}
    assert {point["epochs"] for point in drawn} == {"2", "3", "4"}
    assert {float(point["decay"]) for point in drawn} <= {0, 0.25, 0.5, 0.75, 1}
    assert 10 < sum(float(point["lr"]) < 10**-2.5 for point in drawn) < 30  # half of them, by the logarithm


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "bayes", "parameters": {"a": {"values": [1]}}}, "bayes: only grid and random run without W&B"),
        ({"method": "random", "parameters": {"a": {"values": [1]}}}, "has no end: give count=N"),
        ({"method": "grid", "parameters": {"a": {"min": 0, "max": 1}}}, "a: a grid needs its values as a list"),
        ({"method": "random", "run_cap": 1, "parameters": {"a": {"distribution": "beta"}}}, "with a distribution of"),
        ({"method": "random", "run_cap": 1, "parameters": {"a": {"distribution": "log_uniform_values", "min": 0,
          "max": 1}}}, "expected value, values"),
        ({"method": "grid", "parameters": {"a": 1}}, "a: expected value, values or a distribution"),
        ({"method": "grid", "parameters": {}}, "nothing varies"),
        ({"method": "grid"}, "not a sweep"),
        ([], "not a sweep"),
        ({"method": "grid", "parameters": {"a": {"values": [1]}}, "command": ["rm", "-rf"]}, "rm: only settings"),
        ({"method": "grid", "parameters": {"a": {"values": [1]}}, "program": "evil.py"}, "only src/train.py runs"),
        ({"method": "grid", "parameters": {k: {"values": list(range(30))} for k in "abc"}}, "27,000 points"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_words(tmp_path, content, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        points(sweep(tmp_path, content))


def test_a_file_is_found_by_its_name():
    assert find_sweep("table2a").name == "table2a.yaml"
    with pytest.raises(UserError, match="nearest: table2"):
        find_sweep("table2")


def test_other_settings_in_the_same_folder_are_said(tmp_path, capfd):
    note_words(tmp_path / "out", ["seed=1", "data.shards=https://me:secret@host/x"])
    note_words(tmp_path / "out", ["seed=1", "data.shards=https://me:secret@host/x"])
    assert capfd.readouterr().err == ""
    assert "secret" not in (tmp_path / "out" / "sweep.json").read_text()
    note_words(tmp_path / "out", ["seed=2"])
    assert "was begun with other settings (seed=1 data.shards=https://me:***@host/x)" in capfd.readouterr().err
