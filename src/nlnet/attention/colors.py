"""The colors of the heat maps: from dark blue over gray to yellow, light rising evenly, for all kinds of sight."""

import numpy as np

# Blue and yellow are told apart with any common color blindness, and light alone tells the order.
_ANCHORS = np.array([[0, 24, 77], [60, 77, 110], [123, 123, 120], [189, 174, 101], [255, 233, 69]], np.float64)

COLORS = (
    np.stack(
        [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_ANCHORS)), channel) for channel in _ANCHORS.T], 1
    )
    .round()
    .astype(np.uint8)
)
"""(256, 3) RGB, from the least value to the greatest."""
