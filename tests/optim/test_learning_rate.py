"""The learning rate for a batch of another size."""

import pytest

from nlnet.errors import UserError
from nlnet.optim.learning_rate import scaled_rate


def test_the_rate_follows_the_batch_only_where_a_reference_is_given():
    assert scaled_rate(0.01, 256, None) == 0.01
    assert scaled_rate(0.01, 256, 64) == pytest.approx(0.04)
    assert scaled_rate(0.01, 16, 64) == 0.0025
    with pytest.raises(UserError, match=r"optim\.lr_batch=0"):
        scaled_rate(0.01, 16, 0)
