"""What a descriptor is, and what all of them ask of atoms and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from ase_knncalc._lib.arguments import is_integer, is_real
from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray
from ase_knncalc.descriptors.moving import MovingRows
from ase_knncalc.errors import SettingsError, StructureError, UnknownElementError


class Descriptor(Protocol):
    """What the model needs of a descriptor: settings that can be stored, rows, and derivatives."""

    kind: ClassVar[str]
    differentiable: ClassVar[bool]
    by_element: ClassVar[bool]
    """Whether rows of atoms of different elements have no common meaning."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the descriptor distinguishes, ascending."""

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows, shape (n_atoms, n_features)."""

    def moving(self, numbers: IntArray, positions: FloatArray) -> MovingRows:
        """Rows as from :meth:`local`, and what moves them."""

    def blocks(self) -> dict[str, slice]:
        """Parts of a row by what they describe, in order; together they are the whole row."""

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings."""

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps beside the settings."""


# Lengths in Å, widths, exponents and weights beyond these have no meaning, and overflow.
_SMALLEST, _LARGEST = 1e-6, 1e4
_MOST_RADIAL = 1000


def check_settings(settings: Any) -> None:
    """Raise :class:`SettingsError` unless a descriptor's settings mean something."""
    numbers = list(settings.elements)
    if not numbers or any(not is_integer(z) or not 1 <= z < len(chemical_symbols) for z in numbers):
        raise SettingsError(
            f"elements must be atomic numbers from 1 to {len(chemical_symbols) - 1}, got {numbers}"
        )
    object.__setattr__(settings, "elements", tuple(sorted({int(z) for z in numbers})))
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name == "elements":
            continue
        if not is_real(value) or not value > 0:
            raise SettingsError(f"{settings.kind}: {f.name} must be positive, got {value!r}")
        if f.type == "int" and not (is_integer(value) and value <= _MOST_RADIAL):
            raise SettingsError(
                f"{settings.kind}: {f.name} must be a whole number of at most {_MOST_RADIAL}, "
                f"got {value!r}"
            )
        if not _SMALLEST <= value <= _LARGEST:
            raise SettingsError(
                f"{settings.kind}: {f.name} must lie between {_SMALLEST:g} and {_LARGEST:g}, "
                f"got {value!r}"
            )
        # NumPy's numbers have no place in a file's JSON.
        object.__setattr__(settings, f.name, int(value) if f.type == "int" else float(value))


def require_atoms(
    numbers: IntArray, positions: FloatArray, elements: Sequence[int]
) -> tuple[IntArray, FloatArray]:
    """Numbers and positions as arrays that qmllib can read without leaving them.

    Raises
    ------
    StructureError
        If they are no atoms: of other shapes than (n_atoms,) and (n_atoms, 3), or no numbers.
    UnknownElementError
        If an element is not among ``elements``.
    """
    try:
        numbers, positions = np.asarray(numbers), np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError):
        numbers, positions = np.zeros(0, dtype=int), np.zeros(0)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or positions.shape != (len(numbers), 3):
        raise StructureError(
            "atoms are whole numbers of shape (n_atoms,) with positions of shape (n_atoms, 3), "
            f"got {numbers.dtype} {numbers.shape} and {positions.shape}"
        )
    require_elements(numbers, elements)
    return numbers.astype(np.int32), np.ascontiguousarray(positions)


def require_elements(numbers: IntArray, elements: Sequence[int]) -> None:
    """Raise :class:`UnknownElementError` unless all numbers are among ``elements``."""
    unknown = sorted(set(np.asarray(numbers).tolist()) - set(elements))
    if unknown:
        raise UnknownElementError(
            f"element(s) {', '.join(chemical_symbols[z] for z in unknown)} not covered: "
            f"the model knows {', '.join(chemical_symbols[z] for z in elements)}"
        )


def parse_elements(symbols: Sequence[str | int]) -> tuple[int, ...]:
    """Atomic numbers of symbols or numbers, ascending and without repeats."""
    try:
        return tuple(sorted({s if isinstance(s, int) else atomic_numbers[s] for s in symbols}))
    except KeyError as e:
        raise SettingsError(f"{e.args[0]!r} is not an element symbol") from e
