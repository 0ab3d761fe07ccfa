"""The non-local operation as pure functions on tensors."""

from nlnet.ops.asymmetric import PYRAMID, asymmetric, pyramid_pool
from nlnet.ops.criss_cross import criss_cross
from nlnet.ops.global_context import global_context
from nlnet.ops.nonlocal_means import nonlocal_means
from nlnet.ops.pairwise import (
    PAIRWISE,
    Pairwise,
    affinity,
    concatenation,
    dot_product,
    embedded_gaussian,
    gaussian,
    register_pairwise,
)
from nlnet.ops.pairwise.algorithms import MAP_LIMIT, choose_algorithm, is_recorded
from nlnet.ops.windowed import windowed

__all__ = [
    "MAP_LIMIT",
    "PAIRWISE",
    "PYRAMID",
    "Pairwise",
    "affinity",
    "asymmetric",
    "choose_algorithm",
    "concatenation",
    "criss_cross",
    "dot_product",
    "embedded_gaussian",
    "gaussian",
    "global_context",
    "is_recorded",
    "nonlocal_means",
    "pyramid_pool",
    "register_pairwise",
    "windowed",
]
