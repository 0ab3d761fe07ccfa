"""What the progress bar calls an epoch."""

from types import SimpleNamespace

import pytest

from nlnet.config.compose import compose
from nlnet.config.instantiate import instantiate
from nlnet.runs.callbacks.progress_bar import ProgressBar


@pytest.mark.parametrize(("max_epochs", "said"), [(-1, "Epoch 3"), (10, "Epoch 3/9"), (None, "Epoch 3")])
def test_an_epoch_without_a_last_one_has_its_number_alone(max_epochs, said):
    made = instantiate(compose(["experiment=charades_nl"]).callbacks.progress)
    assert isinstance(made, ProgressBar)
    made._trainer = SimpleNamespace(max_epochs=max_epochs)
    assert made._get_train_description(3).rstrip() == said
    assert len(made._get_train_description(3)) >= len(made.validation_description)
