"""Forces and curvatures that a trend is fitted to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class ForceLabels:
    """Δ forces of some of the training structures.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Which training structures.
    numbers, positions : list of ndarray
        Of each, shapes (n_atoms,) and (n_atoms, 3), Å.
    delta : list of ndarray
        Reference minus baseline forces, eV/Å, shape (n_atoms, 3).
    assumed : ndarray of bool, shape (m,)
        Whether the reference forces are zero because the record is said to be a minimum, not
        because anybody computed them.
    """

    rows: IntArray
    numbers: list[IntArray]
    positions: list[FloatArray]
    delta: list[FloatArray]
    assumed: BoolArray

    def __len__(self) -> int:
        return len(self.rows)

    def computed(self, n: int) -> BoolArray:
        """Which of n training structures have forces that somebody computed."""
        mask = np.zeros(n, dtype=bool)
        mask[self.rows[~self.assumed]] = True
        return mask

    def take(self, places: IntArray) -> ForceLabels:
        """Some of these labels, in that order."""
        return ForceLabels(
            self.rows[places],
            [self.numbers[int(j)] for j in places],
            [self.positions[int(j)] for j in places],
            [self.delta[int(j)] for j in places],
            self.assumed[places],
        )

    def select(self, indices: IntArray) -> ForceLabels:
        """Labels of a selection of the training structures, renumbered."""
        return _selected(self, indices)


@dataclass(frozen=True)
class CurvatureLabels:
    """Δ curvatures of some of the training structures, which are minima of the reference.

    A row of the regression is Σ_j w_j u_jᵀ H u_j with the Hessian H of the trend, unit
    displacements u_j of all atoms and weights w_j, all of one structure.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Which training structures.
    numbers, positions : list of ndarray
        Of each, shapes (n_atoms,) and (n_atoms, 3), Å.
    displacements : list of ndarray
        u, of length 1, shape (k, n_atoms, 3).
    mixing : list of ndarray
        w, Å, shape (l, k).
    delta : list of ndarray
        Reference minus baseline, eV/Å, shape (l,).
    """

    rows: IntArray
    numbers: list[IntArray]
    positions: list[FloatArray]
    displacements: list[FloatArray]
    mixing: list[FloatArray]
    delta: list[FloatArray]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: IntArray) -> CurvatureLabels:
        """Some of these labels, in that order."""
        return CurvatureLabels(
            self.rows[places],
            [self.numbers[int(j)] for j in places],
            [self.positions[int(j)] for j in places],
            [self.displacements[int(j)] for j in places],
            [self.mixing[int(j)] for j in places],
            [self.delta[int(j)] for j in places],
        )

    def select(self, indices: IntArray) -> CurvatureLabels:
        """Labels of a selection of the training structures, renumbered."""
        return _selected(self, indices)


_Labels = TypeVar("_Labels", ForceLabels, CurvatureLabels)


def _selected(labels: _Labels, indices: IntArray) -> _Labels:
    place = {int(i): new for new, i in enumerate(indices)}
    keep = [j for j, row in enumerate(labels.rows) if int(row) in place]
    order = sorted(keep, key=lambda j: place[int(labels.rows[j])])
    taken = labels.take(np.array(order, dtype=np.intp))
    return replace(taken, rows=np.array([place[int(row)] for row in taken.rows], dtype=np.intp))
