"""What the layers share: modules by the number of dimensions, and one wording of what they refuse."""

from collections.abc import Sequence

from torch import Tensor, nn

from nlnet.errors import UserError

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUT = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


def check_arguments(layer: str, dims: int, channels: Sequence[int], allowed: Sequence[int] = (1, 2, 3)) -> None:
    """Refuse with ValueError dimensions that `layer` does not have, and widths below 1."""
    if dims not in allowed:
        expected = ", ".join(map(str, allowed[:-1]))
        raise ValueError(f"{layer}: dims must be {expected} or {allowed[-1]}, got {dims!r}")
    if min(channels) < 1:
        raise ValueError(f"{layer}: needs at least one channel everywhere, got {', '.join(map(str, channels))}")


def expected_map(layer: str, name: str, channels: int, dims: int) -> str:
    """How the message about a wrong input of `layer` begins."""
    return f"{layer}: expected {name} (B, {channels}, {('W', 'H, W', 'T, H, W')[dims - 1]})"


def check_map(layer: str, name: str, x: Tensor, channels: int, dims: int) -> None:
    """Refuse with ValueError what is not (B, `channels`, [T, [H,]] W) or has no positions."""
    if x.ndim != dims + 2 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise ValueError(f"{expected_map(layer, name, channels, dims)} with no length 0, got {tuple(x.shape)}")


class Layer(nn.Module):
    """A layer of this package."""

    def reset_parameters(self) -> None:
        """Start everything in the layer anew: parameters and the buffers of norms, on any device."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()

    def __prepare_scriptable__(self) -> None:
        """What `torch.jit.script` asks first, of every module in a network."""
        raise UserError(
            f"{type(self).__name__}: torch.jit.script cannot read its code; use torch.export.export(model, (x,)) or "
            "torch.jit.trace(model, x)."
        )
