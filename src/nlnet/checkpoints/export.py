"""Networks in formats that run without this project: torch.export and ONNX, with any batch, length and size."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock
from nlnet.models.restoration.denoiser import Denoiser
from nlnet.models.segmentation.build import Segmenter
from nlnet.ops.windowed import BLOCK
from nlnet.saving import replacing

FORMATS = ("torch", "onnx")
OPSET = 18
TOLERANCE = 1e-4
MAX = 4096

Inputs = dict[str, Tensor]


class Signature(NamedTuple):
    """What a program is called with, and what it returns.

    `examples` are the inputs by name that it is traced with, and others that it is checked with; `sizes` the name and
    the least size of each free axis of the first of them, of whose axis 0 the further ones have as much; `output` the
    name of what is returned, and `result` the axes of it that are free, too.
    """

    examples: tuple[Inputs, Inputs]
    sizes: Mapping[int, tuple[str, int]]
    output: str = "logits"
    result: tuple[int, ...] = (0,)


def export(model: nn.Module, path: str | Path, format: str) -> float:
    """Write `model` and check the file against it: clip (B, 3, T, H, W) -> logits (B, classes), of a network that
    segments images image (B, 3, H, W) -> logits (B, classes, H, W), of one that restores them image (B, C, H, W) ->
    restored (B, C, H, W).

    Batch, height and width are free, the frames too unless blocks attend in temporal groups or the network takes more
    than the clip. The smallest clip is twice what the network shrinks to one position (four times if its last stage has
    a block), the smallest image that which the network says, or 17 x 17 where it restores.

    Args:
        model: from a `build_...` of `nlnet.models`; it is exported in evaluation mode. A network that takes more than
            the clip has `further_inputs(clip)`, examples by name that begin with the batch and are otherwise of this
            size.
        path: the file to write; an ONNX file carries its weights.
        format: "torch" for `torch.export.load(path).module()`, "onnx" (opset 18) for any ONNX runtime.

    Returns the largest difference to the model's results on two sizes, over their largest magnitude.

    Raises UserError for an unknown format, if ONNX is not installed, or if the file's results differ by more than 1e-4.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; {nearest(format, FORMATS)}")
    if format == "onnx":
        _need("onnx", "onnxruntime", "onnxscript")
    model = model.eval()
    signature = _signature(model)
    with replacing(path) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _write(model, temporary, format, signature)
        difference = max(_difference(model, temporary, format, inputs) for inputs in signature.examples)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path}: its {signature.output} would differ from the network's by {difference:.1e}; not written"
            )
    return difference


def _signature(model: nn.Module) -> Signature:
    if isinstance(model, Denoiser):
        least = BLOCK + 1
        shapes = (2, model.channels, 40, 36), (1, model.channels, 53, least)
        return _of_images(shapes, (least, least), "restored")
    if isinstance(model, Segmenter):
        height, width = model.least
        return _of_images(((2, 3, height, width), (1, 3, height + height // 2, width)), model.least, "logits")
    return _of_clips(model)


def _of_images(shapes: tuple[tuple[int, ...], tuple[int, ...]], least: tuple[int, int], output: str) -> Signature:
    sizes = {0: ("batch", 1), 2: ("height", least[0]), 3: ("width", least[1])}
    example, other = ({"image": x} for x in _noise(*shapes))
    return Signature((example, other), sizes, output, (0, 2, 3))


def _of_clips(model: nn.Module) -> Signature:
    further: Any = getattr(model, "further_inputs", lambda clip: {})
    frames, height, width = least = _least_clip(model)
    groups = {m.temporal_group for m in model.modules() if isinstance(m, NonLocalBlock)} - {None}
    fixed = bool(groups) or hasattr(model, "further_inputs")
    shapes = (2, 3, *least), (1, 3, frames if fixed else 2 * frames, height + height // 2, width)
    example, other = ({"clip": clip} | further(clip) for clip in _noise(*shapes))
    names = {0: "batch", 2: "frames", 3: "height", 4: "width"}
    sizes = {axis: (name, size) for (axis, name), size in zip(names.items(), (1, *least), strict=True)}
    if fixed:
        del sizes[2]
    return Signature((example, other), sizes)


def _noise(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _write(model: nn.Module, path: Path, format: str, signature: Signature) -> None:
    example = signature.examples[0]
    sizes = {axis: Dim(name, min=least, max=MAX) for axis, (name, least) in signature.sizes.items()}
    with torch.no_grad(), _quiet():
        # sizes that the tracer cannot prove to fit are checked when the program runs
        program = torch.export.export(
            model,
            tuple(example.values()),
            dynamic_shapes=(sizes, *[{0: sizes[0]}] * (len(example) - 1)),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        if format == "torch":
            content = io.BytesIO()  # PyTorch's writer does not survive a disk that is full half-way
            torch.export.save(program, content)
            path.write_bytes(content.getbuffer())
        else:
            _save_onnx(program, path, signature)


def run_exported(path: str | Path, x: Tensor, format: str, **further: Tensor) -> Tensor:
    """What an exported file makes of a clip or an image, and of what its network takes besides, in its order."""
    inputs = (x, *further.values())
    if format == "torch":
        with open(path, "rb") as file:  # a path would have to end in .pt2
            return torch.export.load(file).module()(*inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [taken.name for taken in session.get_inputs()]
    given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, given)[0])


def _save_onnx(program: ExportedProgram, path: Path, signature: Signature) -> None:
    example = signature.examples[0]
    written = torch.onnx.export(
        program,
        tuple(example.values()),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=list(example),
        output_names=[signature.output],
    )
    assert written is not None
    first, *further = written.model.graph.inputs
    free = {axis: name for axis, (name, _) in signature.sizes.items()}
    named = [(first, free), *((value, {0: free[0]}) for value in further)]
    named.append((written.model.graph.outputs[0], {axis: free[axis] for axis in signature.result}))
    for value, names in named:
        assert value.shape is not None
        for axis, name in names.items():
            value.shape[axis] = name
    written.save(str(path), external_data=False)


def _least_clip(model: nn.Module) -> tuple[int, int, int]:
    """(T, H, W) of the smallest clip to export for, whose last feature map has two positions along each.

    A size of one is a case of its own to the tracer; so are the keys of a block in the last stage, pooled to one.
    """
    probe = (64, 256, 256)
    bare = copy.deepcopy(model).to("meta")
    shapes: list[torch.Size] = []
    trunk = getattr(bare, "backbone", bare)
    last = trunk.get_submodule("res5" if hasattr(trunk, "res5") else "res3")
    last.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    with torch.no_grad():
        bare(torch.empty(1, 3, *probe, device="meta"))
    frames, height, width = (2 * n // m for n, m in zip(probe, shapes[0][2:], strict=True))
    pooled = 2 if any(isinstance(m, NonLocalBlock) and m.subsample for m in last.modules()) else 1
    return frames, pooled * height, pooled * width


def _difference(model: nn.Module, path: Path, format: str, inputs: Inputs) -> float:
    x, *further = inputs.values()
    named = dict(zip(list(inputs)[1:], further, strict=True))
    with torch.no_grad():
        wanted, got = model(x, *further), run_exported(path, x, format, **named)
    return float((got - wanted).abs().max() / wanted.abs().max())


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"format=onnx needs {', '.join(missing)}; install them with: pip install 'nlnet[export]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
