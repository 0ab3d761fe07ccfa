"""`python src/eval.py ckpt_path=...`: repeat a run's validation, or test it as in the paper."""

import sys

from omegaconf import DictConfig

from nlnet.cli.errors import run
from nlnet.config.run_config import load_run_config
from nlnet.config.search_path import split_flags

USAGE = """usage: python src/eval.py ckpt_path=RUN/checkpoints/best.ckpt [protocol=NAME] [KEY=VALUE ...]

Validates a checkpoint with the configuration of its run (RUN/config.yaml); KEY=VALUE as in train.py changes it,
for instance data.shards=FOLDER, trainer=gpu, data.num_workers=8. The scores go to predictions.parquet in its run
directory. A file of nlnet-convert needs an experiment and shards: ckpt_path=FILE experiment=NAME data.shards=FOLDER.

protocol=center    the validation of training: one clip, one crop (default)
protocol=30view    the released test: 10 clips x 3 crops; protocol.starts=official, slowfast or mmaction2
protocol=fullconv  the paper's test: 10 clips of whole frames; protocol.scale=256 or 320"""


def main() -> None:
    """The console command `nlnet-eval`."""
    _, arguments = split_flags(sys.argv[1:])
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run(lambda: _evaluated(load_run_config(arguments)))


def _evaluated(cfg: DictConfig) -> dict[str, float]:
    # Not before: Lightning takes seconds to import, and a mistake in the configuration is answered at once.
    from nlnet.runs.evaluate import evaluate

    return evaluate(cfg)
