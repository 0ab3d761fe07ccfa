"""Lightning's progress bar, for runs whose length is in steps as well."""

from pytorch_lightning.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Says "Epoch 3" where a run has a number of steps and no last epoch; Lightning's own says "Epoch 3/-2" then."""

    def _get_train_description(self, current_epoch: int) -> str:
        if self.trainer.max_epochs != -1:
            return super()._get_train_description(current_epoch)
        # as wide as the other bar's, so that the two do not shift each other
        return f"Epoch {current_epoch}".ljust(len(self.validation_description))
