"""What of a frame's ``info`` goes into a file, and how.

Workflows put anything into ``info``. Files hold text keys and plain values, and a key or value that
a format takes for something else can cost the label that follows it. So everything is made plain
first, and what a format cannot give back is left out and told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase.io.extxyz import SPECIAL_3_3_KEYS, key_val_dict_to_str, per_config_properties

from ase_knncalc.data.extxyz import parse_comment
from ase_knncalc.structure import plain_text

Fits = Callable[[str, Any], bool]
"""Whether a format gives back a plain value under a key."""

# Stands for the label that follows a value in a comment line.
_BEHIND = "_behind_it"
# What separates keys from values and from each other in a comment line of extended XYZ.
_SEPARATORS = re.compile(r"""[\s="'{}\[\]\\]+""")
_QUOTED_BY_ASE = re.compile(r"""[ "'{}\[\]]""")
_LINE_BREAK = re.compile(r"\r\n|\s")
_NUMBERS = "biufc"

# Keys by which ASE's JSON knows objects.
_JSON_MARKS = {
    "__ndarray__",
    "__complex__",
    "__complex_ndarray__",
    "__datetime__",
    "__ase_objtype__",
}
# The frame itself, which extended XYZ keeps between the keys of ``info``.
_FRAME_KEYS = {"Properties", "Lattice", "pbc"}
_CSV_COLUMNS = {"formula", "n_atoms"}
# Of the results that ASE makes of keys by these names, it takes any value for these three.
_RESULTS = {*per_config_properties, *SPECIAL_3_3_KEYS} - {"energy", "free_energy", "magmom"}


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


# ------------------------------------------------------------------------------- extended XYZ


def is_empty(value: Any) -> bool:
    """Whether ASE would write nothing behind the "=", and then read the next entry as the value."""
    if isinstance(value, str):
        return not value.split()
    return value is None or (isinstance(value, np.ndarray) and value.size == 0)


def extxyz_value(key: str, value: Any) -> Any:
    """A plain value as ASE's comment line can hold it: on one line, and escaped where ASE does not.

    Raises
    ------
    ValueError, TypeError
        For text under a key that ASE wants numbers for.
    """
    if key in _RESULTS:
        return np.asarray(value, dtype=float)
    if isinstance(value, list | dict):
        # ASE would write the same, but with bare backslashes.
        return f"_JSON {json.dumps(value)}".replace("\\", "\\\\")
    if not isinstance(value, str):
        return value
    text = _LINE_BREAK.sub(" ", value).replace("\\", "\\\\")
    if text.startswith("_JSON "):
        text = f" {text}"  # ASE would look for JSON behind it
    # Within quotes "=" means nothing; without, ASE swallows it at either end of a value.
    return text if _QUOTED_BY_ASE.search(text) else text.replace("=", "\\=")


def fits_extxyz(key: str, value: Any) -> bool:
    """Whether the key is not one of the frame, and ASE reads the value as one value of that key."""
    if key in _FRAME_KEYS:
        return False
    if is_empty(value) or (isinstance(value, str | bool | int | float) and key not in _RESULTS):
        return True
    try:
        written = extxyz_value(key, value)
        if key in SPECIAL_3_3_KEYS:
            return written.shape in ((3, 3), (9,), *([(6,)] if key == "stress" else []))
        text = key_val_dict_to_str({key: written, _BEHIND: 1})
        return list(parse_comment(text, ())) == [key, _BEHIND]
    except Exception:  # anything, by the kind of the value
        return False


# ------------------------------------------------------------------------------- other formats


def fits_trajectory(key: str, value: Any) -> bool:
    """Whether ASE's JSON gives the value back."""
    from ase.io.jsonio import decode, encode

    return _returns(key, value, lambda v: decode(encode(v)))


def fits_database(key: str, value: Any) -> bool:
    """Whether the binary data of ASE's databases give the value back."""
    from ase.db.core import bytes_to_object, object_to_bytes

    return _returns(key, value, lambda v: bytes_to_object(object_to_bytes(v)))


def fits_csv(key: str, value: Any) -> bool:
    """Whether the table has no column of its own by that name."""
    return key not in _CSV_COLUMNS


def _returns(key: str, value: Any, there_and_back: Callable[[Any], Any]) -> bool:
    if key in _JSON_MARKS:
        return False
    if value is None or isinstance(value, str | bool | int | float | np.ndarray):
        return True
    try:
        there_and_back(value)
    except Exception:  # anything, by the kind of the value
        return False
    return True
