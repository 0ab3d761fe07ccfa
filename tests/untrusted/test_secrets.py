"""Passwords, signatures and tokens in settings: masked wherever they are written or printed."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nlnet.cli.eval import main as evaluate
from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.runs.continuing.differences import differences
from nlnet.runs.train import train
from nlnet.text import MASK, masked

URLS = {
    "https://me:hunter2@host/a": "https://me:***@host/a",
    "http://me:a@hunter2@host/a": "http://me:***@host/a",
    "https://:hunter2@host": "https://:***@host",
    "https://h/a?X-Amz-Credential=hunter2&X-Amz-Date=1&X-Amz-Signature=hunter2": (
        "https://h/a?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***"
    ),
    "https://h/a?X-Amz-Security-Token=hunter2": "https://h/a?X-Amz-Security-Token=***",
    "https://h/a?AWSAccessKeyId=hunter2&Signature=hunter2": "https://h/a?AWSAccessKeyId=***&Signature=***",
    "https://h/a?sv=1&sig=hunter2%3D&se=2": "https://h/a?sv=1&sig=***&se=2",
    "https://h/a?token=hunter2#x": "https://h/a?token=***#x",
    "https://h/a?access_token=hunter2": "https://h/a?access_token=***",
    "https://h/a?key=hunter2": "https://h/a?key=***",
    "https://h/a?api_key=hunter2": "https://h/a?api_key=***",
    "https://h/a?X-Goog-Signature=hunter2": "https://h/a?X-Goog-Signature=***",
    "https://h/a?Policy=hunter2&Key-Pair-Id=hunter2": "https://h/a?Policy=***&Key-Pair-Id=***",
}
PLAIN = ("s3://bucket/a", "https://host:8080/a@b/c", "/a/b:c@d", "https://h/a?date=1", "monkey=1", "a?b=c", "x://@", "")
NAMED = {
    "logger.wandb.api_key=hunter2": "logger.wandb.api_key=***",
    "+a.password=hunter2": "+a.password=***",
    "pipe:curl -H 'Authorization: Bearer hunter2' x": "pipe:curl -H 'Authorization: Bearer ***' x",
    "https://hunter2@host/a": "https://***@host/a",
}


@pytest.mark.parametrize("url", URLS)
def test_urls(url: str) -> None:
    assert masked(url) == URLS[url]
    assert masked(masked(url)) == masked(url)
    for text in (f"{url}: no such file", f"'{url}', \"{url}\" and ({url})", f"data.shards={url}"):
        assert "hunter2" not in masked(text)
    assert "hunter2" not in str(UserError(f"data.shards={url}: cannot be read"))


def test_settings_and_headers_in_a_text() -> None:
    for text, expected in NAMED.items():
        assert masked(text) == expected
        assert "hunter2" not in masked(f"error: {text}: it is not so ({text}, was '{text}')")
    assert masked("max_tokens=3, key=val") == "max_tokens=3, key=val"


def test_settings() -> None:
    names = ("password", "db_password", "API_KEY", "api-key", "token", "hf_token", "secret", "aws_secret_access_key",
             "credential", "credentials", "passwd")  # fmt: skip
    tree = {"logger": dict.fromkeys(names, "hunter2"), "list": [{"token": "hunter2"}, *URLS], "n": 3, "none": None}
    found = masked(tree)
    assert "hunter2" not in repr(found)
    assert all(value == MASK for value in found["logger"].values())
    assert found["list"][1:] == list(URLS.values())
    same = {"url": list(PLAIN), "token_file": "/a", "tokens": 3, "token": None, "secret": "", "monitor": "val/mAP"}
    assert masked(same) == same


@pytest.mark.full
def test_nothing_of_a_run_holds_them(
    charades_shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training with a URL that holds a password; the shards are those of a folder, and W&B keeps its files here."""
    from nlnet.config.resolve import changed
    from nlnet.data.shards import storage

    secret = "https://me:hunter2@localhost:9/shards"
    plain = storage.join

    def join(root: str, name: str) -> str:
        return plain(str(charades_shards) if root == secret else root, name)

    monkeypatch.setattr(storage, "join", join)
    words = ["experiment=charades_nl", "size=demo", "debug=fdr", "data.batch_size=8", "data.num_workers=0"]
    words += ["logger=wandb", f"data.shards={secret}", "extras.print_config=true"]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    cfg = load([*words, f"paths.run_dir={tmp_path}/run", "trainer.fast_dev_run=false", "trainer.max_steps=1"])
    _, objects = train(changed(cfg, {"extras.api_key": "hunter2"}))
    out, err = capfd.readouterr()
    assert MASK in out
    assert "hunter2" not in out + err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"config.yaml", "summary.json", "last.ckpt"} <= {path.name for path in files}
    assert any("wandb" in path.parts for path in files)
    for path in files:
        assert b"hunter2" not in path.read_bytes(), path
    assert OmegaConf.load(objects["run_dir"] / "config.yaml").data.shards == "https://me:***@localhost:9/shards"
    checkpoint = torch.load(objects["run_dir"] / "checkpoints" / "last.ckpt", weights_only=True)
    assert differences(checkpoint, cfg) == []


def test_eval_asks_for_what_was_not_kept(tmp_path: Path, command: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    torch.save({}, run / "checkpoints" / "best.ckpt")
    cfg = OmegaConf.to_container(
        load(["experiment=charades_nl", "data.shards=https://me:pw@host/a", f"paths.run_dir={run}"]), resolve=True
    )
    assert isinstance(cfg, dict)
    OmegaConf.save(OmegaConf.create(masked(cfg)), run / "config.yaml")
    code, _, err = command(evaluate, f"ckpt_path={run}/checkpoints/best.ckpt")
    assert code == 1
    [line] = err.splitlines()
    assert "data.shards=https://me:***@host/a, whose secret is not kept; give it again: data.shards=" in line
