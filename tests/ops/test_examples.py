"""The examples in the docstrings of operations and layers: each public one has some, and they run."""

import doctest
import importlib
import pkgutil

import pytest

import nlnet.layers
import nlnet.ops

PARTS = (nlnet.ops, nlnet.layers)
MODULES = [
    name
    for part in PARTS
    for _, name, _ in pkgutil.walk_packages(part.__path__, f"{part.__name__}.")
    if not name.startswith("nlnet.ops.triton")  # its kernels need Triton
]
PUBLIC = [getattr(part, name) for part in PARTS for name in part.__all__]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name), raise_on_error=False).failed == 0


@pytest.mark.parametrize("thing", [t for t in PUBLIC if callable(t)], ids=lambda t: t.__name__)
def test_every_public_operation_and_layer_has_an_example(thing):
    assert ">>> " in (thing.__doc__ or "")
