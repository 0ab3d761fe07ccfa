"""Which residual blocks a non-local block follows."""

from collections.abc import Sequence

import pytest

from nlnet.errors import UserError
from nlnet.models.networks import NETWORKS
from nlnet.models.placement import resolve_placement


def names(nonlocal_blocks: int | str | Sequence[str], network: str = "r50") -> list[str]:
    of = NETWORKS[f"c2d_{network}"]
    blocks = {name: stage.blocks for name, stage in of.stages.items()}
    return [f"{stage}.{i}" for stage, i in resolve_placement(nonlocal_blocks, blocks, of.placements)]


@pytest.mark.parametrize(
    ("network", "count", "expected"),
    [
        ("r50", 0, ""),
        ("r50", 1, "res4.4"),
        ("r50", 5, "res3.1 res3.3 res4.1 res4.3 res4.5"),
        ("r50", 10, "res3.0 res3.1 res3.2 res3.3 res4.0 res4.1 res4.2 res4.3 res4.4 res4.5"),
        ("r101", 0, ""),
        ("r101", 1, "res4.21"),
        ("r101", 5, "res3.1 res3.3 res4.6 res4.13 res4.20"),
        ("r101", 10, "res3.0 res3.1 res3.2 res3.3 res4.2 res4.6 res4.10 res4.14 res4.18 res4.22"),
        ("demo", 0, ""),
        ("demo", 1, "res3.0"),
        ("demo", 2, "res3.0 res3.1"),
        ("demo", 5, "res3.0 res3.1"),
        ("demo", 10, "res3.0 res3.1"),
        ("r50", "res2", "res2.1"),
        ("r50", "res3", "res3.2"),
        ("r50", "res4", "res4.4"),
        ("r50", "res5", "res5.1"),
        ("r101", "res4", "res4.21"),
        ("demo", "res2", "res2.0"),
        ("demo", "res5", "res3.0"),
    ],
)
def test_numbers_and_stages(network: str, count: int | str, expected: str) -> None:
    assert names(count, network) == expected.split()


def test_a_list_is_put_in_the_networks_order() -> None:
    assert names(["res5.1", "res2.0", "res4.3"]) == ["res2.0", "res4.3", "res5.1"]
    assert names(("res4.22", "res4.3"), "r101") == ["res4.3", "res4.22"]
    assert names("res3.1") == ["res3.1"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (2, "no placement is known for that number. Give one of 0, 1, 5, 10, res2, res3, res4, res5"),
        (-1, "no placement is known"),
        ([], "the list is empty.*0 for none"),
        ("", "no block ''"),
        (["res4.6"], "no block 'res4.6'.*nearest: res4.*res4.0 to res4.5"),
        (["layer3.1"], "no block 'layer3.1'"),
        (["res4"], "no block 'res4'"),
        (["res4.1", "res4.1"], "a block is named twice"),
        ([4.1], "no block 4.1"),
        ([["res4.1"]], "no block"),
        (True, "neither a number nor a list"),
        (None, "neither a number nor a list"),
        (5.0, "neither a number nor a list"),
    ],
)
def test_anything_else_is_an_error_that_names_what_there_is(wrong: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        names(wrong)  # type: ignore[arg-type]
    assert f"nonlocal_blocks={wrong!r}" in str(error.value)
    assert "res2.0 to res2.2, res3.0 to res3.3" in str(error.value)
