"""`python src/eval.py ckpt_path=...`: repeat a run's validation, or test it as in the paper."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from nlnet.cli.errors import run, show_version
from nlnet.config.compose import compose
from nlnet.config.resolve import chosen
from nlnet.config.run_config import load_run_config
from nlnet.config.search_path import split_flags
from nlnet.config.words import split_words
from nlnet.text import say

USAGE = """usage: python src/eval.py ckpt_path=RUN/checkpoints/best.ckpt [protocol=NAME] [KEY=VALUE ...]

Validates a checkpoint with the configuration of its run (RUN/config.yaml). ckpt_path=RUN is the run's best checkpoint,
ckpt_path=last that of the newest run, of experiment=NAME where it is given. KEY=VALUE as in train.py changes it,
for instance data.shards=FOLDER, trainer=gpu, data.num_workers=8. The scores go to predictions.parquet in its run
directory. A file of nlnet-convert needs an experiment and shards: ckpt_path=FILE experiment=NAME data.shards=FOLDER.

weights=ema and weights=trained choose between the two of a run with callbacks=ema; it is the average otherwise.

protocol=center    the validation of training: one clip, one crop (default)
protocol=30view    the released test: 10 clips x 3 crops; protocol.starts=official, slowfast, mmaction2 or lfb
protocol=fullconv  the paper's test: 10 clips of whole frames; protocol.scale=256 or 320"""


def main() -> None:
    """The console command `nlnet-eval`."""
    _, arguments = split_flags(sys.argv[1:])
    if "--version" in arguments:
        show_version()
    elif not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
    else:
        run(lambda: _evaluated(load_run_config(_named(arguments))))


def _named(arguments: list[str]) -> list[str]:
    """The words with a checkpoint's file in the place of a run's folder, or of `last`: the run's best checkpoint."""
    _, words = split_words(arguments)
    given = {key: value.strip("'\"") for key, _, value in (word.partition("=") for word in words)}
    ckpt_path = given.get("ckpt_path", "")
    if ckpt_path != "last" and not Path(ckpt_path or "/").is_dir():
        return words
    from nlnet.runs.continuing.which import evaluated_checkpoint

    log_dir = given.get("paths.log_dir") or str(compose().paths.log_dir)
    path = evaluated_checkpoint(ckpt_path, Path(log_dir), given.get("task_name"), chosen("experiment", words))
    say(f"ckpt_path={ckpt_path}: evaluating {path}")
    quoted = str(path).replace("'", "\\'")
    return [f"ckpt_path='{quoted}'" if word.startswith("ckpt_path=") else word for word in words]


def _evaluated(cfg: DictConfig) -> dict[str, float]:
    # Not before: Lightning takes seconds to import, and a mistake in the configuration is answered at once.
    from nlnet.runs.evaluate import evaluate

    return evaluate(cfg)


if __name__ == "__main__":
    main()
