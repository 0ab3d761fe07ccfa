"""Files of a run with hostile values in every field, and a program that gives them to the commands and measures itself.

`python hostile_doors.py KIND DOOR,DOOR FOLDER COUNT SEED` draws COUNT pairs of a field and a value for each door and
prints a line of JSON for each: door, field, value, exit code, what was said, seconds, peak of the memory over that
before (bytes), and what happened that should not have. COUNT 0 is every field with 20 values each. FOLDER is
what `make_honest` made.
"""

import contextlib
import gc
import io
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from helpers.strangers import SECRET, Listener, hostile_values, paths_of, watched, with_value

SMALL = ["size=demo", "data.batch_size=8", "data.num_workers=0", "callbacks.progress=null"]
SMALL += ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
VIEWS = ["frames=8", "stride=1", "crop=32", "scale=32", "limit=1"]
PER_FIELD = 20
# What a program may start: git, asked which version of the code this is.
_GIT = re.compile(r"\('git', \['git', '-C', '[^']+', '(rev-parse|status)'")


def make_honest(shards: Path, folder: Path) -> Path:
    """A run of one epoch in `folder`/run, a converted file and a copy of the shards beside it."""
    from nlnet.config.resolve import load
    from nlnet.models import build_model
    from nlnet.runs.train import train

    shutil.copytree(shards, folder / "shards")
    words = ["experiment=charades_nl", *SMALL, "trainer.max_epochs=1", f"data.shards={folder}/shards"]
    train(load([*words, f"paths.run_dir={folder}/run"]))
    model: dict[str, Any] = {"name": "c2d_demo", "nonlocal_blocks": 1, "num_classes": 4}
    content = {"model": model, "state_dict": build_model(**model).state_dict(), "missing": [], "source": "caffe2"}
    torch.save(content, folder / "converted.pt")
    return folder


def _load_pt(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def _save_yaml(content: Any, path: Path) -> None:
    path.write_text(yaml.safe_dump(content, allow_unicode=True))


def _save_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, default=repr))


KINDS: Mapping[str, tuple[str, Callable[[Path], Any], Callable[[Any, Path], None]]] = {
    "checkpoint": ("run/checkpoints/last.ckpt", _load_pt, torch.save),
    "weights": ("converted.pt", _load_pt, torch.save),
    "config": ("run/config.yaml", lambda path: yaml.safe_load(path.read_text()), _save_yaml),
    "summary": ("run/summary.json", lambda path: json.loads(path.read_text()), _save_json),
    "manifest": ("shards/charades-train-manifest.json", lambda path: json.loads(path.read_text()), _save_json),
}


def _words(door: str, folder: Path) -> list[str]:
    last, shards = folder / "run/checkpoints/last.ckpt", f"data.shards={folder}/shards"
    again = ["experiment=charades_nl", *SMALL, shards, "trainer.max_epochs=2"]
    converted = folder / "converted.pt"
    return {
        "eval": [f"ckpt_path={last}"],
        "eval weights": [f"ckpt_path={converted}", "experiment=charades_nl", *SMALL, shards],
        "predict": [f"ckpt_path={last}", f"source={folder}/shards", "limit=1"],
        "predict weights": [f"ckpt_path={converted}", f"source={folder}/shards", *VIEWS],
        "resume": [*again, f"ckpt_path={last}"],
        "resume run": [*again, "ckpt_path=last", f"paths.run_dir={folder}/run"],
        "start": [*again, f"init.checkpoint={last}", "trainer.max_epochs=1"],
        "train": [*again, "trainer.max_epochs=1"],
        "verify": [f"{folder}/shards"],
    }[door]


def _main(door: str) -> Callable[[], None]:
    from nlnet.cli import eval as evaluation
    from nlnet.cli import predict, train, verify

    mains = {"eval": evaluation.main, "predict": predict.main, "verify": verify.main}
    return mains.get(door.split()[0], train.main)


def _call(main: Callable[[], None], words: list[str]) -> tuple[int, str]:
    """Exit code, and all that was said, errors last."""
    sys.argv = ["nlnet", *words]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            code = 99
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
    return code, out.getvalue() + err.getvalue()


def _load(folder: Path, kind: str) -> tuple[int, str]:
    """What a program that builds on nlnet does."""
    import nlnet
    from nlnet.data.shards.find import load_manifest
    from nlnet.errors import UserError

    try:
        if kind == "manifest":
            load_manifest(f"{folder}/shards", "charades", "train")
        else:
            nlnet.from_pretrained(folder / KINDS[kind][0])
    except UserError as error:
        return 1, f"error: {error}"
    except BaseException as error:
        return 99, f"Traceback: {type(error).__name__}: {error}"
    return 0, ""


def _drawn(content: Any, values: list[Any], count: int, seed: int) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Pairs of a way to a field and a value's number; ways into one list or one table count as one field's."""
    rng = random.Random(seed)
    alike: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for way in paths_of(content):
        few = tuple("*" if isinstance(step, int) or way[0] == "state_dict" else step for step in way)
        alike.setdefault(few, []).append(way)
    if not count:
        for ways in alike.values():
            yield from ((rng.choice(ways), number) for number in rng.sample(range(len(values)), PER_FIELD))
    for _ in range(count):
        yield rng.choice(alike[rng.choice(list(alike))]), rng.randrange(len(values))


def _happened(folder: Path, seen: list[tuple[str, str]], said: str, server: Listener) -> list[str]:
    wrong = [f"made {name}" for name in ("PWNED", "outside") if (folder / name).exists()]
    wrong += ["the secret was printed"] if SECRET in said else []
    wrong += ["another host was asked"] if server.connections else []
    for event, what in seen:
        inside = what.startswith((str(folder), "/dev/null", "/proc/self")) if event == "write" else str(folder) in what
        if not inside and not (event == "subprocess.Popen" and _GIT.match(what)):
            wrong.append(f"{event} {what[:200]}")
    return wrong


def main(kind: str, doors: list[str], honest: Path, count: int, seed: int) -> None:
    folder = honest / "tried"
    os.environ["NLNET_TEST_SECRET"] = SECRET
    server = Listener()
    file, read, write = KINDS[kind]
    content = read(honest / file)
    values = hostile_values(folder, server.port)
    for door in doors:
        for way, number in [((), 0), *_drawn(content, values, count, seed)]:
            _renew(folder, honest)
            if way:  # the first is as it was
                write(with_value(read(folder / file), way, values[number]), folder / file)
            server.connections = 0
            before, began = _memory_now(), time.monotonic()
            with watched() as seen:
                code, said = _load(folder, kind) if door == "load" else _call(_main(door), _words(door, folder))
            seconds = time.monotonic() - began
            if not way:
                assert code == 0, said
                gc.freeze()  # what is there by now stays, and a collection need not look at it before every case
                continue
            row = [
                door,
                way,
                f"{values[number]!r:.60}",
                code,
                said[:1500] if door == "load" else said[-1500:],
                seconds,
                _memory("VmHWM") - before,
            ]
            print(json.dumps([*row, _happened(folder, seen, said, server)], default=repr), flush=True)


def _memory_now() -> int:
    """Bytes in use; the peak is counted anew from here."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def _renew(folder: Path, honest: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(honest, folder, ignore=shutil.ignore_patterns("tried"))
    _relocate(folder, str(honest))
    os.chdir(folder)


def _relocate(folder: Path, honest: str) -> None:
    """What the copies say of their places is true of them."""
    for path in (folder / "run/config.yaml", folder / "run/summary.json"):
        path.write_text(path.read_text().replace(honest, str(folder)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
