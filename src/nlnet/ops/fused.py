"""softmax(scale query key^T) value by PyTorch's fused attention, with derivatives that this does not have."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nlnet.ops import tiled
from nlnet.ops.derivatives import Operation, Tensors, in_forward_mode, transformed


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """y_i = sum_j softmax_j(scale * query_i . key_j) value_j.

    Shapes: query (B, N, D), key (B, M, D), value (B, M, E) -> (B, N, E).
    """
    if in_forward_mode() or transformed():
        return tiled.attention(query, key, value, scale)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    if torch.compiler.is_compiling() or not learns:
        return _fused(query, key, value, scale)
    graph = _Graph(scale)
    return Operation(graph.value, graph.gradient, lambda q, k, v: tiled.stored(q, k, v, scale))(query, key, value)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    # A head axis, and the channels of a position side by side: anything else silently stores the map.
    q, k, v = (t[:, None].contiguous() for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)


class _Graph:
    """PyTorch's own graph of the fused operation, for its first derivative; it knows no second one."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def value(self, query: Tensor, key: Tensor, value: Tensor) -> Tensors:
        with torch.enable_grad():
            q, k, v = self.leaves = [t.detach().requires_grad_() for t in (query, key, value)]
            self.output = _fused(q, k, v, self.scale)
        return (self.output.detach(),)

    def gradient(self, grad: Tensor, *_: Tensor) -> Tensors:
        again = torch._C._autograd._get_current_graph_task_keep_graph()
        grads = torch.autograd.grad(self.output, self.leaves, grad, retain_graph=again)
        if not again:
            # What a graph saves goes with its backward pass, and not when the loss does.
            del self.output, self.leaves
        return grads
