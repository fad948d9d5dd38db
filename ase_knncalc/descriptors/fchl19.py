"""FCHL19, as qmllib computes it.

References
----------
.. [1] A. S. Christensen, L. A. Bratholm, F. A. Faber, O. A. von Lilienfeld,
   *FCHL revisited: Faster and more accurate quantum machine learning*,
   J. Chem. Phys. 152, 044107 (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase.data import chemical_symbols

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors.base import DescriptorSettings, Functions, Parameter, require_atoms
from ase_knncalc.descriptors.moving import Derivatives, RowsWithDerivatives


@dataclass(frozen=True)
class FCHL19(DescriptorSettings):
    """FCHL19 atomic descriptor (two- and three-body histograms, by element pairs).

    Parameters
    ----------
    elements
        Atomic numbers the descriptor distinguishes, in ascending order.
    rcut, acut
        Cutoff of the two- and three-body terms (Å).
    n_rs2, n_rs3
        Number of radial basis functions of the two- and three-body terms.
    eta2, eta3
        Widths of the radial Gaussians (1/Å²).
    zeta
        Width of the angular Gaussian.
    two_body_decay, three_body_decay, three_body_weight
        Exponents of the power-law damping and weight of the three-body part.
    """

    kind: ClassVar[str] = "fchl19"
    differentiable: ClassVar[bool] = True
    by_element: ClassVar[bool] = False

    rcut: Parameter = 8.0
    acut: Parameter = 8.0
    n_rs2: Functions = 24
    n_rs3: Functions = 20
    eta2: Parameter = 0.32
    eta3: Parameter = 2.7
    zeta: Parameter = float(np.pi)
    two_body_decay: Parameter = 1.8
    three_body_decay: Parameter = 0.57
    three_body_weight: Parameter = 13.4

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        n = len(self.elements)
        return n * self.n_rs2 + n * (n + 1) * self.n_rs3

    def blocks(self) -> dict[str, slice]:
        """Radial histograms by the other atom's element, angular ones by both others'."""
        names = [chemical_symbols[z] for z in self.elements]
        lengths = {f"pairs with {a}": self.n_rs2 for a in names}
        lengths |= {
            f"triples with {a}, {b}": 2 * self.n_rs3 for i, a in enumerate(names) for b in names[i:]
        }
        stops = np.cumsum(list(lengths.values())).tolist()
        return {
            name: slice(stop - length, stop)
            for (name, length), stop in zip(lengths.items(), stops, strict=True)
        }

    def _options(self) -> dict[str, Any]:
        return {
            "elements": list(self.elements),
            "nRs2": self.n_rs2,
            "nRs3": self.n_rs3,
            "nFourier": 1,
            "eta2": self.eta2,
            "eta3": self.eta3,
            "zeta": self.zeta,
            "rcut": self.rcut,
            "acut": self.acut,
            "two_body_decay": self.two_body_decay,
            "three_body_decay": self.three_body_decay,
            "three_body_weight": self.three_body_weight,
        }

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms.

        Parameters
        ----------
        numbers
            Atomic numbers, shape (n_atoms,).
        positions
            Cartesian coordinates in Å, shape (n_atoms, 3).

        Returns
        -------
        ndarray of float64, shape (n_atoms, n_features)

        Raises
        ------
        StructureError, UnknownElementError
            See :func:`require_atoms`.
        """
        from qmllib.representations import generate_fchl19

        atoms = require_atoms(numbers, positions, self.elements)
        return np.asarray(generate_fchl19(*atoms, **self._options()))

    def moving(self, numbers: IntArray, positions: FloatArray) -> RowsWithDerivatives:
        """Rows as from :meth:`local`, and what moves them."""
        from qmllib.representations import generate_fchl19

        atoms = require_atoms(numbers, positions, self.elements)

        def derivatives() -> Derivatives:
            gradient = generate_fchl19(*atoms, gradients=True, **self._options())[1]
            near = np.linalg.norm(atoms[1][:, None] - atoms[1], axis=-1) < max(self.rcut, self.acut)
            np.fill_diagonal(near, False)
            centers, moved = np.nonzero(near)
            return Derivatives(centers, moved, gradient[centers, :, moved].transpose(0, 2, 1))

        return RowsWithDerivatives(self.local(*atoms), derivatives)
