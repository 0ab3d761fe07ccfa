"""Where the paper's text and the programs that people trained with differ, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SubsampleOrder = Literal["before", "after"]
Init = Literal["normal", "msra"]


@dataclass(frozen=True)
class BlockPreset:
    """One source's answers to the questions that others answer differently.

    >>> from nlnet.layers import BLOCK_PRESETS
    >>> BLOCK_PRESETS["paper"].scale, BLOCK_PRESETS["official"].scale
    (False, True)
    """

    subsample_order: SubsampleOrder
    """Max-pool x before phi and g, or their outputs after them."""
    scale: bool
    """Scale the embedded Gaussian's softmax by 1/sqrt(D)."""
    init: Init
    """The convolutions' initial weights: N(0, 0.01), or He's N(0, sqrt(2 / D_out)), as in Caffe2's MSRA fill."""
    bias_before_norm: bool
    """Whether the last convolution keeps a bias that a norm after it takes out again."""


BLOCK_PRESETS: Mapping[str, BlockPreset] = {
    # the released Caffe2 implementation, which SlowFast and pytorchvideo follow in order and scale
    "official": BlockPreset(subsample_order="before", scale=True, init="normal", bias_before_norm=True),
    # section 3.3 (pooling "after phi and g"), equation 2 (no scale), section 4.1 (He's initialization)
    "paper": BlockPreset(subsample_order="after", scale=False, init="msra", bias_before_norm=True),
    # mmcv's defaults; mmaction2 turns the scale off in its I3D configs and leaves it on in its SlowOnly ones
    "mmcv": BlockPreset(subsample_order="after", scale=True, init="normal", bias_before_norm=False),
}
"""The presets of `nlnet.NonLocalBlock`."""
