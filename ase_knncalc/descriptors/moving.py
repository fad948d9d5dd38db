"""Rows of a structure's atoms together with what moves them: derivatives, and their contraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Derivatives:
    """How the rows of atoms change with the positions of the others.

    What an atom's own movement does to its row is minus the sum of all others': rows do not change
    where everything moves together.

    Attributes
    ----------
    centers, moved : ndarray of int, shape (n_pairs,)
        Row of which atom, by the position of which other; ascending in ``centers``.
    values : ndarray, shape (n_pairs, 3, n_features)
        d row[center] / d position[moved], 1/Å.
    """

    centers: IntArray
    moved: IntArray
    values: FloatArray

    def dense(self, n_atoms: int) -> FloatArray:
        """The same as d row[i, p] / d position[a, c], (n_atoms, n_features, n_atoms, 3)."""
        out = np.zeros((n_atoms, n_atoms, *self.values.shape[1:]))
        out[self.centers, self.moved] = self.values
        own = np.arange(n_atoms)
        out[own, own] = -out.sum(axis=1)
        return np.asarray(out.transpose(0, 3, 1, 2))

    def pull(self, slopes: FloatArray) -> FloatArray:
        """Gradient of Σ slopes · rows by the positions, 1/Å, shape (n_atoms, 3)."""
        parts = np.einsum("pcf,pf->pc", self.values, slopes[self.centers])
        return pull_pairs(self.centers, self.moved, parts, len(slopes))

    def along(self, displacements: FloatArray) -> FloatArray:
        """Changes of the rows along displacements (k, n_atoms, 3), (k, n_atoms, n_features)."""
        k, n, _ = displacements.shape
        out = np.zeros((k, n, self.values.shape[2]))
        for pair, (center, moved) in enumerate(zip(self.centers, self.moved, strict=True)):
            relative = displacements[:, moved] - displacements[:, center]
            out[:, center] += relative @ self.values[pair]
        return out


def pull_pairs(centers: IntArray, moved: IntArray, parts: FloatArray, n_atoms: int) -> FloatArray:
    """Sum over pairs of what each does to its moved atom (p, 3), and its opposite to the center."""
    of_pairs = np.zeros((n_atoms, n_atoms, 3))
    of_pairs[centers, moved] = parts
    return np.asarray(of_pairs.sum(axis=0) - of_pairs.sum(axis=1))


class MovingRows(Protocol):
    """Rows of one structure; their derivatives are computed when they are asked for."""

    @property
    def rows(self) -> FloatArray:
        """Shape (n_atoms, n_features)."""

    def derivatives(self, dtype: str = "float64") -> Derivatives:
        """All of them: for rows of a regression.

        In single precision where that is asked for and faster.
        """

    def pull(self, slopes: FloatArray) -> FloatArray:
        """Gradient of Σ slopes · rows by the positions, 1/Å, shape (n_atoms, 3).

        ``slopes`` have the shape of the rows. Cheaper than all derivatives.
        """

    def along(self, displacements: FloatArray) -> FloatArray:
        """Changes of the rows along displacements (k, n_atoms, 3), (k, n_atoms, n_features).

        Cheaper than all derivatives for a few of them.
        """


@dataclass(frozen=True)
class RowsWithDerivatives:
    """Rows whose derivatives come from one function, as a whole."""

    rows: FloatArray
    compute: Callable[[], Derivatives]

    def derivatives(self, dtype: str = "float64") -> Derivatives:
        """See :class:`MovingRows`."""
        return self.compute()

    def pull(self, slopes: FloatArray) -> FloatArray:
        """See :class:`MovingRows`."""
        return self.compute().pull(slopes)

    def along(self, displacements: FloatArray) -> FloatArray:
        """See :class:`MovingRows`."""
        return self.compute().along(displacements)
