"""Columns that pyarrow stores, read without it: texts and numbers.

A column is an array or several chunks. Each has a type, a length, an offset into its buffers, and
the buffers: bits that tell what is not missing (or None), then the data. The layout is that of the
Arrow columnar format, little endian.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ase_knncalc.data.jkqc.standins import Applied, NotRead

_NUMBERS = {"halffloat": "<f2", "float": "<f4", "double": "<f8"} | {
    f"{sign}int{8 * size}": f"<{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)
}
_OFFSETS = {"string": "<i4", "utf8": "<i4", "large_string": "<i8", "large_utf8": "<i8"}

MAX_ROWS = 2**24
"""Most elements of a column: a chunk is a few bytes where it is another one once more."""


def decode_arrow(column: Any) -> list[Any]:
    """Elements of an array or of chunks; None where one is missing.

    Raises
    ------
    NotRead
        It is of another type.
    ValueError
        It is damaged.
    """
    if type(column) is not Applied or not column.args:
        raise ValueError("a column of pyarrow is damaged")
    content = column.args[0]
    if column.kind == "arrow chunks" and type(content) is list:
        values: list[Any] = []
        for chunk in content:
            values += decode_arrow(chunk)
            if len(values) > MAX_ROWS:
                raise ValueError("a column of pyarrow has too many rows")
        return values
    if column.kind != "arrow array":
        raise ValueError("a column of pyarrow is damaged")
    return _decode_array(content)


def _decode_array(content: Any) -> list[Any]:
    kind, length, _, offset, buffers, *_ = content
    if not all(type(n) is int and 0 <= n < 2**31 for n in (length, offset)):
        raise ValueError("a column of pyarrow is damaged")
    known, *data = (b"" if buffer is None else bytes(buffer) for buffer in buffers)
    span = slice(offset, offset + length)
    # Without this buffer nothing is missing; then the data tell whether the length is true.
    there = _bits(known, span) if known else None
    name = kind.args[0] if type(kind) is Applied and kind.kind == "arrow type" else None
    values: list[Any]
    if name in _OFFSETS:
        places = _numbers(data[0], _OFFSETS[name], slice(offset, span.stop + 1)) if length else []
        values = [_text(data[1], a, b) for a, b in pairwise(places)]
    elif name in _NUMBERS:
        values = _numbers(data[0], _NUMBERS[name], span)
    elif name == "bool":
        values = _bits(data[0], span)
    else:
        raise NotRead(f"a column of pyarrow's type {str(name)[:40]!r}")
    if there is None:
        return values
    return [value if is_there else None for value, is_there in zip(values, there, strict=True)]


def _numbers(data: bytes, code: str, span: slice) -> list[Any]:
    size = np.dtype(code).itemsize
    part = data[size * span.start : size * span.stop]
    if len(part) != size * (span.stop - span.start):
        raise ValueError("a column of pyarrow is cut off")
    return list(np.frombuffer(part, code).tolist())


def _bits(data: bytes, span: slice) -> list[bool]:
    if 8 * len(data) < span.stop:
        raise ValueError("a column of pyarrow is cut off")
    part = np.frombuffer(data[: (span.stop + 7) // 8], np.uint8)
    return [bool(bit) for bit in np.unpackbits(part, bitorder="little")[span]]


def _text(data: bytes, start: int, stop: int) -> str:
    if not 0 <= start <= stop <= len(data):
        raise ValueError("a text of pyarrow is cut off")
    return data[start:stop].decode("utf-8")
