"""Compressed rows of one structure by compiled loops; importing this needs numba."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.compiled import expand, products, pull
from ase_knncalc.descriptors.base import require_atoms
from ase_knncalc.descriptors.compressed import (
    Compressed,
    CompressedRows,
    Part,
    atoms_by_element,
    elements_of,
)
from ase_knncalc.descriptors.harmonics import harmonic_norms
from ase_knncalc.descriptors.moving import Derivatives, MovingRows
from ase_knncalc.descriptors.power_spectrum import PowerSpectrum, radial_centers


@dataclass(frozen=True)
class CompiledDescriptor(Compressed):
    """A :class:`Compressed` whose rows, and what moves them, come from compiled loops.

    They are the same but for rounding.
    """

    def moving(self, numbers: IntArray, positions: FloatArray) -> MovingRows:
        """Rows as from :meth:`local`, and what moves them."""
        numbers, positions = require_atoms(numbers, positions, self.elements)
        return CompiledRows(self.part(elements_of(numbers) or self.elements), numbers, positions)


@dataclass(frozen=True)
class CompiledRows:
    """Rows of one structure, see :class:`MovingRows`."""

    part: Part
    numbers: IntArray
    positions: FloatArray

    @cached_property
    def kinds(self) -> IntArray:
        """Places of the atoms' elements among those of the part."""
        return np.searchsorted(self.part.base.elements, self.numbers)

    @cached_property
    def _elements(self) -> list[tuple[int, IntArray]]:
        return atoms_by_element(self.kinds, len(self.part.maps))

    @cached_property
    def _expanded(self) -> tuple[FloatArray, FloatArray, Any]:
        return expand(self.kinds, self.positions, *_settings(self.part.base))  # type: ignore[no-any-return]

    @cached_property
    def rows(self) -> FloatArray:
        """Shape (n_atoms, n_features)."""
        part, full = self.part, self._expanded[1]
        out = np.empty((len(full), part.maps.shape[1]))
        for e, atoms in self._elements:
            rows = products(full[atoms] - part.means[e], part.single_maps[e])
            out[atoms] = rows + part.constants[e]
        return out

    def pull(self, slopes: FloatArray) -> FloatArray:
        """Gradient of Σ slopes · rows by the positions, 1/Å, shape (n_atoms, 3)."""
        coefficients, rows, of_pairs = self._expanded
        full = np.empty(rows.shape)
        for e, atoms in self._elements:
            full[atoms] = products(slopes[atoms], self.part.single_columns[e])
        base = self.part.base
        found = pull(self.kinds, full, coefficients, of_pairs, base.l_max, len(base.elements))
        return np.asarray(found)

    @cached_property
    def _plain(self) -> CompressedRows:
        expansion = self.part.base.moving(self.numbers, self.positions)
        return CompressedRows(self.part, self.kinds, expansion)

    def derivatives(self, dtype: str = "float64") -> Derivatives:
        """All derivatives of the rows, which numpy does well."""
        return self._plain.derivatives(dtype)

    def along(self, displacements: FloatArray) -> FloatArray:
        """Changes of the rows along displacements, likewise."""
        return self._plain.along(displacements)


@cache
def _settings(base: PowerSpectrum) -> tuple[Any, ...]:
    """What :func:`expand` is told of a descriptor."""

    def functions(n: int, cutoff: float) -> tuple[FloatArray, float, float, float]:
        centers, width = radial_centers(base.r_min, base.width, n, cutoff)
        return centers, width, float(cutoff), float(base.decay)

    radial, two_body = functions(base.n_radial, base.rcut), functions(base.n_pair, base.pair_rcut)
    return len(base.elements), radial, two_body, base.l_max, harmonic_norms(base.l_max)
