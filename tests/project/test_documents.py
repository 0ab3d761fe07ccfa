"""The commands of README, docs and data/README, taken from the pages and typed with small data.

A command that needs GPUs, several machines or an account is listed with its reason, and its configuration is composed.
"""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import checkpoint_names as names
from helpers import py2_pickle
from helpers.coco import write_coco
from helpers.document import sections
from helpers.photographs import write_photographs
from helpers.preparing import charades, clip
from helpers.typing_in import type_in
from helpers.video_weights import FIVE, I3D, Layout, random_weights
from nlnet.config.compose import compose
from nlnet.data.synthetic import longrange, signs
from nlnet.renamed import current_overrides

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
OWN_TESTS = ("docs/extending.md", "docs/regions.md")  # tests/project/test_doors.py, test_regions_page.py
RESTORATION = "docs/restoration.md"  # where RUN is of a denoiser

# The beginning of a command -> why it is not typed here.
ELSEWHERE = {
    "git clone": "the checkout that is tested",
    "make": "CI and every developer run it",
    ".venv/bin/": "the environment that is tested",
    "export": "the test sets the variable",
    "sbatch": "needs Slurm; tests/cli/test_slurm.py runs the script",
    "torchrun": "needs several nodes with GPUs",
    "python src/sweep.py": "trains full networks; tests/sweeps has smaller sweeps, and composes every point",
    "wandb sweep": "needs an account at W&B; tests/cli/test_sweep.py runs the sweeps' command lines",
}
NEEDS_GPUS = ["trainer=ddp", "init.checkpoint=kinetics.pt"]
QUICK = [
    "prepare.py dataset=charades",
    "train.py experiment=charades_nl size=demo",
    "ckpt_path=last",
    "RUN/checkpoints/best.ckpt protocol=30view ",
    "nlnet-compare",
    "report.py logs",
    "predict.py",
]
SMALL = [
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=2",
    "data.num_workers=0",
    "callbacks.progress=null",
]
CLIPS = ["data.batch_size=4", "data.eval_batch_size=4", "trainer.max_epochs=1"]
SIGNS = ["data.batch_size=4", "data.eval_batch_size=4", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1"]
IMAGES = ["data.batch_size=4", "data.eval_batch_size=4", "trainer.max_steps=2", "trainer.val_check_interval=2"]


Sandbox = tuple[Path, dict[str, str], dict[str, str]]
"""A folder to type in, what stands for the names on the pages, and the environment."""


def commands() -> list[tuple[str, str]]:
    """(page, command) of every command on every page."""
    found = []
    for page in PAGES:
        for section in sections(ROOT / page) if page not in OWN_TESTS else ():
            found += [(page, part.strip()) for command in section.commands for part in command.split("&&")]
    return found


def reason(command: str) -> str | None:
    starts = [why for start, why in ELSEWHERE.items() if command.startswith(start)]
    if starts or command.startswith("cd "):
        return (starts or ["where the other commands are typed"])[0]
    return "needs GPUs" if any(word in command for word in NEEDS_GPUS) else None


TYPED = [(page, command) for page, command in commands() if reason(command) is None]


def test_every_command_is_typed_or_says_why_not() -> None:
    known = ("python src/", "nlnet-")
    assert [c for c in commands() if reason(c[1]) is None and not c[1].startswith(known)] == []
    assert len(TYPED) >= 25


@pytest.mark.parametrize("command", sorted({c for _, c in commands() if "src/train.py" in c}))
def test_every_training_composes(command: str) -> None:
    words = shlex.split(command.split("src/train.py")[1])
    assert compose(current_overrides([word for word in words if word != "-m"])).task_name


@pytest.fixture(scope="module")
def sandbox(
    tmp_path_factory, charades_shards: Path, kinetics_shards: Path
) -> tuple[Path, dict[str, str], dict[str, str]]:
    root = tmp_path_factory.mktemp("typed")
    (root / "data").mkdir()
    charades(root / "data" / "Charades", 3)
    kinetics = root / "data" / "kinetics"
    kinetics.mkdir()
    rows = "".join(f"dancing,video{k:06d},0,1,{'val' if k > 3 else 'train'}\n" for k in range(6))
    (kinetics / "all.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
    for k in range(6):
        (kinetics / f"video{k:06d}_000000_000001.mp4").write_bytes(clip(k))
    write_coco(root / "data" / "coco")
    write_photographs(root / "data" / "photographs")
    (root / "video.mp4").write_bytes(clip(0))
    (root / "videos").symlink_to(kinetics)  # of docs/start.md
    (root / "shards").symlink_to(kinetics_shards)
    signs.build(root / "data" / "signs", {"train": 8, "val": 4})
    longrange.build(root / "data" / "harder", {"train": 96, "val": 96})  # as the Python before that command does
    environment = {"CHARADES_SHARDS": str(charades_shards), "KINETICS_SHARDS": str(kinetics_shards), "COCO_SHARDS": ""}
    environment["RESTORATION_IMAGES"] = ""
    train = ["python src/train.py experiment=kinetics_i3d_nl_8x8 size=demo task_name=first", *SMALL, *CLIPS]
    type_in(" ".join(train), root, environment)
    (run,) = (root / "logs" / "first" / "runs").glob("*")
    for _ in range(2):
        type_in(f"python src/eval.py ckpt_path={run}/checkpoints/best.ckpt", root, environment)
    first, second = sorted((root / "logs" / "eval" / "runs").glob("*"))
    replaced = {"RUN": str(run), "EVAL_A": str(first), "EVAL_B": str(second), "SHARDS": str(kinetics_shards)}
    replaced |= {
        "SEGMENTER": f"{root}/segmenter",
        "/data/": f"{root}/data/",
        "source=...": f"source={kinetics}",
        "key=KEY": "key=val0001",
        "out=...": f"out={root}/data/shards/parts",
        "out=shards": f"out={root}/data/shards/own",
    }
    return root, replaced, environment


def _is_quick(page: str, command: str) -> bool:
    return page != RESTORATION and any(word in f"{command} " for word in QUICK)


def denoiser(root: Path, environment: dict[str, str]) -> str:
    """The folder of a run on the photographs, made when it is first asked for."""
    if not (root / "logs" / "denoiser").is_dir():
        words = "experiment=denoise_nlrn size=demo task_name=denoiser data.shards=data/photographs"
        type_in(f"python src/train.py {words} {' '.join([*SMALL, *IMAGES])}", root, environment)
    (run,) = (root / "logs" / "denoiser" / "runs").glob("*")
    return str(run)


def convertible(root: Path) -> None:
    """The file that a page converts: under the released names, with random weights."""
    weights = random_weights(Layout(temporal=I3D, blocks=FIVE), names.caffe2)
    blobs = {key: np.asarray(value) for key, value in weights.items()}
    blobs |= {key: blobs[key][:4] for key in ("pred_w", "pred_b")}  # of the classes that the tiny shards have
    (root / "i3d_nl_32x2.pkl").write_bytes(py2_pickle.dumps({"blobs": blobs}))


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(page, command, marks=[] if _is_quick(page, command) else pytest.mark.full)
        for page, command in dict.fromkeys(TYPED)
    ],
)
def test_a_command_works_as_typed(page: str, command: str, sandbox) -> None:
    root, replaced, environment = sandbox
    if page == RESTORATION:
        replaced = replaced | {"RUN": denoiser(root, environment)}
    if "i3d_nl" in command and not (root / "i3d_nl.pt").is_file():
        convertible(root)
        if "nlnet-convert" not in command:
            type_in("nlnet-convert i3d_nl_32x2.pkl --source caffe2 --out i3d_nl.pt", root, environment)
    if "ckpt_path=SEGMENTER" in command and not (root / "segmenter").is_dir():
        run = f"paths.run_dir={root}/segmenter"
        words = ["python src/train.py experiment=cityscapes_nl size=demo data.shards=data/signs", run, *SMALL, *SIGNS]
        type_in(" ".join(words), root, environment)
    if "merge=true" in command:
        for part in ("1/2", "2/2"):
            type_in(f"{_filled(command.replace('merge=true', ''), replaced)} part={part}", root, environment)
    text = type_in(_short(_filled(command, replaced), root), root, environment)
    assert "Traceback" not in text


def _filled(command: str, replaced: dict[str, str]) -> str:
    words = shlex.split(command)
    for old, new in replaced.items():
        words = [_replace(word, old, new) for word in words]
    return shlex.join(words)


def _replace(word: str, old: str, new: str) -> str:
    if old.startswith("/") or "=" in old:
        return word.replace(old, new)
    name, equals, value = word.partition("=")
    if equals and (value == old or value.startswith(f"{old}/")):
        return f"{name}={new}{value[len(old) :]}"
    return new + word[len(old) :] if word == old or word.startswith(f"{old}/") else word


def _short(command: str, root: Path) -> str:
    """The same command with less work, where it would be much."""
    if "model.nonlocal_blocks=[res3.1" in command:  # positions that only the network of full size has
        size = ["data.frames=8", "data.size=32", "data.scale=[32,32]", "init.images=null", "trainer.accelerator=cpu"]
        steps = ["trainer.max_steps=1", "callbacks.precise_bn=null", "data.batch_size=4", "data.eval_batch_size=4"]
        return shlex.join([*shlex.split(command), *size, *SMALL, *steps])
    if "src/train.py" in command and "debug=" not in command:
        more = IMAGES if "coco" in command or "denoise_" in command else SIGNS if "cityscapes" in command else CLIPS
        size = [] if "size=" in command or "coco" in command else ["size=demo"]
        if "-m" in shlex.split(command):
            return shlex.join([*shlex.split(command), *size, *SMALL, *more, "paths.log_dir=multirun"])
        return shlex.join([*shlex.split(command), *size, *SMALL, *more])
    if "src/train.py" in command:
        return f"{command} data.batch_size=4"
    if "src/eval.py" in command and "i3d_nl.pt" in command:  # a network of full size
        views = "protocol.clips=1 protocol.crops=center trainer.limit_val_batches=1"
        return f"{command} {views} data.num_workers=0 data.batch_size=4"
    if "protocol.scale=320" in command:
        return f"{command} protocol.clips=1 trainer.limit_val_batches=1"
    return command.replace("part=3/16", "part=1/2")


def test_the_python_of_the_readme_runs() -> None:
    """But for the block that reads a file."""
    blocks = [
        code for section in sections(ROOT / "README.md") for code in section.python if "from_pretrained" not in code
    ]
    blocks += [code for section in sections(ROOT / "docs" / "operation.md") for code in section.python]
    assert len(blocks) == 2
    state = torch.random.get_rng_state()
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {})
    torch.random.set_rng_state(state)
