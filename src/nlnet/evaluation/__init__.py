"""Metrics and the protocols they are computed under."""
