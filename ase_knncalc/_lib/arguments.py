"""What counts as a number in settings, in arguments and in files.

A checker takes the name and the value of a field; it gives back the plain value that is kept, or
raises :class:`SettingsError` with the name in it: in the first line of a call, not after its work.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ase_knncalc.errors import SettingsError

Checker = Callable[[str, Any], Any]


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number by type (True is none)."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is a finite number by type (True is none)."""
    if is_integer(value):
        return abs(int(value)) < 2**63
    return isinstance(value, float | np.floating) and math.isfinite(value)


def whole(least: int, most: int = 2**31 - 1) -> Checker:
    """Whole numbers, kept as ``int``; NumPy's are, 1.0 and True are not."""

    def check(name: str, value: Any) -> int:
        if not is_integer(value) or not least <= value <= most:
            raise SettingsError(
                f"{name} must be a whole number of at least {least}, got {value!r}"
                if not is_integer(value) or value < least
                else f"{name} must be at most {most}, got {value!r}"
            )
        return int(value)

    return check


# What NumPy's and scikit-learn's generators both take.
seed = whole(0, 2**32 - 1)


def positive(name: str, value: Any) -> float:
    """Finite numbers above zero, kept as ``float``."""
    if not is_real(value) or not value > 0:
        raise SettingsError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """Finite numbers of at least zero, kept as ``float``."""
    if not is_real(value) or not value >= 0:
        raise SettingsError(f"{name} must be a number and not negative, got {value!r}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False, NumPy's too."""
    if not isinstance(value, bool | np.bool_):
        raise SettingsError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(choices: Sequence[str]) -> Checker:
    """One of several words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return value

    return check


def several(check: Checker) -> Checker:
    """One or more values that each pass a check, kept as a tuple."""

    def check_all(name: str, values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list | tuple | np.ndarray) or not len(values):
            raise SettingsError(f"{name} must be a list of one value or more, got {values!r}")
        return tuple(check(f"each of {name}", value) for value in values)

    return check_all


def numbers(n: int) -> Checker:
    """As many finite numbers, kept as an array of floats of shape (n,); one may be without list."""

    def check(name: str, values: Any) -> np.ndarray:
        try:
            array = np.asarray(values)
        except ValueError:  # rows of different lengths
            array = np.array(None)
        if n == 1:
            array = array.reshape(-1)
        if array.dtype.kind not in "iuf" or array.shape != (n,) or not np.isfinite(array).all():
            raise SettingsError(
                f"{name} must be {n} finite number{'s' * (n != 1)}, one for each structure, got "
                f"{_short(values)}"
            )
        return array.astype(np.float64)

    return check


def optional(check: Checker) -> Checker:
    """None, or what passes a check."""
    return lambda name, value: None if value is None else check(name, value)


def instance(*kinds: type) -> Checker:
    """An object of one of several classes."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise SettingsError(f"{name} must be of type {wanted}, got {_short(value)}")
        return value

    return check


def file_name(name: str, value: Any) -> Any:
    """Names of files: ``str``, or what ``os.fspath`` makes a ``str`` of."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or "\0" in text:
        raise SettingsError(f"{name} must be the name of a file, got {_short(value)}")
    return value


def settle(settings: Any, **checks: Checker) -> None:
    """Check fields of a frozen dataclass, and keep what the checkers give back."""
    for name, check in checks.items():
        object.__setattr__(settings, name, check(name, getattr(settings, name)))


def similar(name: str, known: Iterable[str]) -> str:
    """End of a message on a name that is not known: the one that was meant, or all there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__}: {text if len(text) <= 60 else f'{text[:60]}…'}"
