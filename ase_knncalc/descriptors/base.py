"""What a descriptor is, and what all of them ask of atoms and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from annotated_types import Ge, Le, Lt
from ase.data import atomic_numbers, chemical_symbols

from ase_knncalc._lib.arguments import Settings, Several
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

    def together(self, numbers: IntArray, positions: FloatArray, starts: IntArray) -> FloatArray:
        """Rows of several structures, see :meth:`DescriptorSettings.together`."""

    def moving(self, numbers: IntArray, positions: FloatArray) -> MovingRows:
        """Rows as from :meth:`local`, and what moves them."""

    def blocks(self) -> dict[str, slice]:
        """Parts of a row by what they describe, in order; together they are the whole row."""

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings."""

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps beside the settings."""


# Lengths in Å, widths, exponents and weights beyond these have no meaning, and overflow.
Parameter = Annotated[float, Ge(1e-6), Le(1e4)]
Functions = Annotated[int, Ge(1), Le(1000)]
_Number = Annotated[int, Ge(1), Lt(len(chemical_symbols))]


@dataclass(frozen=True)
class DescriptorSettings(Settings):
    """What all descriptors have: the elements that they distinguish, ascending, and a kind."""

    kind: ClassVar[str]

    elements: Several[_Number]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "elements", tuple(sorted(set(self.elements))))

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings, with the kind of descriptor."""
        return {"kind": self.kind, **asdict(self), "elements": list(self.elements)}

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows, shape (n_atoms, n_features)."""
        raise NotImplementedError

    def together(self, numbers: IntArray, positions: FloatArray, starts: IntArray) -> FloatArray:
        """Rows of several structures stacked, shape (n_atoms_total, n_features).

        Structure ``s`` has the atoms ``starts[s]:starts[s + 1]``. To rounding the rows of each
        alone, to the bit if it is one.
        """
        rows = [self.local(numbers[a:b], positions[a:b]) for a, b in pairwise(starts.tolist())]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def arrays(self) -> dict[str, AnyArray]:
        """Nothing: the settings are all."""
        return {}


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
