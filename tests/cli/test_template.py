"""The commands of lightning-hydra-template's README: each runs, or says in one line how it is typed here."""

import pytest

from nlnet.cli.eval import main as eval_main
from nlnet.cli.train import main
from nlnet.config.compose import options
from nlnet.config.resolve import load

SMALL = [
    "data.batch_size=8", "data.num_workers=0", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
    "callbacks.progress=null",
]  # fmt: skip
EXISTS = "exists, and + is for new keys: leave the + out"
NO_GPU = "gpu"

# What is typed after `python src/train.py` -> None, or what the one line says.
COMMANDS = {
    "trainer=cpu": None,
    "trainer=gpu": NO_GPU,
    "+trainer.tpu_cores=8": "tpu_cores",
    "trainer=ddp trainer.devices=4": NO_GPU,
    "trainer=ddp trainer.devices=4 trainer.num_nodes=2": NO_GPU,
    "trainer=mps": "mps",
    "trainer=gpu +trainer.precision=16": EXISTS,
    "trainer.precision=bf16-mixed": None,
    "trainer.max_epochs=2 optim.optimizer.lr=1e-4": None,
    "model.optimizer.lr=1e-4": "model.optimizer.lr: there is no such key in this configuration; nearest: optim.optim",
    "+model.new_param=owo": "new_param",
    "logger=csv": None,
    "logger=tensorboard": None,
    "logger=wandb": None,
    "logger=many_loggers": None,
    "logger=mlflow": "logger=mlflow: there is no such logger; known: csv, many_loggers, none, tensorboard, wandb",
    "logger=comet": "there is no such logger",
    "logger=neptune": "there is no such logger",
    "experiment=example": "experiment=example: there is no such experiment; known: ablation_2_blocks",
    "callbacks=default": None,
    "callbacks=early_stopping": "callbacks=early_stopping: there is no such callbacks; known: attention, default",
    "+trainer.gradient_clip_val=0.5": None,  # Hydra takes the + where the key is null
    "trainer.gradient_clip_val=0.5": None,
    "+trainer.val_check_interval=0.25 trainer.limit_train_batches=4": None,
    "trainer.val_check_interval=0.25 trainer.limit_train_batches=4": None,
    "+trainer.accumulate_grad_batches=10": EXISTS,
    "trainer.accumulate_grad_batches=10 data.batch_size=20": None,
    "+trainer.max_time='00:12:00:00'": None,
    "debug=default": None,
    "debug=fdr": None,
    "debug=limit": None,
    "debug=overfit trainer.max_epochs=1": None,
    "debug=profiler": None,
    "+trainer.detect_anomaly=true": None,
    "trainer.limit_train_batches=0.25 trainer.limit_val_batches=1.0 +trainer.limit_test_batches=1.0": None,
    "ckpt_path=/path/to/ckpt/name.ckpt": "ckpt_path=/path/to/ckpt/name.ckpt: there is no such file",
    "-m optim.optimizer.lr=0.001,0.0005 seed=1": None,
    "-m hparams_search=optuna": "pip install hydra-optuna-sweeper",
    "-m hydra/launcher=joblib seed=1,2": "pip install hydra-joblib-launcher",
    "-m hydra/launcher=submitit_slurm seed=1,2": "pip install hydra-submitit-launcher",
    "-m seed=1,2 trainer.deterministic=True logger=csv tags=['benchmark']": None,
    "tags=['charades','experiment_X']": None,
    "extras.print_config=true": None,
    "train=true test=true seed=12345": None,
    "hydra.run.dir=RUNS/mine": None,
    "--version": None,
}
QUICK = ["trainer=cpu", "+trainer.tpu_cores=8", "+trainer.gradient_clip_val=0.5", "logger=mlflow", "logger=csv"]
CASES = [
    pytest.param(words, said, id=words, marks=[] if words in QUICK else pytest.mark.full)
    for words, said in COMMANDS.items()
]


@pytest.mark.parametrize(("words", "said"), CASES)
def test_a_command_of_the_template(command, charades_shards, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    base = ["experiment=charades_nl", "size=demo", f"data.shards={charades_shards}", "trainer.max_epochs=1", *SMALL]
    typed = words.replace("RUNS", str(tmp_path)).split()
    set_here = {word.partition("=")[0].lstrip("+") for word in typed}
    base = [word for word in base if word.partition("=")[0] not in set_here]
    if "debug" in set_here:
        base.remove("callbacks.progress=null")
    code, _, err = command(main, *base, *typed)
    if said is None:
        assert code == 0, err
        return
    assert code == 1
    lines = [line for line in err.strip().splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, err
    assert said in lines[0].lower() or said in lines[0]


@pytest.mark.full
def test_every_experiment_composes_for_a_glob(charades_shards):
    for name in options("experiment"):
        assert load([f"experiment={name}", f"data.shards={charades_shards}"]).experiment_name == name


def test_eval_of_nothing(command):
    code, _, err = command(eval_main, "ckpt_path=/path/to/ckpt/name.ckpt")
    assert (code, err.count("\n")) == (1, 1)
    assert "ckpt_path=/path/to/ckpt/name.ckpt: there is no such file" in err
