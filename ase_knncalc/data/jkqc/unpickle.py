"""Pickled pandas tables, read without pandas and without trust.

A pickle is a program: it names functions, and unpickling calls them. JKQC databases are pickles of
a pandas ``DataFrame``, and they are passed around. Here

- a first pass over the opcodes (:mod:`ase_knncalc.data.jkqc.opcodes`) refuses those that such a
  table has no use for, and sizes that the file cannot hold (a hundred bytes can ask for gigabytes);
- the second pass resolves every global name to an inert stand-in defined in this module. Nothing
  of pandas, numpy, ASE or the standard library is reached; any name but those listed in
  ``_STAND_INS`` is a :class:`DataError` that says which;
- arrays are built at the end, from data whose types and shapes have been checked.

So a hostile file can at worst be a wrong table. Written by pandas 1.3 to 3, pickle protocols 4
and 5.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_knncalc.data.jkqc.opcodes import Refused, check_opcodes
from ase_knncalc.errors import DataError

MAX_BYTES = 4 * 1024**3
"""Largest file read; a database of 250,000 clusters has about a tenth of that."""

_DTYPE = re.compile(r"(?:O8?|b1|[iu][1248]|f[248])\Z")


# ---------------------------------------------------------------------------------- stand-ins
# Each has __slots__ and a __setstate__ of its own: without the latter, the pickle's BUILD opcode
# sets any attribute that it likes.


class _Record:
    """An object of which only the state is kept: ``DataFrame``, ``Atoms``, ``Cell`` and so on."""

    __slots__ = ("state",)

    def __new__(cls, *args: Any) -> Any:
        if args:
            raise Refused(f"{cls.__name__} with arguments")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def item(self, key: str) -> Any:
        """An entry of the state, None if there is none."""
        state = getattr(self, "state", None)
        return state.get(key) if type(state) is dict else None


class _DataFrame(_Record):
    __slots__ = ()


class PickledAtoms(_Record):
    """State of an ASE ``Atoms`` object."""

    __slots__ = ()


class PickledCell(_Record):
    """State of an ASE ``Cell`` object."""

    __slots__ = ()


class _StringArray(_Record):
    __slots__ = ()


class _Applied:
    """A call: what was called, and with what."""

    __slots__ = ("args", "kind")

    def __init__(self, kind: str, args: tuple[Any, ...]) -> None:
        self.kind = kind
        self.args = args

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"state for {self.kind}")


class _Function:
    """A stand-in for a function or class: calling it gives a note of the call."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *args: Any) -> Any:
        return _Applied(self.kind, args)

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"state for {self.kind}")


class _Partial(_Function):
    """``functools.partial(new_block)``, as pandas 1.3 writes it; nothing else can be applied."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        if len(args) != 1 or args[0] is not _NEW_BLOCK:
            raise Refused("functools.partial of something else than a block of a table")
        return _PartialBlock()


class _PartialBlock:
    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return _Applied("block", args)

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 4 or state[0] is not _NEW_BLOCK:
            raise Refused("functools.partial of something else than a block of a table")


class _DType:
    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code = code if type(code) is str else ""
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.code in ("O", "O8")

    def resolve(self) -> np.dtype | None:
        """The type, None for objects and for kinds that are not read (dates, records, …)."""
        if self.is_object or not _DTYPE.match(self.code):
            return None
        return np.dtype(f"{self.order if self.order in '<>' else '='}{self.code}")


class _Array:
    """A numpy array: shape, type and data, not yet looked at."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.data: Any = None
        self.dtype: Any = None
        self.shape: Any = ()
        self.fortran = False

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refused("an array of unknown layout")
        _, self.shape, self.dtype, fortran, self.data = state
        self.fortran = bool(fortran)


def _reconstruct(*args: Any) -> _Array:
    return _Array()


def _frombuffer(*args: Any) -> _Array:
    if len(args) != 4:
        raise Refused("an array of unknown layout")
    array = _Array()
    array.data, array.dtype, array.shape = args[:3]
    array.fortran = args[3] == "F"
    return array


def _scalar(*args: Any) -> Any:
    dtype = args[0].resolve() if len(args) == 2 and type(args[0]) is _DType else None
    if dtype is None or type(args[1]) is not bytes or len(args[1]) != dtype.itemsize:
        raise Refused("a numpy number of unknown type")
    return np.frombuffer(args[1], dtype)[0].item()


class _Builder(_Function):
    """A stand-in whose call gives one of the above."""

    __slots__ = ("build",)

    def __init__(self, kind: str, build: Callable[..., Any]) -> None:
        super().__init__(kind)
        self.build = build

    def __call__(self, *args: Any) -> Any:
        return self.build(*args)


_NEW_BLOCK = _Function("block")
_INDEX = _Function("index class")
_MULTI_INDEX = _Function("multi-index class")
_NDARRAY = _Function("ndarray")
_STRING_ARRAY = _Function("string array class")


def _new_string_array(*args: Any) -> _StringArray:
    if not args or args[0] is not _STRING_ARRAY:
        raise Refused("an array of unknown layout")
    made: _StringArray = _StringArray()
    return made


_STAND_INS: dict[tuple[str, str], Any] = {
    ("functools", "partial"): _Partial("partial"),
    ("builtins", "slice"): _Function("slice"),
    ("pandas.core.internals.blocks", "new_block"): _NEW_BLOCK,
    ("pandas._libs.internals", "_unpickle_block"): _NEW_BLOCK,
    ("pandas.core.internals.managers", "BlockManager"): _Function("manager"),
    ("pandas.core.indexes.base", "_new_Index"): _Function("index"),
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): _Builder("text", _new_string_array),
    ("ase.atoms", "Atoms"): PickledAtoms,
    ("ase.cell", "Cell"): PickledCell,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Builder("dtype", lambda code, *_: _DType(code)),
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Builder("array", _reconstruct)
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _Builder("scalar", _scalar)
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _Builder("array", _frombuffer)
# The public places are those of pandas 3.
_STAND_INS["pandas.core.frame", "DataFrame"] = _STAND_INS["pandas", "DataFrame"] = _DataFrame
for _module, _name in (("base", "Index"), ("range", "RangeIndex")):
    _STAND_INS[f"pandas.core.indexes.{_module}", _name] = _INDEX
    _STAND_INS["pandas", _name] = _INDEX
for _name in ("Int64Index", "UInt64Index", "Float64Index"):
    _STAND_INS["pandas.core.indexes.numeric", _name] = _INDEX
_STAND_INS["pandas.core.indexes.multi", "MultiIndex"] = _MULTI_INDEX
_STAND_INS["pandas", "MultiIndex"] = _MULTI_INDEX
for _module in ("pandas.core.arrays.string_", "pandas.arrays"):
    _STAND_INS[_module, "StringArray"] = _STRING_ARRAY
for _module in ("pandas.core.arrays.string_", "pandas"):
    _STAND_INS[_module, "StringDtype"] = _Function("text type")


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise Refused(f"the name {module}.{name}"[:200]) from None


# ------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Table:
    """Columns of a table by their two-part names, such as ``("log", "electronic_energy")``."""

    n_rows: int
    columns: dict[tuple[str, str], list[Any]]

    def column(self, group: str, name: str) -> list[Any]:
        """Values of a column; a column that the table does not have is full of None."""
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
        check_opcodes(data)
        table = _decode_frame(_TableUnpickler(io.BytesIO(data)).load())
    except Refused as e:
        raise DataError(
            f"{path}: refused, because this pickle holds {e}, and pickles can run any code. A "
            "JKQC database holds a table of numbers, texts, arrays and bare ASE structures; take "
            "out what else is there (such as calculators, with atoms.calc = None) and save again"
        ) from None
    except Exception as e:  # a damaged pickle fails in any way that Python knows
        raise DataError(
            f"{path}: not a complete JKQC database (pickled pandas table): "
            f"{str(e)[:200] or type(e).__name__}"
        ) from e
    return table


def _decode_frame(frame: Any) -> Table:
    if type(frame) is not _DataFrame:
        raise ValueError("it holds no table")
    manager = frame.item("_mgr")
    _require(manager, "manager", 2)
    blocks, axes = manager.args
    if type(axes) is not list or len(axes) != 2 or type(blocks) not in (tuple, list):
        raise ValueError("the table has no two axes")
    names = _decode_columns(axes[0])
    columns: dict[tuple[str, str], list[Any]] = {}
    n_rows = -1
    for block in blocks:
        _require(block, "block", 2)
        values, placement = block.args[:2]
        rows = _decode_block(values)
        places = _decode_placement(placement, len(names))
        if len(places) != len(rows):
            raise ValueError("the columns of the table do not fit its blocks")
        for place, row in zip(places, rows, strict=True):
            if n_rows not in (-1, len(row)):
                raise ValueError("the columns of the table differ in length")
            n_rows = len(row)
            columns[names[place]] = row
    return Table(max(n_rows, 0), columns)


def _require(call: Any, kind: str, n_args: int) -> None:
    if type(call) is not _Applied or call.kind != kind or len(call.args) < n_args:
        raise ValueError(f"there is no {kind} where the table should have one")


def _decode_columns(axis: Any) -> list[tuple[str, str]]:
    _require(axis, "index", 2)
    kind, state = axis.args[:2]
    if kind is not _MULTI_INDEX or type(state) is not dict:
        raise ValueError("its columns have no two-part names such as ('log', 'electronic_energy')")
    levels, codes = state.get("levels"), state.get("codes")
    if type(levels) is not list or type(codes) is not list or len(levels) != 2 or len(codes) != 2:
        raise ValueError("its columns have no two-part names such as ('log', 'electronic_energy')")
    parts = []
    for level, code in zip(levels, codes, strict=True):
        _require(level, "index", 2)
        level_state = level.args[1]
        texts = _as_list(level_state.get("data") if type(level_state) is dict else None)
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
    if type(values) is _StringArray:
        return [_as_list(values)]
    if type(values) is not _Array:
        raise ValueError("a block of the table is no array")
    shape = _shape(values)
    if type(values.dtype) is _DType and values.dtype.is_object:
        cells = _as_list(values)
    else:
        cells = as_array(values).ravel().tolist()
    if len(shape) == 1:
        return [cells]
    if len(shape) != 2:
        raise ValueError("a block of the table is no matrix")
    width = shape[1]
    return [cells[i * width : (i + 1) * width] for i in range(shape[0])]


def _decode_placement(placement: Any, n_columns: int) -> list[int]:
    places: Any
    if type(placement) is _Applied and placement.kind == "slice" and len(placement.args) == 3:
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


def _shape(array: _Array) -> tuple[int, ...]:
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
    if type(values) is _StringArray:
        state = getattr(values, "state", None)
        parts = state if type(state) is tuple else ()
        arrays = [part for part in parts if type(part) is _Array]
        if len(arrays) != 1:
            raise ValueError("a column of texts is damaged")
        values = arrays[0]
    if type(values) is not _Array or type(values.data) is not list:
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
    if type(value) is not _Array or type(value.dtype) is not _DType:
        raise ValueError("there is no array where one should be")
    dtype = value.dtype.resolve()
    shape = _shape(value)
    if dtype is None or type(value.data) not in (bytes, bytearray):
        raise ValueError(f"an array of type {value.dtype.code[:20]!r} is not read")
    if math.prod(shape) * dtype.itemsize != len(value.data):
        raise ValueError("an array has another size than its shape says")
    array = np.frombuffer(bytes(value.data), dtype).reshape(
        shape, order="F" if value.fortran else "C"
    )
    return np.ascontiguousarray(array).astype(dtype.newbyteorder("="), copy=False)
