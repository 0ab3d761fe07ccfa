"""Where the non-local blocks go: a number from the paper, or a list of residual blocks, as (stage, index) pairs."""

from collections.abc import Mapping, Sequence

from nlnet.errors import UserError, nearest

Place = tuple[str, int]
NonlocalBlocks = int | str | Sequence[str]

# "1" is right before the last block of res4 (tables 2a and 2b), that is after the one before it.
# "5" is every other block of res3 and res4; in the deep res4 of R101 every seventh (table 2c, as released).
PRESETS: Mapping[str, Mapping[int, Sequence[Place]]] = {
    "r50": {
        0: (),
        1: [("res4", 4)],
        5: [("res3", 1), ("res3", 3), ("res4", 1), ("res4", 3), ("res4", 5)],
        10: [("res3", i) for i in range(4)] + [("res4", i) for i in range(6)],
    },
    "r101": {
        0: (),
        1: [("res4", 21)],
        5: [("res3", 1), ("res3", 3), ("res4", 6), ("res4", 13), ("res4", 20)],
        # The paper does not list its ten of R101. Here: every block of res3, and six spread evenly over res4.
        10: [("res3", i) for i in range(4)] + [("res4", (k + 1) * 23 // 6 - 1) for k in range(6)],
    },
    # The demo networks have two places. A larger number, written for a larger network, takes both.
    "demo": {0: (), 1: [("res3", 0)]} | {n: [("res3", 0), ("res3", 1)] for n in (2, 5, 10)},
}


def place(
    nonlocal_blocks: NonlocalBlocks, blocks: Mapping[str, int], presets: Mapping[int, Sequence[Place]]
) -> list[Place]:
    """The residual blocks, as (stage, index from 0) in the network's order, that a non-local block follows.

    Args:
        nonlocal_blocks: a key of `presets`, or names of residual blocks such as ["res3.1", "res4.3"].
        blocks: the number of residual blocks of each stage, in order.
        presets: the places behind each number.

    Raises UserError for anything else: an unknown number or name, a name twice, or an empty list, which would
    silently train the network without what was asked for (0 asks for none).
    """
    if isinstance(nonlocal_blocks, int) and not isinstance(nonlocal_blocks, bool):
        if nonlocal_blocks not in presets:
            raise _unknown(nonlocal_blocks, "no placement is known for that number", blocks, presets)
        return list(presets[nonlocal_blocks])
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


def _unknown(value: object, why: str, blocks: Mapping[str, int], presets: Mapping[int, Sequence[Place]]) -> UserError:
    numbers = ", ".join(map(str, presets))
    names = ", ".join(f"{stage}.0 to {stage}.{count - 1}" for stage, count in blocks.items())
    return UserError(f"nonlocal_blocks={value!r}: {why}. Give one of {numbers} (0 for none), or a list out of {names}.")
