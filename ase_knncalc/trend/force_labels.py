"""Forces that a trend is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

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
        place = {int(i): new for new, i in enumerate(indices)}
        keep = [j for j, row in enumerate(self.rows) if int(row) in place]
        order = sorted(keep, key=lambda j: place[int(self.rows[j])])
        taken = self.take(np.array(order, dtype=np.intp))
        rows = np.array([place[int(row)] for row in taken.rows], dtype=np.intp)
        return ForceLabels(rows, taken.numbers, taken.positions, taken.delta, taken.assumed)
