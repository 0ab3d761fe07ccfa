"""Non-local Neural Networks (Wang, Girshick, Gupta, He, CVPR 2018): operation, block, networks, and their training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlnet import ops
    from nlnet.attention import explain
    from nlnet.checkpoints import from_pretrained
    from nlnet.layers import NonLocalBlock
    from nlnet.models import build_model, insert_nonlocal, optimize_for_inference, remove_nonlocal

__version__ = "0.1.0"
__all__ = [
    "NonLocalBlock",
    "__version__",
    "build_model",
    "explain",
    "from_pretrained",
    "insert_nonlocal",
    "ops",
    "optimize_for_inference",
    "remove_nonlocal",
]

_HOMES = {
    "from_pretrained": "nlnet.checkpoints",
    "NonLocalBlock": "nlnet.layers",
    "build_model": "nlnet.models",
    "explain": "nlnet.attention",
    "insert_nonlocal": "nlnet.models",
    "optimize_for_inference": "nlnet.models",
    "remove_nonlocal": "nlnet.models",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used: the commands set up threading before torch is imported."""
    if name == "ops":
        return import_module("nlnet.ops")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nlnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
