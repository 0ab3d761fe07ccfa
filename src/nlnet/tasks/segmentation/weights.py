"""Weights to start a network for segmentation from: ImageNet ResNets, and runs of before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nlnet.checkpoints.files import read_file
from nlnet.checkpoints.image_weights import image_weights
from nlnet.checkpoints.mismatch import check_fits
from nlnet.checkpoints.pretrained import checkpoint_file, run_state
from nlnet.errors import UserError
from nlnet.models.segmentation.build import Segmenter

_CLASSIFIERS = ("head.classifier.", "auxiliary.classifier.")


def load_network(net: Segmenter, source: str, *, keep_classifier: bool) -> str:
    """Fill `net` from the checkpoint of a run, `source`, or of the run in that folder; returns what to say about it.

    Without `keep_classifier` the layers that depend on the classes stay new. Raises UserError for another network.
    """
    path = checkpoint_file(Path(source).expanduser())
    state = run_state(read_file(path), str(path))
    state = {key.removeprefix("net."): value for key, value in state.items()}
    new = set() if keep_classifier else {key for key in net.state_dict() if key.startswith(_CLASSIFIERS)}
    _fill(net, {key: value for key, value in state.items() if key not in new}, new, str(path))
    return f"weights of {path}" + ("" if keep_classifier else "; new: the classifiers")


def load_backbone(net: Segmenter, source: str) -> str:
    """Fill the backbone from an ImageNet ResNet of torchvision's, a file or a name; returns what to say about it.

    Raises UserError if there is none, or if it is of another network.
    """
    wanted = net.state_dict()
    depth = sum(f"backbone.layer3.{i}.conv1.weight" in wanted for i in range(36))
    content = image_weights(source, depth, net.title)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{source}: not a state dict; give torchvision's of an ImageNet ResNet")
    state = {f"backbone.{key}": value for key, value in state.items() if not str(key).startswith("fc.")}
    _fill(net, state, {key for key in wanted if not key.startswith("backbone.")}, source)
    return f"backbone from {source}"


def _fill(net: Segmenter, state: Mapping[str, Any], new: set[str], source: str) -> None:
    """Load `state`, which must have every key but `new` and no other; counters of norms may be missing."""
    wanted = net.state_dict()
    may_lack = {key for key in wanted if key in new or key.endswith("num_batches_tracked")}
    check_fits(state, wanted, source, new=may_lack, network=net.title, advice="give one of the same network")
    net.load_state_dict(state, strict=False)
