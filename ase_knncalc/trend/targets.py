"""Ridge regression of many targets at once on the same rows, with any fold of them left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.trend.normal_equations import BLOCK_BYTES, FREE_SCALE, FoldSums, damped


@dataclass(frozen=True)
class TargetFit:
    """Coefficients of k targets.

    Attributes
    ----------
    free : ndarray, shape (n_free, k)
    coefficients : ndarray, shape (n_columns, k)
    """

    free: FloatArray
    coefficients: FloatArray

    def predict(self, free: FloatArray, columns: FloatArray) -> FloatArray:
        """Shape (n, k)."""
        return np.asarray(free @ self.free + columns @ self.coefficients)


class TargetProblem:
    """Least squares of k targets with free and penalised columns.

    What is kept are the sums of products of the rows, one for each fold: a fit without a fold is
    one Cholesky factorisation, whatever the number of targets.

    Parameters
    ----------
    free
        Columns as good as without a penalty, shape (n, n_free).
    columns
        Penalised columns, shape (n, n_columns).
    targets
        Shape (n, k).
    folds
        Fold of each row, shape (n,), from 0.
    """

    def __init__(
        self, free: FloatArray, columns: FloatArray, targets: FloatArray, folds: IntArray
    ) -> None:
        self.free, self.columns, self.targets, self.folds = free, columns, targets, folds
        # Offsets are larger by many orders than what is left: they are taken off first.
        self._offsets = np.linalg.lstsq(free, targets, rcond=None)[0]
        rest = targets - free @ self._offsets
        self.n_folds = int(folds.max()) + 1
        n = free.shape[1] + columns.shape[1]
        self._sums = FoldSums.zeros(self.n_folds, n, targets.shape[1])
        for fold in range(self.n_folds):
            members = np.flatnonzero(folds == fold)
            for rows in np.array_split(members, 1 + len(members) * n * 8 // BLOCK_BYTES):
                both = np.hstack([FREE_SCALE * free[rows], columns[rows]], dtype=np.float64)
                self._sums.add(fold, both, rest[rows])

    def solve(self, penalty: float, without: int | None = None) -> TargetFit:
        """Coefficients for one penalty, a fold left out or none.

        Raises
        ------
        TrainingError
            If the equations cannot be solved.
        """
        kept = [k for k in range(self.n_folds) if k != without]
        n_free = self.free.shape[1]

        def matrix() -> FloatArray:
            gram: FloatArray = self._sums.grams[kept[0]].copy()
            for k in kept[1:]:
                gram += self._sums.grams[k]
            return gram

        _, found, _ = damped(matrix, self._sums.targets[kept].sum(axis=0), penalty, "properties")
        return TargetFit(self._offsets + FREE_SCALE * found[:n_free], found[n_free:])

    def left_out(self, penalty: float) -> FloatArray:
        """Prediction minus target of each row by the fit without its fold, shape (n, k)."""
        errors = np.empty(self.targets.shape)
        for fold in range(self.n_folds):
            members = np.flatnonzero(self.folds == fold)
            fit = self.solve(penalty, fold if self.n_folds > 1 else None)
            said = fit.predict(self.free[members], self.columns[members])
            errors[members] = said - self.targets[members]
        return errors


def best_penalty(
    left_out: Callable[[float], FloatArray], penalties: Sequence[float]
) -> tuple[float, FloatArray]:
    """The penalty that does best on what is left out, and its errors, shape (n, k).

    Mean absolute errors of the targets are compared relative to the best of each.

    Parameters
    ----------
    left_out
        Errors with a penalty, such as :meth:`TargetProblem.left_out`.
    penalties
        To try.
    """
    tried = [left_out(p) for p in penalties]
    means = np.array([np.abs(e).mean(axis=0) for e in tried])
    best = int(np.argmin((means / np.maximum(means.min(axis=0), 1e-300)).mean(axis=1)))
    return penalties[best], tried[best]
