"""Networks in formats that run without this project: torch.export and ONNX, with any batch, length and size."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nlnet.errors import UserError, nearest
from nlnet.layers import NonLocalBlock
from nlnet.saving import replacing

FORMATS = ("torch", "onnx")
OPSET = 18
TOLERANCE = 1e-4
MAX = 4096
_AXES = {0: "batch", 2: "frames", 3: "height", 4: "width"}


def export(model: nn.Module, path: str | Path, format: str) -> float:
    """Write `model`, clip (B, 3, T, H, W) -> logits (B, classes), and check the file against it.

    Batch, height and width are free, the frames too unless blocks attend in temporal groups; the smallest clip is
    twice what the network shrinks to one position (four times if its last stage has a block).

    Args:
        model: from `build_model`; it is exported in evaluation mode.
        path: the file to write; an ONNX file carries its weights.
        format: "torch" for `torch.export.load(path).module()`, "onnx" (opset 18) for any ONNX runtime.

    Returns the largest difference to the model's logits on two sizes of clips, over their largest magnitude.

    Raises UserError for an unknown format, if ONNX is not installed, or if the file's logits differ by more than 1e-4.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; {nearest(format, FORMATS)}")
    if format == "onnx":
        _need("onnx", "onnxruntime", "onnxscript")
    model = model.eval()
    least = _least_clip(model)
    groups = {m.temporal_group for m in model.modules() if isinstance(m, NonLocalBlock)} - {None}
    example = torch.randn(2, 3, *least, generator=torch.Generator().manual_seed(0))
    sizes = {axis: Dim(name, min=n, max=MAX) for (axis, name), n in zip(_AXES.items(), (1, *least), strict=True)}
    if groups:
        del sizes[2]
    with replacing(path) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _write(model, temporary, format, example, sizes)
        frames, height, width = least
        other = torch.randn(1, 3, frames if groups else 2 * frames, height + height // 2, width)
        difference = max(_difference(model, temporary, format, clip) for clip in (example, other))
        if not difference <= TOLERANCE:
            raise UserError(f"{path}: its logits would differ from the network's by {difference:.1e}; not written")
    return difference


def _write(model: nn.Module, path: Path, format: str, example: Tensor, sizes: Mapping[int, Any]) -> None:
    with torch.no_grad(), _quiet():
        # sizes that the tracer cannot prove to fit are checked when the program runs
        program = torch.export.export(
            model, (example,), dynamic_shapes=(sizes,), prefer_deferred_runtime_asserts_over_guards=True
        )
        if format == "torch":
            content = io.BytesIO()  # PyTorch's writer does not survive a disk that is full half-way
            torch.export.save(program, content)
            path.write_bytes(content.getbuffer())
        else:
            _save_onnx(program, example, path, sizes)


def run_exported(path: str | Path, clip: Tensor, format: str) -> Tensor:
    """The logits of an exported file."""
    if format == "torch":
        with open(path, "rb") as file:  # a path would have to end in .pt2
            return torch.export.load(file).module()(clip)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"clip": clip.numpy()})[0])


def _save_onnx(program: ExportedProgram, example: Tensor, path: Path, sizes: Mapping[int, Any]) -> None:
    written = torch.onnx.export(
        program,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=["clip"],
        output_names=["logits"],
    )
    assert written is not None
    clip, logits = written.model.graph.inputs[0], written.model.graph.outputs[0]
    assert clip.shape is not None
    assert logits.shape is not None
    for axis in sizes:
        clip.shape[axis] = _AXES[axis]
    logits.shape[0] = _AXES[0]
    written.save(str(path), external_data=False)


def _least_clip(model: nn.Module) -> tuple[int, int, int]:
    """(T, H, W) of the smallest clip to export for, whose last feature map has two positions along each.

    A size of one is a case of its own to the tracer; so are the keys of a block in the last stage, pooled to one.
    """
    probe = (64, 256, 256)
    bare = copy.deepcopy(model).to("meta")
    shapes: list[torch.Size] = []
    last = bare.get_submodule("res5" if hasattr(bare, "res5") else "res3")
    last.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    with torch.no_grad():
        bare(torch.empty(1, 3, *probe, device="meta"))
    frames, height, width = (2 * n // m for n, m in zip(probe, shapes[0][2:], strict=True))
    pooled = 2 if any(isinstance(m, NonLocalBlock) and m.subsample for m in last.modules()) else 1
    return frames, pooled * height, pooled * width


def _difference(model: nn.Module, path: Path, format: str, clip: Tensor) -> float:
    with torch.no_grad():
        wanted, got = model(clip), run_exported(path, clip, format)
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
