"""The pairwise functions of the non-local operation y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j) (section 3.2 of the paper).

Shapes: B clips, N queries (positions i), M keys (positions j), D channels of theta and phi, E channels of g.
Each has several exact algorithms (`nlnet.ops.pairwise.algorithms`), which `algorithm=` forces. None stores a map of N M
numbers above `nlnet.ops.MAP_LIMIT` by itself. bfloat16 and float16 sum in float32.
"""

from nlnet.ops.pairwise.base import PAIRWISE, Pairwise, affinity, register_pairwise
from nlnet.ops.pairwise.concatenation import CONCATENATION, concatenation
from nlnet.ops.pairwise.dot_product import DOT_PRODUCT, dot_product
from nlnet.ops.pairwise.softmax import EMBEDDED_GAUSSIAN, GAUSSIAN, embedded_gaussian, gaussian

__all__ = [
    "PAIRWISE",
    "Pairwise",
    "affinity",
    "concatenation",
    "dot_product",
    "embedded_gaussian",
    "gaussian",
    "register_pairwise",
]

for function in (GAUSSIAN, EMBEDDED_GAUSSIAN, DOT_PRODUCT, CONCATENATION):  # in the paper's order
    register_pairwise(function)
