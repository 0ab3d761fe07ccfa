"""The non-local operation as pure functions on tensors."""

from nlnet.ops.asymmetric import PYRAMID, asymmetric, pyramid_pool
from nlnet.ops.criss_cross import criss_cross
from nlnet.ops.forms import FORMS, MAP_LIMIT, choose_form
from nlnet.ops.global_context import global_context
from nlnet.ops.nonlocal_means import nonlocal_means
from nlnet.ops.pairwise import PAIRWISE, affinity, concatenation, dot_product, embedded_gaussian, gaussian

__all__ = [
    "FORMS",
    "MAP_LIMIT",
    "PAIRWISE",
    "PYRAMID",
    "affinity",
    "asymmetric",
    "choose_form",
    "concatenation",
    "criss_cross",
    "dot_product",
    "embedded_gaussian",
    "gaussian",
    "global_context",
    "nonlocal_means",
    "pyramid_pool",
]
