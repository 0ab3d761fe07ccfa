"""Everybody's checkpoints: converted into our networks, read, and written in formats that run without us."""

from nlnet.checkpoints.convert import SOURCES, Converted, convert
from nlnet.checkpoints.pretrained import from_pretrained
from nlnet.checkpoints.report import Report

__all__ = ["SOURCES", "Converted", "Report", "convert", "from_pretrained"]
