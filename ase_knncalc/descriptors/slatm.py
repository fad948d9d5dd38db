"""SLATM, as qmllib computes it: for comparisons, it has no derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors.base import DescriptorSettings, Parameter, require_atoms
from ase_knncalc.descriptors.moving import RowsWithDerivatives
from ase_knncalc.errors import SettingsError


@dataclass(frozen=True)
class SLATM(DescriptorSettings):
    """Atomic SLATM: spectra of two- and three-body potentials [1]_, from qmllib; no derivatives.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    rcut
        Cutoff, Å.
    sigma
        Width of the smearing of distances (Å) and angles (rad).
    grid
        Step of distances (Å) and angles (rad).

    References
    ----------
    .. [1] B. Huang, O. A. von Lilienfeld, Nat. Chem. 12, 945 (2020).
    """

    kind: ClassVar[str] = "slatm"
    differentiable: ClassVar[bool] = False
    by_element: ClassVar[bool] = False

    rcut: Parameter = 4.8
    sigma: Parameter = 0.05
    grid: Parameter = 0.1

    def _types(self) -> list[list[int]]:
        from qmllib.representations import get_slatm_mbtypes

        # Three atoms of each element hold every pair and triple that there can be.
        types = get_slatm_mbtypes([np.repeat(self.elements, 3)])
        return sorted(([int(z) for z in t] for t in types), key=lambda t: (len(t), t))

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        # Counted, not computed: what a file asks for may be too long to compute.
        n = len(self.elements)
        distances = int((self.rcut - 0.1) / self.grid) + 1
        angles = int((np.pi + 2 * np.deg2rad(20.0)) / self.grid) + 1
        return n + n * (n + 1) // 2 * distances + n * n * (n + 1) // 2 * angles

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms, shape (n_atoms, n_features); see :meth:`FCHL19.local`."""
        from qmllib.representations import generate_slatm

        rows = generate_slatm(
            *require_atoms(numbers, positions, self.elements),
            self._types(),
            local=True,
            rcut=self.rcut,
            sigmas=[self.sigma, self.sigma],
            dgrids=[self.grid, self.grid],
        )
        return np.array(rows, dtype=np.float64)

    def moving(self, numbers: IntArray, positions: FloatArray) -> RowsWithDerivatives:
        """Raise :class:`SettingsError`: there are no derivatives."""
        raise SettingsError("SLATM has no derivatives, so no forces: use another descriptor")

    def blocks(self) -> dict[str, slice]:
        """The whole row: its parts are not told apart."""
        return {"SLATM": slice(0, self.n_features)}
