"""Pickles looked through before anything is made of them: a few bytes can ask for any amount of memory or time."""

import mmap

from nlnet import limits

# What follows an opcode: lines, a number of bytes, or a length of so many bytes and then as many.
_LINES = dict.fromkeys(b"FILPSVgp", 1) | dict.fromkeys(b"ci", 2)
_FIXED = {ord("K"): 1, ord("M"): 2, ord("J"): 4, ord("G"): 8, ord("h"): 1, ord("j"): 4, ord("q"): 1, ord("r"): 4}
_FIXED |= {0x80: 1, 0x82: 1, 0x83: 2, 0x84: 4, 0x95: 8}
_COUNTED = {ord("U"): 1, ord("T"): 4, ord("X"): 4, ord("C"): 1, ord("B"): 4}
_COUNTED |= {0x8C: 1, 0x8D: 8, 0x8E: 8, 0x8A: 1, 0x8B: 4, 0x96: 8}
# What an opcode takes from the stack: so many values, or all down to the last mark; and whether it gives one.
_TAKES = {ord("a"): 1, ord("s"): 2, ord("0"): 1, ord("b"): 1, ord("R"): 2, ord("Q"): 1}
_TAKES |= {0x81: 2, 0x85: 1, 0x86: 2, 0x87: 3, 0x92: 3, 0x93: 2}
_TO_MARK = frozenset(b"tldeuoi1\x90\x91")
_GIVES_NONE = frozenset(b"as0beu1.\x80\x90\x95")
_SUMS = frozenset(b"tR\x81\x85\x86\x87\x91\x92")
_PUTS, _GETS, _MARK, _STOP, _DUP, _MEMOIZE = b"pqr", b"ghj", ord("("), ord("."), ord("2"), 0x94


def check_pickle(data: bytes | mmap.mmap, begin: int = 0) -> int:
    """Where a pickle that begins at `begin` ends.

    Raises TooLarge for one of too many steps, with too high a number of a memo, or with values within values that a key
    of a dictionary would have to be computed from for ever; ValueError for one that is cut short or malformed.
    """
    stack: list[int | None] = []  # the parts that each value is made of, None for a mark
    memo: dict[int, int | None] = {}
    at, steps, most = begin, 0, limits.PICKLE.most
    while True:
        steps += 1
        if steps > most:
            raise limits.PICKLE.excess()
        code = data[at] if at < len(data) else _cut()
        start, at = at + 1, _after(data, code, at + 1)
        if code == _MARK:
            stack.append(None)
        elif code == _DUP:
            stack.append(stack[-1] if stack else _cut())
        elif code in _PUTS or code == _MEMOIZE:
            number = len(memo) if code == _MEMOIZE else _number(data, code, start, at)
            limits.PICKLE.check(number)
            memo[number] = stack[-1] if stack else _cut()
        elif code in _GETS:
            stack.append(memo.get(_number(data, code, start, at), 1))
        else:
            _step(stack, code)
        if code == _STOP:
            return at


def _step(stack: list[int | None], code: int) -> None:
    """What an opcode does to the stack."""
    if code in _TO_MARK:
        taken = []
        while (value := stack.pop() if stack else _cut()) is not None:
            taken.append(value)
    else:
        count = _TAKES.get(code, 0)
        if count > len(stack):
            _cut()
        taken = [value or 1 for value in stack[len(stack) - count :]]
        del stack[len(stack) - count :]
    if code not in _GIVES_NONE:
        weight = 1 + sum(taken) if code in _SUMS else 1
        limits.PICKLE_WEIGHT.check(weight)
        stack.append(weight)


def _after(data: bytes | mmap.mmap, code: int, at: int) -> int:
    """Where what follows an opcode ends."""
    for _ in range(_LINES.get(code, 0)):
        at = data.find(b"\n", at) + 1
        if not at:
            _cut()
    at += _FIXED.get(code, 0)
    if width := _COUNTED.get(code):
        at += width + int.from_bytes(data[at : at + width], "little")
    if at > len(data):
        _cut()
    return at


def _number(data: bytes | mmap.mmap, code: int, start: int, end: int) -> int:
    """The number of a memo."""
    if code in b"gp":
        text = data[start : end - 1]
        return int(text) if text.isdigit() and len(text) < 20 else _cut()
    return int.from_bytes(data[start:end], "little")


def _cut() -> int:
    raise ValueError("a pickle that is malformed or cut short")
