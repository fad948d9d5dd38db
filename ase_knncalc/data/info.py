"""What of a frame's ``info`` goes into a file, and how.

Workflows put anything into ``info``. Files hold text keys and plain values, and a key or value that
a format takes for something else can cost the label that follows it. So everything is made plain
first, and what a format cannot give back is left out and told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc.structure import plain_text

Fits = Callable[[str, Any], bool]
"""Whether a format gives back a plain value under a key."""

# What separates keys from values and from each other in a comment line of extended XYZ.
_SEPARATORS = re.compile(r"""[\s="'{}\[\]\\]+""")
_NUMBERS = "biufc"

# Keys by which ASE's JSON knows objects.
_JSON_MARKS = {
    "__ndarray__",
    "__complex__",
    "__complex_ndarray__",
    "__datetime__",
    "__ase_objtype__",
}


def plain_info(info: Mapping[Any, Any], fits: Fits, told: dict[str, str]) -> dict[str, Any]:
    """The entries that a format can hold, under text keys without white space, as plain values.

    Parameters
    ----------
    info
        Of a frame; it stays as it is.
    fits
        Of the format.
    told
        Takes what was left out or renamed: the key as the user knows it, and what became of it.
    """
    unchanged = {key for key in info if isinstance(key, str) and key and plain_key(key) == key}
    plain: dict[str, Any] = {}
    for key, value in info.items():
        name = plain_key(key)
        if key not in unchanged and (not name or name in unchanged or name in plain):
            told[repr(key)] = f"left out: {name!r} is another key" if name else "left out"
            continue
        value = plain_value(value)
        if not fits(name, value):
            told[repr(key)] = "left out: the format cannot hold it"
            continue
        if key not in unchanged and name != str(key):
            told[repr(key)] = f"written as {name!r}"
        plain[name] = value
    return plain


def plain_key(key: Any) -> str:
    """A key as text without white space, quotes, brackets, "=" and backslashes."""
    return _SEPARATORS.sub("_", plain_text(key).strip())


def plain_value(value: Any) -> Any:
    """NumPy scalars as Python's; bytes as text; arrays that hold no numbers as lists."""
    if isinstance(value, np.ndarray) and (value.ndim == 0 or value.dtype.kind not in _NUMBERS):
        value = value.tolist()
    if isinstance(value, np.floating):
        return float(value)  # item() leaves long doubles as they are
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {plain_text(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(v) for v in value]
    return value


def is_empty(value: Any) -> bool:
    """Whether ASE would write nothing behind the "=", and then read the next entry as the value."""
    if isinstance(value, str):
        return not value.split()
    return value is None or (isinstance(value, np.ndarray) and value.size == 0)


def comes_back(key: str, value: Any, there_and_back: Callable[[Any], Any]) -> bool:
    """Whether a plain value under a key survives a format that is ASE's JSON or its like."""
    if key in _JSON_MARKS:
        return False
    if value is None or isinstance(value, str | bool | int | float | np.ndarray):
        return True
    try:
        there_and_back(value)
    except Exception:  # anything, by the kind of the value
        return False
    return True


_PER_ATOM = ("_forces", "forces_std")


def per_atom(atoms: Atoms) -> dict[str, Any]:
    """Arrays that trajectories and databases, which keep ASE's own alone, take in ``info``."""
    return {key: value for key, value in atoms.arrays.items() if key.endswith(_PER_ATOM)}


def move_arrays(atoms: Atoms) -> None:
    """Put what :func:`per_atom` gave back into the arrays, and make text of all keys."""
    # ASE makes the number 3 of the key "3".
    atoms.info = {str(key): value for key, value in atoms.info.items()}
    for key, value in list(atoms.info.items()):
        shape = (len(atoms),) if key.endswith("_std") else (len(atoms), 3)
        if key.endswith(_PER_ATOM) and np.shape(value) == shape and key not in atoms.arrays:
            atoms.new_array(key, np.array(atoms.info.pop(key), dtype=float))
