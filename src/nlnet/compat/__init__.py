"""Bridges to packages that do not load beside Lightning 2 by themselves."""
