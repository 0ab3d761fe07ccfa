"""From `protocol=` to the views of a test."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nlnet.config.compose import compose
from nlnet.data.batches.sampling import STARTS
from nlnet.errors import UserError, nearest
from nlnet.evaluation.views import CROPS, PAPER_SCALE, Views


def protocol_config(overrides: Sequence[str]) -> DictConfig:
    """The test that `protocol=NAME` and `protocol.KEY=VALUE` ask for; without any, `center`.

    Raises UserError for unknown names, and for a `center` with other values than its own.
    """
    protocol = compose(overrides, "eval").protocol
    if protocol.name == "center":
        _refuse_changes(protocol, compose((), "eval").protocol)
    return protocol


def is_protocol(key: str) -> bool:
    """Whether an override is one of the test's own."""
    return key.lstrip("+~") == "protocol" or key.lstrip("+~").startswith("protocol.")


def views_of(protocol: DictConfig, trained_scale: int) -> Views | None:
    """The views of a test; None for `center`, the validation that training does as well.

    `trained_scale` is the smallest short side in training, for `scale: null`. Raises UserError.
    """
    if protocol.name == "center":
        return None
    for key, known in (("starts", STARTS), ("crops", CROPS)):
        if protocol[key] not in known:
            near = nearest(str(protocol[key]), known)
            raise UserError(f"protocol.{key}={protocol[key]}: there is no such choice; {near}")
    scale = min(PAPER_SCALE, trained_scale) if protocol.scale is None else protocol.scale
    size = scale if protocol.size is None else protocol.size
    for key, value in (
        ("clips", protocol.clips),
        ("clips_per_forward", protocol.clips_per_forward),
        ("scale", scale),
        ("size", size),
    ):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"protocol.{key}={value}: give a number, at least 1")
    if size > scale:
        raise UserError(f"protocol.size={size} does not fit into frames with a short side of protocol.scale={scale}")
    return Views(protocol.clips, protocol.starts, scale, protocol.crops, size, protocol.clips_per_forward)


def _refuse_changes(protocol: DictConfig, center: DictConfig) -> None:
    """Training validates with `center`, by its own code: nothing of it can be changed."""
    for name, value in protocol.items():
        key = str(name)
        if value != center.get(key):
            raise UserError(
                f"protocol.{key}={value}: protocol=center is the validation of training, with {key}={center.get(key)};"
                f" for another test give protocol=30view protocol.{key}={value}, or protocol=fullconv"
            )


def describe(protocol: DictConfig, views: Views | None, window: tuple[int, int] | None) -> dict[str, Any]:
    """The test as plain values, for the record; with what was chosen where the configuration leaves it open."""
    plain = OmegaConf.to_container(protocol, resolve=True)
    assert isinstance(plain, dict)
    chosen = {} if views is None else {"scale": views.scale, "size": views.size, "window": list(window or ())}
    return {str(key): value for key, value in plain.items()} | chosen
