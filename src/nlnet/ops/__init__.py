"""The non-local operation as pure functions on tensors."""

from nlnet.ops.pairwise import PAIRWISE, affinity, dot_product, embedded_gaussian

__all__ = ["PAIRWISE", "affinity", "dot_product", "embedded_gaussian"]
