"""Non-local Neural Networks: the operation, the block and the networks.

Importing this package needs nothing but torch; data, training and evaluation live in the subpackages.
"""

from nlnet import ops
from nlnet.layers import NonLocalBlock
from nlnet.models import build_model

__all__ = ["NonLocalBlock", "__version__", "build_model", "ops"]

__version__ = "0.1.0"
