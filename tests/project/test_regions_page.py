"""The commands of docs/regions.md, typed in order with small data."""

import shlex
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from helpers.document import sections
from helpers.preparing import charades
from helpers.something import write_something
from helpers.typing_in import type_in
from nlnet.config.compose import compose

COMMANDS = [command for section in sections(ROOT / "docs" / "regions.md") for command in section.commands]
FULL_SIZE = "init.checkpoint=kinetics.pt"
SMALL = {
    "regions": ["short_side=32", "top=3"],
    "train": ["data.batch_size=2", "data.eval_batch_size=2", "data.num_workers=0", "trainer.max_epochs=1"],
    "predict": ["limit=1"],
}


def test_the_page_has_the_commands_that_are_typed() -> None:
    names = [shlex.split(command)[1] for command in COMMANDS]
    assert names.count("src/regions.py") == 2
    assert {"src/prepare.py", "src/train.py", "src/predict.py"} < set(names)
    for command in COMMANDS:
        if FULL_SIZE in command:
            assert compose(shlex.split(command)[2:]).init.checkpoint == "kinetics.pt"


@pytest.mark.full
def test_the_commands_work_as_typed(tmp_path: Path) -> None:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    (tmp_path / "data").mkdir()
    source = charades(tmp_path / "data" / "Charades", 3)
    (source / "Charades_v1_test.csv").write_text((source / "Charades_v1_train.csv").read_text())
    write_something(tmp_path / "data" / "something")
    torch.save(
        fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), tmp_path / "data" / "proposals.pt"
    )
    environment = {"CHARADES_SHARDS": f"{tmp_path}/data/shards/charades"}
    for command in COMMANDS:
        if FULL_SIZE in command:
            continue
        name = Path(shlex.split(command)[1]).stem
        runs = list((tmp_path / "logs" / "train" / "runs").glob("*"))
        words = [word.replace("/data/", f"{tmp_path}/data/") for word in shlex.split(command)]
        words = [word.replace("=RUN", f"={runs[0]}") if runs else word for word in words]
        text = type_in(shlex.join([*words, *SMALL.get(name, [])]), tmp_path, environment)
        assert "Traceback" not in text
    assert (tmp_path / "predictions").is_dir()
    assert (tmp_path / "data" / "shards" / "something" / "something-val-manifest.json").is_file()
