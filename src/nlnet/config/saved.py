"""The settings in a run's folder: what they say was trained, with the rest from whoever evaluates it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nlnet.config.compose import compose
from nlnet.data.shards.storage import is_remote
from nlnet.data.synthetic.make import folder_of
from nlnet.errors import UserError
from nlnet.reading import read_yaml
from nlnet.renamed import current_config
from nlnet.text import is_masked
from nlnet.trust.schema import CLASSES, YOURS
from nlnet.trust.settings import settings_of_file

_HERE = ("data.num_workers", "extras.threads")
"""Counts that are no larger here than this machine has processors; no result depends on them."""


def saved_settings(file: Path, *, trust: bool, allow: Sequence[str], typed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run's `config.yaml` for an evaluation of it, as plain values.

    The file says what was trained. Which code it may name, where is written, how many processes are started and which
    hosts are asked, says whoever evaluates.

    Args:
        file: the run's `config.yaml`.
        trust: take everything from the file, as if it were typed.
        allow: packages that the file may name classes of.
        typed: the keys of the command line, which replace the file's.

    Raises UserError for a file that cannot be read, for classes that are not allowed, and for values that do not fit.
    """
    content = read_yaml(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("paths"), Mapping):
        raise UserError(f"{file}: not the settings of a run, which have paths; restore the file")
    plain = current_config(content)
    run_dir = str(plain["paths"].pop("run_dir", ""))
    if not trust:
        checked = settings_of_file(plain, str(file), allow, run_dir=run_dir)
        _refuse_hosts(checked, str(file), typed)
        _fill_in(checked, plain, file)
        plain = checked
    return _relocated(plain, run_dir)


def _fill_in(checked: dict[str, Any], content: Mapping[str, Any], file: Path) -> None:
    """The settings that never come from a file, as the project's configuration and the environment have them."""
    own = OmegaConf.to_container(compose(), resolve=True)
    assert isinstance(own, dict)
    for part, _, name in (key.partition(".") for key in YOURS):
        if part == "extras" or name in content.get(part, {}):
            checked[part].setdefault(name, own[part][name])
    # Beside the run, where it lies in a folder of runs as training makes them; else where new runs go.
    if not _lies_in(file.parent, content["paths"].get("log_dir")):
        checked["paths"]["log_dir"] = own["paths"]["log_dir"]
    if checked["demo"] and not Path(str(checked["data"].get("shards"))).is_dir():
        checked["data"]["shards"] = str(folder_of(Path(own["paths"]["data_dir"]), checked["data"]["dataset"]))
    for part, _, name in (key.partition(".") for key in _HERE):
        if checked[part].get(name) is not None:
            checked[part][name] = min(checked[part][name], os.cpu_count() or 1)


def _lies_in(run: Path, log_dir: Any) -> bool:
    """Whether a run's folder is where a training with this `paths.log_dir` makes it: <log_dir>/<task>/runs/<name>."""
    return isinstance(log_dir, str) and len(run.parents) > 2 and run.parents[2] == Path(log_dir).absolute()


def _refuse_hosts(plain: Mapping[str, Any], where: str, typed: Mapping[str, Any]) -> None:
    """A file names no hosts: remote shards are typed again, or are those of an environment variable."""
    ours = plain["data"].get("_target_") in CLASSES["data"]
    known = {value for name, value in os.environ.items() if name.endswith("_SHARDS")}
    for name in ("shards", "val_shards") if ours else ():
        url = plain["data"].get(name)
        if not isinstance(url, str) or not is_remote(url) or is_masked(url):  # which is refused with what to type
            continue
        if url not in known and not typed.keys() & {"data", f"data.{name}"}:
            raise UserError(
                f"{where}: data.{name}={url}: a file does not choose which hosts are asked; if you trust it, type it"
                f" again: data.{name}={url}"
            )


def _relocated(node: Any, run_dir: str) -> Any:
    """What lay in the run's folder lies in that of the evaluation: its predictions and pictures are not the run's."""
    if isinstance(node, dict):
        return {key: _relocated(value, run_dir) for key, value in node.items()}
    if isinstance(node, list):
        return [_relocated(value, run_dir) for value in node]
    if isinstance(node, str) and run_dir and (node == run_dir or node.startswith(f"{run_dir}/")):
        return "${paths.run_dir}" + node[len(run_dir) :]
    return node
