"""How many samples were read and how many were skipped, by cause, over the whole run."""

from collections import Counter
from typing import Any

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.callbacks import Callback

from nlnet.errors import UserError

# Below this many samples a share says nothing: one bad file of three is not a third of the data.
ENOUGH_TO_JUDGE = 200


class Accounting(Callback):
    """Counts training samples on all ranks; stops the run when too large a share cannot be read."""

    def __init__(self, max_skipped: float) -> None:
        self.max_skipped = max_skipped
        self.read = 0
        self.skipped: Counter[str] = Counter()

    def totals(self) -> dict[str, Any]:
        """`samples_read` and `samples_skipped` by cause, summed over the ranks (call it on all of them)."""
        shares: list[Any] = [(self.read, self.skipped)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shares = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, (self.read, self.skipped))
        skipped: Counter[str] = sum((share[1] for share in shares), Counter())
        return {"samples_read": sum(share[0] for share in shares), "samples_skipped": dict(skipped)}

    def state_dict(self) -> dict[str, Any]:
        return self.totals()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            self.read, self.skipped = state_dict["samples_read"], Counter(state_dict["samples_skipped"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.read += len(batch["weights"]) - len(batch["failures"])
        self.skipped.update(cause for _, cause in batch["failures"])
        skipped, tried = self.skipped.total(), self.skipped.total() + self.read
        if tried >= ENOUGH_TO_JUDGE and skipped > self.max_skipped * tried:
            causes = ", ".join(f"{count} {cause}" for cause, count in self.skipped.most_common())
            raise UserError(
                f"{skipped} of {tried} training samples could not be read ({causes}), more than"
                f" data.max_skipped={self.max_skipped}; the last was {batch['failures'][-1:] or 'earlier'}. Repair the"
                " shards, or raise the limit"
            )
