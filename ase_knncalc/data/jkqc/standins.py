"""What the names in a pickle become: inert stand-ins, defined here.

Unpickling calls what a pickle names. Here each name is a class or function of this module that
keeps what it is given, or nothing at all. Nothing of pandas, pyarrow, numpy, ASE or the standard
library is reached, and a name that no table of clusters needs is refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ase_knncalc.data.jkqc.opcodes import Refused, check_opcodes


class NotRead(ValueError):
    """A column of a type that is not read."""


_DTYPE = re.compile(r"(?:O8?|b1|[iu][1248]|f[248])\Z")

# Each class has __slots__ and a __setstate__ of its own: without the latter, the pickle's BUILD
# opcode sets any attribute that it likes.


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

    def parts(self) -> tuple[Any, ...]:
        """All of the state, whether it has keys (pandas before 1.3) or not."""
        state = getattr(self, "state", None)
        if type(state) is dict:
            return tuple(state.values())
        return state if type(state) is tuple else ()


class PickledFrame(_Record):
    """State of a ``DataFrame``."""

    __slots__ = ()


class PickledAtoms(_Record):
    """State of an ASE ``Atoms`` object."""

    __slots__ = ()


class PickledCell(_Record):
    """State of an ASE ``Cell`` object."""

    __slots__ = ()


class TextColumn(_Record):
    """pandas' ``StringArray``: an array of texts."""

    __slots__ = ()


class ArrowColumn(_Record):
    """A column that pyarrow stores, see :mod:`ase_knncalc.data.jkqc.arrow`."""

    __slots__ = ()


class MaskedColumn(_Record):
    """Numbers, and which of them are missing: ``Int64``, ``Float64``, ``boolean``."""

    __slots__ = ()


class CategoryColumn(_Record):
    """Numbers of categories."""

    __slots__ = ()


class Categories(_Record):
    """The categories."""

    __slots__ = ()


class Manager:
    """Blocks of a table: arguments since pandas 1.3, a state before."""

    __slots__ = ("args", "state")

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Any:
        """Take arguments, or none before a state."""
        manager = super().__new__(cls)
        manager.args = args
        return manager

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Opaque:
    """What is in a pickle and not looked at, such as the calculator of a structure."""

    __slots__ = ()

    def __new__(cls, *args: Any) -> Any:
        """Nothing is kept of any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Nothing is kept."""

    def extend(self, values: Any) -> None:
        """Nothing is kept."""

    def add(self, value: Any) -> None:
        """Nothing is kept."""


class Applied:
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
        return Applied(self.kind, args)

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
        return Applied("block", args)

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 4 or state[0] is not _NEW_BLOCK:
            raise Refused("functools.partial of something else than a block of a table")


class DType:
    """The type of an array's elements."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code = code if type(code) is str else ""
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    @property
    def is_object(self) -> bool:
        """Whether the elements are any objects."""
        return self.code in ("O", "O8")

    def resolve(self) -> np.dtype | None:
        """The type, None for objects and for kinds that are not read (dates, records, …)."""
        if self.is_object or not _DTYPE.match(self.code):
            return None
        return np.dtype(f"{self.order if self.order in '<>' else '='}{self.code}")


class Array:
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


def _reconstruct(*args: Any) -> Array:
    return Array()


def _frombuffer(*args: Any) -> Array:
    if len(args) != 4:
        raise Refused("an array of unknown layout")
    array = Array()
    array.data, array.dtype, array.shape = args[:3]
    array.fortran = args[3] == "F"
    return array


def _scalar(*args: Any) -> Any:
    dtype = args[0].resolve() if len(args) == 2 and type(args[0]) is DType else None
    if dtype is None or type(args[1]) is not bytes or len(args[1]) != dtype.itemsize:
        raise Refused("a numpy number of unknown type")
    return np.frombuffer(args[1], dtype)[0].item()


def _array_backed(*args: Any) -> Any:
    """An array of pandas around one of numpy: of texts, categories, or (not read) dates."""
    kind = args[0] if args else None
    return kind() if isinstance(kind, type) and kind in (TextColumn, CategoryColumn) else Opaque()


def _buffer(*args: Any) -> Any:
    if not args:
        return b""
    if len(args) != 1 or type(args[0]) not in (bytes, bytearray):
        raise Refused("a buffer that is none")
    return args[0]


def _encode(*args: Any) -> bytes:
    """Bytes, as pickles of protocol 2 have them."""
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise Refused("the name _codecs.encode")
    return args[0].encode("latin1")


def _method(*args: Any) -> Any:
    """A method that a calculator keeps as its attribute; it is never looked up."""
    if len(args) != 2 or type(args[0]) is not Opaque or type(args[1]) is not str:
        raise Refused("the name builtins.getattr")
    return Opaque()


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
MULTI_INDEX = _Function("multi-index class")

_STAND_INS: dict[tuple[str, str], Any] = {
    ("functools", "partial"): _Partial("partial"),
    ("builtins", "slice"): _Function("slice"),
    ("builtins", "set"): Opaque,
    ("builtins", "getattr"): _Builder("method", _method),
    ("builtins", "bytes"): _Builder("bytes", _buffer),
    ("builtins", "bytearray"): _Builder("bytes", _buffer),
    ("_codecs", "encode"): _Builder("bytes", _encode),
    ("pandas.core.internals.blocks", "new_block"): _NEW_BLOCK,
    ("pandas._libs.internals", "_unpickle_block"): _NEW_BLOCK,
    ("pandas.core.internals.managers", "BlockManager"): Manager,
    ("pandas.core.indexes.base", "_new_Index"): _Function("index"),
    ("pandas.core.indexes.datetimes", "_new_DatetimeIndex"): Opaque,
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): _Builder("array", _array_backed),
    ("pyarrow.lib", "_restore_array"): _Function("arrow array"),
    ("pyarrow.lib", "chunked_array"): _Function("arrow chunks"),
    ("pyarrow.lib", "type_for_alias"): _Function("arrow type"),
    ("pyarrow.lib", "dictionary"): Opaque,
    ("pyarrow.lib", "py_buffer"): _Builder("bytes", _buffer),
    ("ase.atoms", "Atoms"): PickledAtoms,
    ("ase.cell", "Cell"): PickledCell,
    ("numpy", "ndarray"): _Function("ndarray"),
    ("numpy", "dtype"): _Builder("dtype", lambda code, *_: DType(code)),
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Builder("array", _reconstruct)
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _Builder("scalar", _scalar)
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _Builder("array", _frombuffer)
# The public places, without a module of their own, are those of pandas 3.
for _places, _names, _stand_in in (
    (("pandas.core.frame", "pandas"), ("DataFrame",), PickledFrame),
    (("pandas.core.indexes.base", "pandas"), ("Index",), _INDEX),
    (("pandas.core.indexes.range", "pandas"), ("RangeIndex",), _INDEX),
    (("pandas.core.indexes.numeric",), ("Int64Index", "UInt64Index", "Float64Index"), _INDEX),
    (("pandas.core.indexes.multi", "pandas"), ("MultiIndex",), MULTI_INDEX),
    (("pandas.core.arrays.string_", "pandas.arrays"), ("StringArray",), TextColumn),
    (("pandas.core.arrays.string_arrow",), ("ArrowStringArray",), ArrowColumn),
    (("pandas.core.arrays.string_arrow",), ("ArrowStringArrayNumpySemantics",), ArrowColumn),
    (("pandas.core.arrays.arrow.array",), ("ArrowExtensionArray",), ArrowColumn),
    (("pandas.arrays",), ("ArrowStringArray", "ArrowExtensionArray"), ArrowColumn),
    (("pandas.core.arrays.integer", "pandas.arrays"), ("IntegerArray",), MaskedColumn),
    (("pandas.core.arrays.floating", "pandas.arrays"), ("FloatingArray",), MaskedColumn),
    (("pandas.core.arrays.boolean", "pandas.arrays"), ("BooleanArray",), MaskedColumn),
    (("pandas.core.arrays.categorical", "pandas"), ("Categorical",), CategoryColumn),
    (("pandas.core.dtypes.dtypes", "pandas"), ("CategoricalDtype",), Categories),
):
    for _place in _places:
        for _name in _names:
            _STAND_INS[_place, _name] = _stand_in

# What may stand in a table or in its structures and is not looked at: classes of calculators and
# constraints, and pandas' other types.
_OPAQUE = re.compile(
    r"(?:ase\.(?:calculators|constraints|neighborlist)|datetime"
    r"|pandas(?:\.(?:arrays|core\.arrays|core\.dtypes|core\.indexes|_libs\.tslibs))?)"
    r"(?:\.\w+)* [A-Z]\w*\Z"
    r"|datetime (?:datetime|date|time|timedelta|timezone)\Z"
    r"|pandas\._libs\.missing NA\Z|pandas\._libs\.tslibs\.\w+ _\w*unpickle\w*\Z"
)


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":  # protocol 2
            module = "builtins"
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if _OPAQUE.match(f"{module} {name}"):
            return Opaque
        raise Refused(f"the name {module}.{name}"[:200])


def load(data: bytes) -> Any:
    """What a pickle describes, of the stand-ins above.

    Raises
    ------
    Refused
        The pickle names what no table of clusters needs. Nothing it names is imported or called.
    Exception
        Of any kind, for a pickle that is damaged.
    """
    check_opcodes(data)
    return _TableUnpickler(io.BytesIO(data)).load()
