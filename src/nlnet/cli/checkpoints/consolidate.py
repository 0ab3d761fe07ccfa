"""`nlnet-consolidate CKPT OUT`: a checkpoint in shards as one file."""

import argparse
from pathlib import Path

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.pretrained import checkpoint_file
from nlnet.cli.errors import run
from nlnet.errors import UserError
from nlnet.saving import replacing
from nlnet.sealing import save_sealed
from nlnet.text import say


def main() -> None:
    """The console command `nlnet-consolidate`."""
    run(_consolidate)


def _consolidate() -> None:
    about = "a checkpoint whose tensors lie in shards (trainer=fsdp) as one file, as trainer=ddp writes it"
    parser = argparse.ArgumentParser(prog="nlnet-consolidate", description=about)
    parser.add_argument("path", type=Path, metavar="CKPT", help="a run's folder (its best checkpoint) or a checkpoint")
    parser.add_argument("out", type=Path, help="the file to write")
    arguments = parser.parse_args()
    file = checkpoint_file(arguments.path)
    content = read_file(file)
    if arguments.out.exists():
        raise UserError(f"{arguments.out}: is there already; give another name, or remove it")
    with replacing(arguments.out) as temporary:
        save_sealed(content, temporary)
    say(f"written: {arguments.out} ({arguments.out.stat().st_size / 2**20:.1f} MiB), the whole of {file}")


if __name__ == "__main__":
    main()
