"""The non-local block (section 3.3 and figure 2 of the paper)."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from nlnet.errors import nearest
from nlnet.layers.dims import Layer, check_arguments, check_map, expected_map
from nlnet.layers.frozen_affine import FrozenAffine
from nlnet.layers.pointwise import NORM, apply_at_positions, called, is_plain, point_conv, point_weight
from nlnet.layers.positions import (
    join,
    max_pool,
    project,
    project_each_to_map,
    project_to_map,
    split,
    to_map,
    to_positions,
)
from nlnet.layers.presets import BLOCK_PRESETS, Init, SubsampleOrder
from nlnet.ops import PAIRWISE, Pairwise, affinity, choose_algorithm, is_recorded


class NonLocalBlock(Layer):
    """z_i = x_i + BN(W y_i),  y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j): equations 1 and 6 of the paper, sections 3.1-3.3.

    where:
    - x (B, C, [T, [H,]] W) is the input, z of the same shape the output; i runs over the N = T H W positions of x and
      j over the M positions of maxpool(x), N/4 of them for an image or a video ("sub-sampling"), N without it.
    - theta (B, N, D), phi (B, M, D), g (B, M, D): 1x1x1 convolutions C -> D of x; D is C/2 (the "bottleneck").
    - W: a 1x1x1 convolution D -> C (the paper's W_z), BN its batch norm, whose scale starts at zero: a new block is
      the identity, so a pretrained network keeps its output until it is trained.
    - f, C(x): `pairwise`, a name in `nlnet.ops.PAIRWISE` (section 3.2):
      "gaussian": exp(x_i . maxpool(x)_j) over its sum, without theta and phi;
      "embedded_gaussian": exp(theta_i . phi_j / sqrt(D)) over its sum, a softmax;
      "dot_product": theta_i . phi_j over M;
      "concatenation": ReLU(w_f . [theta_i, phi_j]) over M, w_f (2D,) being `concat_project`.

    In the state dict: theta, phi, g, out (W), norm (BN), concat_project (w_f, as a 1x1 convolution 2D -> 1). The
    convolutions run as matrix products; one that has hooks or parametrizations, or another module in its place, is
    called. In a symbolic trace (torch.fx) the block is one node. An empty batch passes through.

    >>> import torch
    >>> from nlnet import NonLocalBlock
    >>> x = torch.randn(2, 16, 4, 8, 8)
    >>> torch.equal(NonLocalBlock(16)(x), x)  # the identity, until it is trained
    True

    Args:
        channels: C.
        dims: how many of T, H and W there are: 3 video, 2 image, 1 sequence.
        pairwise: the name of f.
        preset: whose choices the options below follow where they are None: "official" (released Caffe2 code),
            "paper" (its text) or "mmcv". See `nlnet.layers.BLOCK_PRESETS`.
        inner_channels: D, C/2 (at least 1) if None.
        subsample: max-pool the keys by 2 along H and W (along W in a sequence). A dimension of length 1 is left alone.
        subsample_order: pool x "before" phi and g, or their outputs "after" them.
        scale: scale the embedded Gaussian's softmax by 1/sqrt(D). The other functions have no scale.
        norm: "batch"; "affine", a `FrozenAffine`; or "none".
        zero_init: what starts at zero: the "norm"'s scale, the "out" convolution, or "none" of them. If None, the
            batch norm's scale where there is one, and the convolution otherwise.
        out_bias: whether W has a bias.
        init: the convolutions' weights, "normal" for N(0, 0.01) or "msra" for He's. Biases start at zero.
        axes: which positions meet, in a video: all of them ("spacetime"), those of one frame ("space"), or those of
            one location over time ("time", never pooled); table 2d.
        temporal_group: in a video, the frames of a group whose positions meet, T being a multiple of it; the released
            long-clip networks use 4 in res3. All frames if None.

    Raises ValueError if an argument or the input's shape does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 3,
        pairwise: str = "embedded_gaussian",
        *,
        preset: str = "official",
        inner_channels: int | None = None,
        subsample: bool = True,
        subsample_order: SubsampleOrder | None = None,
        scale: bool | None = None,
        norm: Literal["batch", "affine", "none"] = "batch",
        zero_init: Literal["norm", "out", "none"] | None = None,
        out_bias: bool | None = None,
        init: Init | None = None,
        axes: Literal["spacetime", "space", "time"] = "spacetime",
        temporal_group: int | None = None,
    ) -> None:
        super().__init__()
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        check_arguments("NonLocalBlock", dims, (channels, inner))
        defaults = BLOCK_PRESETS[_one_of("preset", preset, BLOCK_PRESETS)]
        self.channels, self.dims, self.inner_channels = channels, dims, inner
        self.pairwise = _one_of("pairwise", pairwise, PAIRWISE)
        self.axes, self.temporal_group = _one_of("axes", axes, ("spacetime", "space", "time")), temporal_group
        self._check_regions()
        self.subsample = subsample and axes != "time"
        self.subsample_order = _one_of(
            "subsample_order", subsample_order or defaults.subsample_order, ("before", "after")
        )
        scaled = (defaults.scale if scale is None else scale) and self.function.has_scale
        self.scale = inner**-0.5 if scaled else 1.0
        _one_of("init", init or defaults.init, ("normal", "msra"))
        self.init: Init = init or defaults.init
        _one_of("norm", norm, ("batch", "affine", "none"))
        self.zero_init = _one_of("zero_init", zero_init or _last(norm), ("norm", "out", "none"))
        if zero_init == "norm" and norm != "batch":
            raise ValueError(f"NonLocalBlock: zero_init='norm' needs norm='batch', whose scale is learnt; got {norm!r}")
        zero_out = self.zero_init == "out"
        if self.function.embeds != "input":
            self.theta = point_conv(dims, channels, inner, start=self.init)
            self.phi = point_conv(dims, channels, inner, start=self.init)
        self.g = point_conv(dims, channels, inner, start=self.init)
        with_bias = norm == "none" or defaults.bias_before_norm if out_bias is None else out_bias
        self.out = point_conv(dims, inner, channels, bias=with_bias, start=self.init, zero=zero_out)
        if self.function.embeds == "scalars":
            self.concat_project = point_conv(2, 2 * inner, 1, bias=False, start=self.init)
        self.norm: nn.Module = nn.Identity()
        if norm != "none":
            self.norm = NORM[dims](channels) if norm == "batch" else FrozenAffine(channels)
            self.norm.zero = self.zero_init == "norm"
        self.reset_parameters()

    @property
    def function(self) -> Pairwise:
        """f and C: the object behind `pairwise`."""
        return PAIRWISE[self.pairwise]

    def forward(self, x: Tensor) -> Tensor:
        """z_i = x_i + BN(W y_i): (B, C, [T, [H,]] W) -> the same shape."""
        if _is_symbolic(x):
            return _one_node(self, x)
        self._check(x)
        if x.shape[0] == 0:
            return self._of_no_clips(x)
        # theta_i, phi_j and g_j, and what these are for the other functions
        query, key, value = self._embed(x, to_positions(x))
        regions, interleaved = self.regions(x.shape[2:]), self.axes == "time"
        if regions == 1 and is_plain(self.out) and self._sums_first(query, key):
            # W (theta (phi^T g / M)): the part without N comes first, and y is never there
            weight_BCD = self.out.weight.flatten(1) @ (value.transpose(1, 2) @ key / key.shape[1])
            w_y = project_each_to_map(query, weight_BCD, self.out.bias, like=x)
        else:
            # y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j), over the positions j that meet i
            y = self.attend(*(split(t, regions, interleaved=interleaved) for t in (query, key, value)))
            w_y = self._out(join(y, regions, interleaved=interleaved), x)
        return x + self.norm(w_y)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the pairwise function sees of x (B, C, [T, [H,]] W): theta (B, N, D), phi (B, M, D), g (B, M, D).

        The Gaussian sees x (B, N, C) and maxpool(x) (B, M, C) instead of theta and phi; the concatenation
        a_i = w_theta . theta_i (B, N) and b_j = w_phi . phi_j (B, M), where w_f is [w_theta, w_phi].
        """
        self._check(x)
        return self._embed(x, to_positions(x))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """y = 1/C(x) sum_j f(x_i, x_j) g(x_j) (B, N, D) of what `embed` returns."""
        return self.function(query, key, value, **self._scale())

    def affinity(self, query: Tensor, key: Tensor) -> Tensor:
        """f(x_i, x_j) / C(x) (B, N, M) itself, of the query and the key that `embed` returns, or of some rows of it."""
        return affinity(self.pairwise, query, key, **self._scale())

    def attention(self, x: Tensor, positions: Tensor | Sequence[int]) -> Tensor:
        """f(x_i, x_j) / C(x) for some positions i and all keys j they meet: (B, P, M), at the cost of these P rows.

        Args:
            x: (B, C, [T, [H,]] W).
            positions: (P,), which i; that of frame t, row h and column w is (t H + h) W + w.

        The keys j count through `key_size` in the same way: with `axes="space"` or groups those of the position's own
        frames, with "time" those of its own location. Raises ValueError for a position outside of x.
        """
        self._check(x)
        x_BNC = to_positions(x)
        rows = torch.as_tensor(positions, device=x.device)
        if rows.ndim != 1 or rows.dtype.is_floating_point or not ((rows >= 0) & (rows < x_BNC.shape[1])).all():
            raise ValueError(f"attention: expected positions (P,) in [0, {x_BNC.shape[1]}), got {positions}")
        w_f, some = self._w_f(), self.function.embeds == "input" or is_plain(self.theta)
        # Only a convolution that is plain says what it makes of some positions without the others.
        query = self._query(x_BNC[:, rows], (), w_f) if some else self._query(x_BNC, x.shape[2:], w_f)[:, rows]
        key = self._key(x, self._key_source(x), w_f)
        regions, interleaved = self.regions(x.shape[2:]), self.axes == "time"
        if regions == 1:
            return self.affinity(query, key)
        mine = rows % regions if interleaved else rows // (x_BNC.shape[1] // regions)
        key = split(key, regions, interleaved=interleaved).unflatten(0, (len(x), regions))[:, mine]
        row = self.affinity(query.flatten(0, 1)[:, None], key.flatten(0, 1))
        return row[:, 0].unflatten(0, (len(x), len(rows)))

    def key_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The lengths [T, [H,]] W of the keys that one position meets in a map of lengths `size`; M is their product.

        Raises ValueError if the block cannot take such a map.
        """
        frames = () if self.dims < 3 else (size[0] // (1 if self.axes == "time" else self.regions(size)),)
        if self.axes == "time":
            return (*frames, 1, 1)
        return (*frames, *(max(n // 2, 1) if self.subsample else n for n in size[-2:]))

    def _of_no_clips(self, x: Tensor) -> Tensor:
        """An image without detections. Every parameter still gets a gradient, zero, as distributed training needs."""
        return x + 0 * torch.stack([p.sum() for p in self.parameters()]).sum()

    def _embed(self, x: Tensor, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        source, w_f = self._key_source(x), self._w_f()
        value = self._pool_after(self._embedding(self.g, to_positions(source), source.shape[2:]), source.shape[2:])
        return self._query(x_BNC, x.shape[2:], w_f), self._key(x, source, w_f), value

    def _embedding(self, conv: nn.Module, x_BNC: Tensor, size: Sequence[int]) -> Tensor:
        return apply_at_positions(conv, x_BNC, size, self.inner_channels)

    def _query(self, x_BNC: Tensor, size: Sequence[int], w_f: Tensor | None) -> Tensor:
        if self.function.embeds == "input":
            return x_BNC
        if w_f is not None:
            return self._folded(x_BNC, size, self.theta, w_f[: self.inner_channels])
        return self._embedding(self.theta, x_BNC, size)

    def _key(self, x: Tensor, source: Tensor, w_f: Tensor | None) -> Tensor:
        pooled_after = self.subsample and self.subsample_order == "after"
        if self.function.embeds == "input":
            return to_positions(max_pool(x) if pooled_after else source)
        if w_f is not None and not pooled_after:
            return self._folded(to_positions(source), source.shape[2:], self.phi, w_f[self.inner_channels :])
        phi = self._pool_after(self._embedding(self.phi, to_positions(source), source.shape[2:]), source.shape[2:])
        return phi if w_f is None else phi @ w_f[self.inner_channels :]

    def _key_source(self, x: Tensor) -> Tensor:
        """What phi and g are applied to."""
        return max_pool(x) if self.subsample and self.subsample_order == "before" else x

    def _pool_after(self, t_BMD: Tensor, size: torch.Size) -> Tensor:
        """What becomes of the outputs of phi and g on a map of lengths `size`."""
        if not self.subsample or self.subsample_order == "before":
            return t_BMD
        return to_positions(max_pool(to_map(t_BMD, size)))

    def _folded(self, x_BNC: Tensor, size: Sequence[int], conv: nn.Module, w_D: Tensor) -> Tensor:
        """w . conv(x) (B, N): the product of w and the weights is one channel, so the D channels are never computed."""
        if not is_plain(conv):
            return self._embedding(conv, x_BNC, size) @ w_D
        # By attribute: a functional call puts tensors in place of the parameters.
        weight, bias = cast(Tensor, conv.weight), cast(Tensor, conv.bias)
        return project(x_BNC, w_D[None] @ weight.flatten(1), (w_D @ bias)[None]).squeeze(2)

    def _w_f(self) -> Tensor | None:
        """(2D,), the weights of theta and then those of phi, where the function has them."""
        return point_weight(self.concat_project, 2 * self.inner_channels) if self.function.embeds == "scalars" else None

    def _out(self, y_BND: Tensor, x: Tensor) -> Tensor:
        """W y, in the layout of x."""
        if is_plain(self.out):
            return project_to_map(y_BND, self.out.weight, self.out.bias, like=x)
        return called(self.out, to_map(y_BND, x.shape[2:]), self.channels)

    def _scale(self) -> dict[str, float]:
        return {"scale": self.scale} if self.function.has_scale else {}

    def _sums_first(self, query: Tensor, key: Tensor) -> bool:
        """Whether the dot product's sum over keys goes into the last convolution; half precision might overflow."""
        if "associative" not in self.function.algorithms or query.dtype.itemsize < 4 or is_recorded():
            return False
        if query.shape[1] <= self.channels:
            return False
        n, m, d = query.shape[1], key.shape[1], self.inner_channels
        return choose_algorithm(self.pairwise, n, m, d, d) == "associative"

    def regions(self, size: Sequence[int]) -> int:
        """How many sets of positions of a map of lengths `size` there are that do not meet each other."""
        if self.axes == "time":
            return size[1] * size[2]
        group = 1 if self.axes == "space" else self.temporal_group
        return 1 if group is None else size[0] // group

    def _check_regions(self) -> None:
        if self.dims != 3 and (self.axes != "spacetime" or self.temporal_group is not None):
            raise ValueError(f"NonLocalBlock: axes and temporal_group are for dims=3, got dims={self.dims}")
        if self.temporal_group is not None and (self.axes != "spacetime" or self.temporal_group < 1):
            raise ValueError(
                f"NonLocalBlock: temporal_group must be at least 1 and with axes='spacetime', got "
                f"{self.temporal_group} with axes={self.axes!r}"
            )

    def _check(self, x: Tensor) -> None:
        check_map("NonLocalBlock", "x", x, self.channels, self.dims)
        expected = expected_map("NonLocalBlock", "x", self.channels, self.dims)
        if is_plain(self.g) and x.dtype != self.g.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{expected} in {self.g.weight.dtype} like its weights, got {x.dtype}")
        group = self.temporal_group
        if group is not None and x.shape[2] % group:
            raise ValueError(f"{expected} with T a multiple of temporal_group={group}, got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        order = f"{self.subsample_order}" if self.subsample else "off"
        region = self.axes if self.temporal_group is None else f"groups of {self.temporal_group} frames"
        return f"pairwise={self.pairwise}, subsample={order}, scale={self.scale:.4g}, {region}"


def _last(norm: str) -> Literal["norm", "out"]:
    """What starts at zero where nothing else is said: a frozen scale of zero would stay there."""
    return "norm" if norm == "batch" else "out"


def _is_symbolic(x: object) -> bool:
    return isinstance(x, Proxy)


def _one_node(block: NonLocalBlock, x: Any) -> Tensor:
    """The call of `block` in a symbolic trace."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(block), (x,), {})


def _one_of(what: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        raise ValueError(f"NonLocalBlock: unknown {what} {value!r}; {nearest(str(value), known)}")
    return value
