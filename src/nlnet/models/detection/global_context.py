"""Global context blocks inside a torchvision ResNet."""

from collections.abc import Iterable

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from nlnet.errors import UserError
from nlnet.layers import GlobalContextBlock


def insert_global_context(stages: Iterable[nn.Module], ratio: float = 1 / 16) -> None:
    """Put a `GlobalContextBlock` behind the last norm of every bottleneck of `stages`, before the residual sum.

    That is where GCNet has them ("after the 1x1 convolution"), in res3, res4 and res5. The block becomes the norm's
    submodule `global_context` and is called by a hook, so all other names stay; it is the identity until trained.

    Raises UserError where there is no bottleneck.
    """
    for stage in stages:
        for block in stage.children():
            if not isinstance(block, Bottleneck):
                raise UserError("context_stages: these blocks go into bottlenecks; this network has none")
            context = GlobalContextBlock(block.conv3.out_channels, dims=2, ratio=ratio)
            block.bn3.add_module("global_context", context)
            block.bn3.register_forward_hook(_call)


def _call(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return module.get_submodule("global_context")(output)
