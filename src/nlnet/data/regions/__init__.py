"""Clips with the regions of their frames."""
