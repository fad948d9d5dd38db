"""Ridge regression of many targets at once on the same rows, with any fold of them left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.errors import TrainingError
from ase_knncalc.trend.normal_equations import FREE_SCALE

_BLOCK_BYTES = 64 * 2**20
# A Gram matrix of rounded rows may miss being positive definite by a little more than the penalty.
_STIFFER, _ATTEMPTS = 10.0, 4


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
        from scipy.linalg import get_blas_funcs

        self.free, self.columns, self.targets, self.folds = free, columns, targets, folds
        # Offsets are larger by many orders than what is left: they are taken off first.
        self._offsets = np.linalg.lstsq(free, targets, rcond=None)[0]
        rest = targets - free @ self._offsets
        self.n_folds = int(folds.max()) + 1
        n = free.shape[1] + columns.shape[1]
        self._grams = [np.zeros((n, n)) for _ in range(self.n_folds)]
        self._moments = np.zeros((self.n_folds, n, targets.shape[1]))
        for fold in range(self.n_folds):
            members = np.flatnonzero(folds == fold)
            for rows in np.array_split(members, 1 + len(members) * n * 8 // _BLOCK_BYTES):
                both = np.hstack([FREE_SCALE * free[rows], columns[rows]], dtype=np.float64)
                # The other triangle would cost as much for nothing: no solver reads it.
                (syrk,) = get_blas_funcs(("syrk",), (both,))
                self._grams[fold] += syrk(1.0, both.T, lower=0).T
                self._moments[fold] += both.T @ rest[rows]

    def solve(self, penalty: float, without: int | None = None) -> TargetFit:
        """Coefficients for one penalty, a fold left out or none.

        Raises
        ------
        TrainingError
            If the equations cannot be solved.
        """
        from scipy.linalg import LinAlgError, cho_solve, cholesky

        kept = [k for k in range(self.n_folds) if k != without]
        n_free = self.free.shape[1]
        for attempt in range(_ATTEMPTS):
            matrix = self._grams[kept[0]].copy()
            for k in kept[1:]:
                matrix += self._grams[k]
            matrix[np.diag_indices_from(matrix)] += penalty * _STIFFER**attempt
            try:
                factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
            except LinAlgError:
                continue
            found = cho_solve((factor, True), self._moments[kept].sum(axis=0), check_finite=False)
            if np.all(np.isfinite(found)):
                free = self._offsets + FREE_SCALE * found[:n_free]
                return TargetFit(free, found[n_free:])
        raise TrainingError(
            f"the equations of the properties have no solution with a penalty of {penalty:g}: look "
            "for repeated or absurd structures (knncalc check)"
        )

    def left_out(self, penalty: float) -> FloatArray:
        """Prediction minus target of each row by the fit without its fold, shape (n, k)."""
        errors = np.empty(self.targets.shape)
        for fold in range(self.n_folds):
            members = np.flatnonzero(self.folds == fold)
            fit = self.solve(penalty, fold if self.n_folds > 1 else None)
            said = fit.predict(self.free[members], self.columns[members])
            errors[members] = said - self.targets[members]
        return errors


def best_penalty(problem: TargetProblem, penalties: Sequence[float]) -> tuple[float, FloatArray]:
    """The penalty that does best on folds left out, and its errors, shape (n, k).

    Mean absolute errors of the targets are compared relative to the best of each.
    """
    tried = [problem.left_out(p) for p in penalties]
    means = np.array([np.abs(e).mean(axis=0) for e in tried])
    best = int(np.argmin((means / np.maximum(means.min(axis=0), 1e-300)).mean(axis=1)))
    return penalties[best], tried[best]
