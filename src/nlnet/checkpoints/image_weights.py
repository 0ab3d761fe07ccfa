"""The weights of a 2-D ResNet trained on ImageNet, from a file or by torchvision's name for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from nlnet.checkpoints.files import FOREIGN, read_file
from nlnet.errors import UserError, nearest

_BY_DEPTH = {6: "resnet50", 23: "resnet101"}
_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pyth")


def image_weights(source: str | Path, depth: int, title: str) -> Mapping[str, Any]:
    """What the file `source` holds, or torchvision's state dict of that name, such as IMAGENET1K_V1.

    Named weights are downloaded unless they have been before.

    Args:
        source: a file, or a name.
        depth: the residual blocks in res4 of the network that they are for, which tells torchvision's ResNets apart.
        title: what messages call that network.

    Raises UserError if there is no such file or name, or if the download fails.
    """
    name = str(source)
    if Path(source).is_file():
        return read_file(source, advice=FOREIGN)
    if "/" in name or name.endswith(_SUFFIXES):
        raise UserError(f"{name}: there is no such file of 2-D weights")
    from torchvision.models import get_model_weights

    model = _BY_DEPTH.get(depth)
    if model is None:
        raise UserError(f"{name}: torchvision has no 2-D network of {title}'s shape; give a file")
    weights = {w.name: w for w in get_model_weights(model)}
    wanted = name.rsplit(".", 1)[-1]
    if wanted not in weights:
        raise UserError(f"{name}: neither a file nor torchvision's weights of {model}; {nearest(wanted, weights)}")
    try:
        return weights[wanted].get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{name}: torchvision's {model} weights could not be fetched ({error}); copy the file here and give its"
            f" path, or put it into {torch.hub.get_dir()}/checkpoints, or start at random with null"
        ) from error
