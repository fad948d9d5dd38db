"""The first look at a pickle: its instructions, before any of them is followed."""

from __future__ import annotations

import pickletools

_CONSTANTS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET", "GLOBAL"),
}
_STORE = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_FETCH = {"BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# What is taken from the stack for one result, and what is taken for none.
_COMBINED = {"STACK_GLOBAL": 2, "REDUCE": 2, "NEWOBJ": 2}
_CONSUMED = {"BUILD": 1, "APPEND": 1, "SETITEM": 2}
_TO_MARK = {"APPENDS", "SETITEMS", "ADDITEMS"}

_ALLOWED = {
    *("PROTO", "FRAME", "STOP", "MARK", "TUPLE"),
    *_CONSTANTS,
    *_STORE,
    *_FETCH,
    *_TUPLES,
    *_COMBINED,
    *_CONSUMED,
    *_TO_MARK,
}

MAX_TUPLE = 10_000
"""Most parts of a tuple, those of tuples within it included. Tables have some hundred."""


class Refused(Exception):
    """The pickle holds something that a table of clusters has no use for."""


def check_opcodes(data: bytes) -> None:
    """Refuse instructions that no table of clusters has, before anything is built.

    - Instructions and memo numbers: the unpickler itself would make room for the memo number 2³¹.
    - Tuples in tuples: a dictionary takes the hash of its keys, and that of a tuple visits all of
      its parts. Some hundred bytes can describe a tuple of 2³⁰ parts, each of them the same, or
      one so deep that the interpreter ends with a segmentation fault.

    Raises
    ------
    Refused
        If there is such an instruction.
    ValueError, IndexError, KeyError
        If the pickle is damaged.
    """
    memo: dict[int, int] = {}
    # The number of parts of what the unpickler would have on its stack; None for its marks.
    stack: list[int | None] = []

    def pop(count: int) -> int:
        total = 0
        for _ in range(count):
            parts = stack.pop()
            if parts is None:
                raise ValueError("a mark where a value should be")
            total += parts
        return total

    def pop_to_mark() -> int:
        total = 0
        while (parts := stack.pop()) is not None:
            total += parts
        return total

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name not in _ALLOWED:
            raise Refused(f"the opcode {name}")
        if name in _CONSTANTS:
            stack.append(1)
        elif name in _STORE:
            number = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if number > len(memo):
                raise ValueError("memo numbers out of order")
            memo[number] = stack[-1] or 1
        elif name in _FETCH:
            stack.append(memo[int(argument or 0)])
        elif name in _TUPLES or name == "TUPLE":
            parts = 1 + (pop_to_mark() if name == "TUPLE" else pop(_TUPLES[name]))
            if parts > MAX_TUPLE:
                raise Refused(f"a tuple of more than {MAX_TUPLE} parts")
            stack.append(parts)
        elif name in _COMBINED:
            pop(_COMBINED[name])
            stack.append(1)
        elif name in _CONSUMED:
            pop(_CONSUMED[name])
        elif name in _TO_MARK:
            pop_to_mark()
        elif name == "MARK":
            stack.append(None)
        elif name == "FRAME" and int(argument or 0) > len(data):
            raise ValueError("the file is cut off")
