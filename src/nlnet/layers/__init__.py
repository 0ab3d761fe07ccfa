"""Modules around the operations."""

from nlnet.layers.asymmetric import AFNB, APNB
from nlnet.layers.criss_cross import CrissCrossAttention
from nlnet.layers.disentangled import DisentangledNonLocalBlock
from nlnet.layers.frozen_affine import FrozenAffine
from nlnet.layers.global_context import GlobalContextBlock
from nlnet.layers.nonlocal_block import NonLocalBlock
from nlnet.layers.presets import BLOCK_PRESETS, BlockPreset

__all__ = [
    "AFNB",
    "APNB",
    "BLOCK_PRESETS",
    "BlockPreset",
    "CrissCrossAttention",
    "DisentangledNonLocalBlock",
    "FrozenAffine",
    "GlobalContextBlock",
    "NonLocalBlock",
]
