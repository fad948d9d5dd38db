"""Tables of two-part columns as pickles that every pandas from 1.0 on reads.

pandas pickles its own insides, which change: a table that pandas 3 pickled is nothing to pandas 1,
which JKQC 2 needs, and NumPy 2 names modules that NumPy 1 does not have. All of them still read
the layout that pandas had before 1.3, so that is what is written here, opcode by opcode (protocol
3), and without pandas: nothing that a pickle names has to be there when it is written.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms


class _Named(NamedTuple):
    """What stands in a module under a name."""

    module: str
    name: str


class _Made(NamedTuple):
    """What a call gives, or (``new``) a class without its ``__init__``; with a state, if any."""

    function: _Named
    arguments: tuple[Any, ...] = ()
    state: Any = None
    new: bool = False


class _Objects(NamedTuple):
    """An array of any objects."""

    shape: tuple[int, ...]
    values: list[Any]


_NDARRAY = _Named("numpy", "ndarray")
_DTYPE = _Named("numpy", "dtype")
_RECONSTRUCT = _Named("numpy.core.multiarray", "_reconstruct")
_NEW_INDEX = _Named("pandas.core.indexes.base", "_new_Index")
_INDEX = _Named("pandas.core.indexes.base", "Index")
_RANGE_INDEX = _Named("pandas.core.indexes.range", "RangeIndex")
_MULTI_INDEX = _Named("pandas.core.indexes.multi", "MultiIndex")
_MANAGER = _Named("pandas.core.internals.managers", "BlockManager")
_FRAME = _Named("pandas.core.frame", "DataFrame")
_ATOMS = _Named("ase.atoms", "Atoms")
_CELL = _Named("ase.cell", "Cell")


def pickled_table(columns: Mapping[tuple[str, str], Sequence[Any]]) -> bytes:
    """A pickled ``DataFrame``.

    Parameters
    ----------
    columns
        Of one length each: numbers, texts, None for what is missing, lists, arrays, ``Atoms``.
    """
    names = sorted(columns)
    n_rows = len(columns[names[0]])
    blocks = []
    for values, places in _blocks([columns[name] for name in names]):
        blocks.append({"values": values, "mgr_locs": np.array(places)})
    axes = [_column_index(names), _index(_RANGE_INDEX, start=0, stop=n_rows, step=1)]
    # The first three parts were for pandas before 0.14.1.
    state: Any = ([], [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = _Made(_MANAGER, state=state, new=True)
    frame = {"_mgr": manager, "_typ": "dataframe", "_metadata": []}
    writer = _Writer()
    parts = b"".join(writer.write(_Made(_FRAME, state=frame, new=True)))
    return b"\x80\x03" + parts + b"."


def _blocks(columns: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, list[int]]]:
    """Columns of floats, of whole numbers, and the others, each kind together."""
    kinds: dict[type, list[int]] = {float: [], int: [], object: []}
    for place, values in enumerate(columns):
        found = {type(v) for v in values if v is not None}
        missing = any(v is None for v in values)
        if found <= {float} or (found == {int} and missing):
            kinds[float].append(place)
        elif found == {int} and all(abs(v) < 2**63 for v in values):
            kinds[int].append(place)
        else:
            kinds[object].append(place)
    for kind, places in kinds.items():
        rows = [[math.nan if v is None else v for v in columns[place]] for place in places]
        if rows and kind is object:
            yield _Objects((len(rows), len(rows[0])), [v for row in rows for v in row]), places
        elif rows:
            yield np.array(rows, dtype="f8" if kind is float else "i8"), places


def _index(kind: _Named, **state: Any) -> _Made:
    return _Made(_NEW_INDEX, (kind, {**state, "name": None}))


def _column_index(names: Sequence[tuple[str, str]]) -> _Made:
    levels = [sorted({name[part] for name in names}) for part in (0, 1)]
    codes = [
        np.array([level.index(name[part]) for name in names], dtype="i2")
        for part, level in enumerate(levels)
    ]
    made = [_index(_INDEX, data=_Objects((len(level),), list(level))) for level in levels]
    state = {"levels": made, "codes": codes, "sortorder": None, "names": [None, None]}
    return _Made(_NEW_INDEX, (_MULTI_INDEX, state))


class _Writer:
    """Opcodes of values; what has a name is written once."""

    def __init__(self) -> None:
        self._memo: dict[Any, int] = {}

    def write(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, _Named | np.dtype) and value in self._memo:
            yield b"j" + struct.pack("<I", self._memo[value])
            return
        yield from self._written(value)
        if isinstance(value, _Named | np.dtype):
            number = self._memo[value] = len(self._memo)
            yield b"r" + struct.pack("<I", number)

    def _written(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, _Named):
            yield f"c{value.module}\n{value.name}\n".encode()
        elif isinstance(value, _Made):
            yield from self.write(value.function)
            yield from self.write(value.arguments)
            yield b"\x81" if value.new else b"R"
            if value.state is not None:
                yield from self.write(value.state)
                yield b"b"
        elif isinstance(value, _Objects):
            yield from self._array(value.shape, np.dtype(object), list(value.values))
        elif isinstance(value, np.dtype):
            yield from self.write(_as_made(value))
        elif isinstance(value, np.ndarray):
            little = value.astype(value.dtype.newbyteorder("<"), order="C")
            yield from self._array(little.shape, little.dtype, little.tobytes())
        elif isinstance(value, Atoms):
            yield from self.write(_Made(_ATOMS, state=_state(value), new=True))
        elif isinstance(value, tuple | list | dict):
            yield from self._parts(value)
        else:
            yield _constant(value)

    def _array(self, shape: tuple[int, ...], dtype: np.dtype, data: Any) -> Iterator[bytes]:
        state = (1, shape, dtype, False, data)
        yield from self.write(_Made(_RECONSTRUCT, (_NDARRAY, (0,), b"b"), state))

    def _parts(self, value: tuple[Any, ...] | list[Any] | dict[Any, Any]) -> Iterator[bytes]:
        if isinstance(value, dict):
            first, last, parts = b"}(", b"u", [part for pair in value.items() for part in pair]
        else:
            first, last = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
            parts = list(value)
        yield first
        for part in parts:
            yield from self.write(part)
        yield last


def _as_made(dtype: np.dtype) -> _Made:
    is_object = dtype.kind == "O"
    order = "<" if dtype.itemsize > 1 and not is_object else "|"
    code = "O8" if is_object else f"{dtype.kind}{dtype.itemsize}"
    state = (3, order, None, None, None, -1, -1, 63 if is_object else 0)
    return _Made(_DTYPE, (code, False, True), state)


def _state(atoms: Atoms) -> dict[str, Any]:
    """Of positions and cell alone: that is what versions of ASE have in common."""
    return {
        "_cellobj": _Made(_CELL, state={"array": np.array(atoms.cell.array)}, new=True),
        "_celldisp": np.zeros((3, 1)),
        "_pbc": np.array(atoms.pbc),
        "_constraints": [],
        "arrays": {"numbers": atoms.numbers.astype("i8"), "positions": atoms.positions},
        "info": {},
        "_calc": None,
    }


def _constant(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(data) < 256:
            return b"\x8a" + struct.pack("<B", len(data)) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    raise TypeError(f"a table of clusters holds no {type(value).__name__}")
