"""Writes the bytecode of all that this package imports, once: pip was told not to compile what is never imported.

Where PYTHONDONTWRITEBYTECODE is set, as in many containers, Python would otherwise compile 5,000 files at every start:
it takes 24 seconds of a processor until a training begins, and 9 with the bytecode.
"""

import pkgutil
from contextlib import suppress
from importlib import import_module

import nlnet

for module in pkgutil.walk_packages(nlnet.__path__, "nlnet."):
    with suppress(Exception):  # an optional part that cannot be imported here says so where it is used
        import_module(module.name)
