"""How the trainer's checkpoints are written, read and removed."""

import os
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from nlnet.checkpoints.files import LAST, PREVIOUS, read_file
from nlnet.saving import replacing, temporary_name
from nlnet.sealing import is_whole, save_sealed


class DurableCheckpointIO(TorchCheckpointIO):
    """Checkpoints that a kill, a full disk or a damaged one cannot take away.

    A file is written beside its place, read back, brought to the disk and then renamed; the `last.ckpt` before it stays
    as `last-1.ckpt`. What is loaded is checked against its seal. Only single files are ever removed. Addresses of
    object stores, where a file appears whole anyway, are left to Lightning.
    """

    def __init__(self) -> None:
        self._read: dict[str, dict[str, Any]] = {}
        self._whole: set[Path] = set()
        self._remote: set[str] = set()

    def hand_over(self, path: Path, content: dict[str, Any]) -> None:
        """`content` is what `read_file` has found in `path`: the next load of it need not read it again."""
        self._read = {str(path): content}
        self._whole.add(path.absolute())

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if _is_remote(path):
            self._remote.add(str(path).rpartition("/")[0])
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path).absolute()
        with replacing(place, follow_links=False) as temporary:
            place.parent.mkdir(parents=True, exist_ok=True)
            save_sealed(checkpoint, temporary)
            if place.name == LAST:
                self._keep_previous(place)
        self._whole.add(place)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        known = self._read.pop(str(path), None)
        return read_file(path, "ckpt_path=") if known is None else known

    def remove_checkpoint(self, path: Any) -> None:
        if _is_remote(path):
            if str(path).rpartition("/")[0] in self._remote:
                super().remove_checkpoint(path)
            return
        place = Path(path)
        if place.is_file() and not place.is_symlink() and ".." not in place.parts:
            place.unlink()

    def _keep_previous(self, last: Path) -> None:
        """A damaged `last.ckpt` does not take the place of the good one before it."""
        if last not in self._whole and not is_whole(last):
            return
        link = temporary_name(last.with_name(PREVIOUS))
        try:
            os.link(last, link)
        except OSError:  # a file system without links: for a moment the previous one is the only one
            os.replace(last, last.with_name(PREVIOUS))
            return
        os.replace(link, last.with_name(PREVIOUS))
        link.unlink(missing_ok=True)  # still there where both were the same file already


def _is_remote(path: Any) -> bool:
    return "://" in str(path)
