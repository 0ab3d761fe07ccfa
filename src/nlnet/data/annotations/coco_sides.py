"""Left and right of keypoints: which of them change places in a mirror."""

import re
from collections.abc import Iterator, Sequence

from nlnet.errors import UserError, nearest

# Whole words, in lower case. Near and off are a horse's sides.
_LEFT = """
    left l lt lft lhs near port links linke linker linkes gauche izq izquierda izquierdo esquerda esquerdo sinistra
    sinistro vasen venstre lewy lewa lewe 左
""".split()  # noqa: SIM905
_RIGHT = """
    right r rt rgt rhs off starboard rechts rechte rechter rechtes droite droit der derecha derecho direita direito
    destra destro oikea hoyre prawy prawa prawe 右
""".split()  # noqa: SIM905
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]|[^\w]|_")
_STUCK = (
    ("left", "right"),
    ("near", "off"),
    ("l", "r"),
)  # where no case and no sign parts it from the rest: lefteye, eyel


def mirrored(names: Sequence[str], pairs: Sequence[Sequence[object]] | None, where: str) -> tuple[int, ...]:
    """Where each keypoint is found after mirroring.

    Args:
        names: of the keypoints.
        pairs: of names that change places (data.flip_pairs); those that the names tell for None.
        where: what has these keypoints, for the message.

    Raises UserError for pairs that cannot be, and for None where the names do not tell.
    """
    found = _given(names, pairs) if pairs is not None else _told(names, where)
    return tuple(found.get(k, k) for k in range(len(names)))


def _given(names: Sequence[str], pairs: Sequence[Sequence[object]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for pair in pairs:
        both = [str(name) for name in pair] if isinstance(pair, Sequence) and not isinstance(pair, str) else []
        if len(both) != 2 or both[0] == both[1]:
            raise UserError(f"data.flip_pairs: {pair!r} is no pair; expected [[left_eye,right_eye],...]")
        for name in both:
            if name not in names:
                raise UserError(f"data.flip_pairs: no keypoint {name!r}; {nearest(name, names)}")
        a, b = map(list(names).index, both)
        if a in found or b in found:
            raise UserError(f"data.flip_pairs: {both[0] if a in found else both[1]!r} is in two pairs")
        found |= {a: b, b: a}
    return found


def _told(names: Sequence[str], where: str) -> dict[int, int]:
    found = _by_words(names)
    rest = [k for k in range(len(names)) if k not in found]
    found |= _by_letters(names, rest)
    lonely = [names[k] for k in rest if k not in found and _has_side(names[k])]
    unclear = lonely or (list(names) if len(names) > 1 and not found else [])
    if unclear:
        said = "has no counterpart" if lonely else "and the others do not tell left from right"
        raise UserError(
            f"{where}: keypoint {unclear[0]!r} {said}, and a mirrored person's left is the right; say which change"
            " places with data.flip_pairs=[[NAME,NAME],...] ([] for none), or set data.flip=false"
        )
    return found


def _by_words(names: Sequence[str]) -> dict[int, int]:
    """Pairs of names that are the same but for their words for left and for right."""
    index: dict[tuple[str, ...], list[int]] = {}
    for k, name in enumerate(names):
        index.setdefault(_words(name), []).append(k)
    found: dict[int, int] = {}
    for words, here in index.items():
        for other in _other_sides(words):
            there = index.get(other, [])
            if len(here) == len(there) == 1 and here[0] not in found and there[0] not in found:
                found |= {here[0]: there[0], there[0]: here[0]}
    return found


def _words(name: str) -> tuple[str, ...]:
    """In lower case, with < for a word that means left and > for right."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return tuple("<" if word in _LEFT else ">" if word in _RIGHT else word for word in words)


def _other_sides(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All sides exchanged, which is what a mirror does; then one alone, for a letter may mean something else."""
    other = {"<": ">", ">": "<"}
    if other.keys() & set(words):
        yield tuple(other.get(word, word) for word in words)
        yield from ((*words[:k], other[w], *words[k + 1 :]) for k, w in enumerate(words) if w in other)


def _has_side(name: str) -> bool:
    whole = name.lower().startswith(_STUCK[0]) or name.lower().endswith(_STUCK[0])
    return whole or not {"<", ">"}.isdisjoint(_words(name))


def _by_letters(names: Sequence[str], rest: Sequence[int]) -> dict[int, int]:
    """Pairs of names that are the same but for what they begin or end with."""
    index = {names[k].lower(): k for k in rest}
    found: dict[int, int] = {}
    for name, k in index.items():
        for left, right in _STUCK:
            others = []
            if name.startswith(left):
                others.append(right + name.removeprefix(left))
            if name.endswith(left):
                others.append(name.removesuffix(left) + right)
            for other in others:
                if other in index and not {k, index[other]} & found.keys():
                    found |= {k: index[other], index[other]: k}
    return found
