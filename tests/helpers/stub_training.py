"""A program with a training's folder contract and none of its work: `stub_training.py steps=5 paths.run_dir=FOLDER`.

A step takes 50 ms and writes a checkpoint. SIGTERM ends it after the step, `fail=FILE` makes it fail when there is this
file. Every start, step and meeting of two processes in one folder is a line of the folder's `history`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

words = dict(word.partition("=")[::2] for word in sys.argv[1:])
folder = Path(words["paths.run_dir"].strip("'"))
last = folder / "checkpoints" / "last.ckpt"
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))


def note(text: str) -> None:
    with open(folder / "history", "a") as file:
        file.write(f"{text}\n")


def record(**values: object) -> None:
    temporary = folder / f".{os.getpid()}"
    temporary.write_text(json.dumps(values))
    os.replace(temporary, folder / "summary.json")


last.parent.mkdir(parents=True, exist_ok=True)
try:
    (folder / "here").mkdir()
except FileExistsError:
    note("met another")
done = int(last.read_text()) if words.get("ckpt_path") == "last" else 0
(folder / "process").write_text(str(os.getpid()))
note(f"start {done}")
record(status="running")
while done < int(words.get("steps", "3")) and not stop:
    time.sleep(0.05)
    done += 1
    note(f"step {done}")
    last.with_name("new").write_text(str(done))
    os.replace(last.with_name("new"), last)
    if "fail" in words and Path(words["fail"]).exists():
        record(status="failed", reason="it was told to")
        (folder / "here").rmdir()
        sys.exit(1)
(folder / "here").rmdir()
record(status="interrupted" if stop else "finished", best=0.5, seconds=1.0)
sys.exit(143 if stop else 0)
