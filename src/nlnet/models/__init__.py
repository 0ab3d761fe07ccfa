"""The paper's video networks, with non-local blocks where they are asked for."""

from nlnet.models.build import build_model
from nlnet.models.inference import optimize_for_inference
from nlnet.models.insertion import insert_nonlocal, remove_nonlocal
from nlnet.models.networks import NETWORKS
from nlnet.models.resnet3d import ResNet3d
from nlnet.models.summary import ModelSummary, describe

__all__ = [
    "NETWORKS",
    "ModelSummary",
    "ResNet3d",
    "build_model",
    "describe",
    "insert_nonlocal",
    "optimize_for_inference",
    "remove_nonlocal",
]
