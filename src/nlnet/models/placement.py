"""Where the non-local blocks go: a number or a stage from the paper, or a list of residual blocks."""

from collections.abc import Mapping, Sequence

from nlnet.errors import UserError, nearest

Position = tuple[str, int]
"""A residual block: (stage, index from 0)."""

NonlocalBlocks = int | str | Sequence[str]


def presets(blocks: Mapping[str, int]) -> dict[int | str, Sequence[Position]]:
    """The paper's placements in a network with so many residual blocks in res2, res3, res4 and res5.

    A stage's name and 1 (which is "res4"): right before the last block of that stage (tables 2a and 2b), that is after
    the one before it. 5: every other block of res3 and res4; in the deep res4 of R101 every seventh (table 2c, as
    released). 10: every block of res3 and res4. The paper does not list its ten of R101; here they are every block of
    res3, and six spread evenly over res4.
    """
    last_but_one: dict[int | str, Sequence[Position]] = {name: [(name, count - 2)] for name, count in blocks.items()}
    every = 2 if blocks["res4"] < 10 else 7
    res3, res4 = range(blocks["res3"]), range(blocks["res4"])
    five = [("res3", i) for i in res3[1::2]] + [("res4", i) for i in res4[every - 1 :: every]]
    ten = [("res3", i) for i in res3] + [("res4", (k + 1) * len(res4) // 6 - 1) for k in range(6)]
    return {0: (), 1: last_but_one["res4"], 5: five, 10: ten} | last_but_one


def resolve_placement(
    nonlocal_blocks: NonlocalBlocks, blocks: Mapping[str, int], presets: Mapping[int | str, Sequence[Position]]
) -> list[Position]:
    """The residual blocks, in the network's order, that a non-local block follows.

    Args:
        nonlocal_blocks: a key of `presets`, or names of residual blocks such as ["res3.1", "res4.3"].
        blocks: the number of residual blocks of each stage, in order.
        presets: the positions behind each number and each stage's name.

    Raises UserError for anything else: an unknown number or name, a name twice, or an empty list, which would
    silently train the network without what was asked for (0 asks for none).
    """
    if isinstance(nonlocal_blocks, int | str) and not isinstance(nonlocal_blocks, bool):
        if nonlocal_blocks in presets:
            return list(presets[nonlocal_blocks])
        if isinstance(nonlocal_blocks, int):
            raise _unknown(nonlocal_blocks, "no placement is known for that number", blocks, presets)
    names = [nonlocal_blocks] if isinstance(nonlocal_blocks, str) else nonlocal_blocks
    if not isinstance(names, Sequence):
        raise _unknown(nonlocal_blocks, "neither a number nor a list", blocks, presets)
    if not names:
        raise _unknown(nonlocal_blocks, "the list is empty", blocks, presets)
    known = {f"{stage}.{i}": (stage, i) for stage, count in blocks.items() for i in range(count)}
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise _unknown(
                nonlocal_blocks, f"there is no block {name!r} ({nearest(str(name), known)})", blocks, presets
            )
    if len(set(names)) < len(names):
        raise _unknown(nonlocal_blocks, "a block is named twice", blocks, presets)
    return [position for name, position in known.items() if name in names]


def _unknown(
    value: object, why: str, blocks: Mapping[str, int], presets: Mapping[int | str, Sequence[Position]]
) -> UserError:
    known = ", ".join(map(str, presets))
    names = ", ".join(f"{stage}.0 to {stage}.{count - 1}" for stage, count in blocks.items())
    return UserError(f"nonlocal_blocks={value!r}: {why}. Give one of {known} (0 for none), or a list out of {names}.")
