"""Pickled pandas tables, read without pandas and without trust.

A pickle is a program: it names functions, and unpickling calls them. JKQC databases are pickles of
a pandas ``DataFrame``, and they are passed around. Here

- a first pass over the opcodes (:mod:`ase_knncalc.data.jkqc.opcodes`) refuses those that such a
  table has no use for, and sizes that the file cannot hold (a hundred bytes can ask for gigabytes);
- the second pass resolves every global name to an inert stand-in
  (:mod:`ase_knncalc.data.jkqc.standins`); any other name is a :class:`DataError` that says which;
- arrays are built at the end, from data whose types and shapes have been checked.

So a hostile file can at worst be a wrong table. Written by pandas 1 to 3 with or without pyarrow,
pickle protocols 2 to 5.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_knncalc.data.jkqc.arrow import decode_arrow
from ase_knncalc.data.jkqc.opcodes import Refused
from ase_knncalc.data.jkqc.standins import (
    MULTI_INDEX,
    Applied,
    Array,
    ArrowColumn,
    Categories,
    CategoryColumn,
    DType,
    Manager,
    MaskedColumn,
    NotRead,
    Opaque,
    PickledFrame,
    TextColumn,
    load,
)
from ase_knncalc.errors import DataError

MAX_BYTES = 4 * 1024**3
"""Largest file read; a database of 250,000 clusters has about a tenth of that."""


@dataclass(frozen=True)
class Table:
    """Columns of a table by their two-part names, such as ``("log", "electronic_energy")``."""

    n_rows: int
    columns: dict[tuple[str, str], list[Any]]
    unread: dict[tuple[str, str], str]
    """Columns of types that are not read, such as dates, and which types."""

    def column(self, group: str, name: str) -> list[Any]:
        """Values of a column; a column that the table does not have is full of None.

        Raises
        ------
        ValueError
            It is of a type that is not read.
        """
        if (group, name) in self.unread:
            raise ValueError(f"column {(group, name)}: {self.unread[group, name]} is not read")
        return self.columns.get((group, name), [None] * self.n_rows)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a pickled pandas ``DataFrame`` with two-level columns.

    Numbers and texts are Python's, arrays are what :func:`as_array` takes, structures are
    :class:`PickledAtoms`.

    Raises
    ------
    DataError
        The file is missing, too large, cut off or damaged, no table, or names anything that a
        table of clusters does not need. Nothing it names is ever imported or called.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(
                f"{path}: a pickle of {size / 1024**3:.1f} GiB; split it (at most "
                f"{MAX_BYTES / 1024**3:.0f} GiB are read) or export it as extended XYZ"
            )
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e
    try:
        table = _decode_frame(load(data))
    except Refused as e:
        raise DataError(
            f"{path}: refused, because this pickle holds {e}, and pickles can run any code. A "
            "JKQC database holds a table of numbers, texts, arrays and ASE structures; take out "
            "what else is there (other packages' calculators: atoms.calc = None) and save again"
        ) from None
    except Exception as e:  # a damaged pickle fails in any way that Python knows
        raise DataError(
            f"{path}: not a complete JKQC database (pickled pandas table): "
            f"{str(e)[:200] or type(e).__name__}"
        ) from e
    return table


def _decode_frame(frame: Any) -> Table:
    if type(frame) is not PickledFrame:
        raise ValueError("it holds no table")
    blocks, axes = _decode_manager(frame)
    names = _decode_columns(axes[0])
    columns: dict[tuple[str, str], list[Any]] = {}
    unread: dict[tuple[str, str], str] = {}
    n_rows = -1
    for values, placement in blocks:
        places = _decode_placement(placement, len(names))
        try:
            rows = _decode_block(values)
        except NotRead as e:
            unread |= {names[place]: str(e) for place in places}
            continue
        if len(places) != len(rows):
            raise ValueError("the columns of the table do not fit its blocks")
        for place, row in zip(places, rows, strict=True):
            if n_rows not in (-1, len(row)):
                raise ValueError("the columns of the table differ in length")
            n_rows = len(row)
            columns[names[place]] = row
    return Table(max(n_rows, 0), columns, unread)


def _decode_manager(frame: PickledFrame) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Blocks, each with the places of its columns, and the two axes of a table."""
    manager = frame.item("_mgr") or frame.item("_data")  # the latter before pandas 1.1
    if type(manager) is not Manager:
        raise ValueError("there is no manager where the table should have one")
    if manager.args:
        blocks, axes = manager.args
        found = [_block(block) for block in blocks]
    else:  # before pandas 1.3
        state = manager.state[3]["0.14.1"]
        axes = state["axes"]
        found = [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    if type(axes) is not list or len(axes) != 2:
        raise ValueError("the table has no two axes")
    return found, axes


def _block(block: Any) -> tuple[Any, Any]:
    _require(block, "block", 2)
    return block.args[0], block.args[1]


def _require(call: Any, kind: str, n_args: int) -> None:
    if type(call) is not Applied or call.kind != kind or len(call.args) < n_args:
        raise ValueError(f"there is no {kind} where the table should have one")


def _decode_columns(axis: Any) -> list[tuple[str, str]]:
    _require(axis, "index", 2)
    kind, state = axis.args[:2]
    if kind is not MULTI_INDEX or type(state) is not dict:
        raise ValueError("its columns have no two-part names such as ('log', 'electronic_energy')")
    levels, codes = state.get("levels"), state.get("codes")
    if type(levels) is not list or type(codes) is not list or len(levels) != 2 or len(codes) != 2:
        raise ValueError("its columns have no two-part names such as ('log', 'electronic_energy')")
    parts = []
    for level, code in zip(levels, codes, strict=True):
        texts = _index_values(level)
        numbers = as_array(code)
        if numbers.ndim != 1 or numbers.dtype.kind != "i":
            raise ValueError("the names of its columns are damaged")
        if any(not 0 <= number < len(texts) for number in numbers.tolist()):
            raise ValueError("the names of its columns are damaged")
        # No str(): that of a nested list may be longer than any memory.
        if not all(type(text) is str for text in texts):
            raise ValueError("the names of its columns are no texts")
        parts.append([texts[number] for number in numbers.tolist()])
    return list(zip(*parts, strict=True))


def _decode_block(values: Any) -> list[list[Any]]:
    """Rows of a block, each of which is a column of the table."""
    if type(values) is not Array:
        return [_decode_column(values)]
    shape = _shape(values)
    if type(values.dtype) is DType and values.dtype.is_object:
        cells = _as_list(values)
    else:
        cells = as_array(values).ravel().tolist()
    if len(shape) == 1:
        return [cells]
    if len(shape) != 2:
        raise ValueError("a block of the table is no matrix")
    width = shape[1]
    return [cells[i * width : (i + 1) * width] for i in range(shape[0])]


def _decode_column(values: Any) -> list[Any]:
    """A column of one of pandas' own types; None where a value is missing."""
    if type(values) is ArrowColumn:
        return decode_arrow(values.item("_pa_array") or values.item("_data"))
    if type(values) is MaskedColumn:
        data, mask = as_array(values.item("_data")), as_array(values.item("_mask"))
        pairs = zip(data.tolist(), mask.tolist(), strict=True)
        return [None if missing else value for value, missing in pairs]
    if type(values) is CategoryColumn:
        (codes,) = (part for part in values.parts() if type(part) is Array)
        (kind,) = (part for part in values.parts() if type(part) is Categories)
        choices = _index_values(kind.item("categories"))
        return [None if code == -1 else choices[code] for code in as_array(codes).tolist()]
    if type(values) is Opaque:
        raise NotRead("a block of another type")
    return _as_list(values)


def _index_values(index: Any) -> list[Any]:
    _require(index, "index", 2)
    state = index.args[1]
    values = state.get("data") if type(state) is dict else None
    if type(values) is not Array:
        return _decode_column(values)
    is_object = type(values.dtype) is DType and values.dtype.is_object
    return _as_list(values) if is_object else list(as_array(values).tolist())


def _decode_placement(placement: Any, n_columns: int) -> list[int]:
    places: Any
    if type(placement) is Applied and placement.kind == "slice" and len(placement.args) == 3:
        if not all(part is None or type(part) is int for part in placement.args):
            raise ValueError("the places of its columns are damaged")
        places = range(*slice(*placement.args).indices(n_columns))
    elif type(placement) is int:
        places = [placement]
    else:
        array = as_array(placement)
        places = array.ravel().tolist() if array.dtype.kind in "iu" else [-1]
    if any(not 0 <= place < n_columns for place in places):
        raise ValueError("the places of its columns are damaged")
    return list(places)


def _shape(array: Array) -> tuple[int, ...]:
    shape = array.shape
    if type(shape) is int:
        shape = (shape,)
    if (
        type(shape) is not tuple
        or len(shape) > 4
        or not all(type(n) is int and 0 <= n < 2**40 for n in shape)
    ):
        raise ValueError("an array has an impossible shape")
    return shape


def _as_list(values: Any) -> list[Any]:
    """Elements of a pickled array of objects."""
    if type(values) is TextColumn:
        arrays = [part for part in values.parts() if type(part) is Array]
        if len(arrays) != 1:
            raise ValueError("a column of texts is damaged")
        values = arrays[0]
    if type(values) is not Array or type(values.data) is not list:
        raise ValueError("an array of objects is damaged")
    if math.prod(_shape(values)) != len(values.data):
        raise ValueError("an array has another size than its shape says")
    return values.data


def as_array(value: Any) -> np.ndarray:
    """A number array from a table's cell or a structure's state.

    Raises
    ------
    ValueError
        It is none, or its size contradicts its shape.
    """
    if type(value) is not Array or type(value.dtype) is not DType:
        raise ValueError("there is no array where one should be")
    dtype = value.dtype.resolve()
    shape = _shape(value)
    if dtype is None or type(value.data) not in (bytes, bytearray):
        raise NotRead(f"an array of type {value.dtype.code[:20]!r}")
    if math.prod(shape) * dtype.itemsize != len(value.data):
        raise ValueError("an array has another size than its shape says")
    array = np.frombuffer(bytes(value.data), dtype).reshape(
        shape, order="F" if value.fortran else "C"
    )
    return np.ascontiguousarray(array).astype(dtype.newbyteorder("="), copy=False)
