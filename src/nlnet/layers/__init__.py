"""Modules around the operations."""

from nlnet.layers.nonlocal_block import NonLocalBlock

__all__ = ["NonLocalBlock"]
