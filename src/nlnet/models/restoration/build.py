"""A network that restores images, from its name and its sizes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from nlnet.errors import UserError
from nlnet.models.options import check_one_of
from nlnet.models.restoration.denoiser import Denoiser
from nlnet.models.restoration.dncnn import DnCNN
from nlnet.models.restoration.nlrn import NLRN
from nlnet.models.restoration.rnan import RNAN


class Network(NamedTuple):
    """How a network is made, and its sizes: the published ones, and those for a demo on a CPU."""

    make: Callable[..., Denoiser]
    published: Mapping[str, int]
    demo: Mapping[str, int]


DENOISERS: Mapping[str, Network] = {
    "nlrn": Network(
        NLRN,
        {"width": 128, "inner_channels": 64, "steps": 12, "window": 35},
        {"width": 32, "inner_channels": 8, "steps": 3, "window": 11},
    ),
    "rnan": Network(
        RNAN,
        {"width": 64, "inner_channels": 32, "groups": 10},
        {"width": 16, "inner_channels": 8, "groups": 2},
    ),
    "dncnn": Network(DnCNN, {"width": 64, "depth": 17}, {"width": 32, "depth": 8}),
}

_LIMITS = {
    "width": (1, 2048), "inner_channels": (1, 2048), "depth": (2, 256), "steps": (1, 256), "groups": (2, 256),
    "window": (1, 255),
}  # fmt: skip
"""The least and the most of each size: the settings of a file are not to build without end."""


def build_denoiser(
    name: str,
    channels: int = 1,
    *,
    sizes: str = "published",
    width: int | None = None,
    inner_channels: int | None = None,
    steps: int | None = None,
    window: int | None = None,
    groups: int | None = None,
    depth: int | None = None,
) -> Denoiser:
    """A network with new weights: images (B, C, H, W) in [0, 1] -> the same shape.

    Args:
        name: "nlrn", "rnan" or "dncnn".
        channels: C, 1 for gray and 3 for color.
        sizes: "published", or "demo" for a small one.
        width, inner_channels, steps, window, groups, depth: sizes that replace those, of the networks that have them;
            None leaves one as it is.

    Raises UserError for what a network does not have, or what cannot be.
    """
    check_one_of("model.name", name, DENOISERS)
    check_one_of("model.sizes", sizes, ("published", "demo"))
    check_one_of("model.channels", channels, (1, 3))
    network = DENOISERS[name]
    given = {"width": width, "inner_channels": inner_channels, "steps": steps, "window": window}
    given |= {"groups": groups, "depth": depth}
    chosen = {key: value for key, value in given.items() if value is not None}
    for key, value in chosen.items():
        check_one_of(f"size of {name}", key, network.published)
        low, high = _LIMITS[key]
        if type(value) is not int or not low <= value <= high:
            raise UserError(f"model.{key}={value}: expected a whole number from {low} to {high:,}")
    if chosen.get("window", 1) % 2 == 0:
        raise UserError(f"model.window={chosen['window']}: a window has a middle; give an odd number")
    return network.make(channels, **{**(network.demo if sizes == "demo" else network.published), **chosen})
