"""Normal equations of energies and forces, kept fold by fold.

A trend that is linear in its coefficients has forces that are, too: each force component is one
more row of the same least-squares problem. There are far more rows than columns, so what is kept
are sums of their products, one for each fold of the structures: the fit without a fold is the
difference of two sums and a Cholesky factorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.rowstore import Rows
from ase_knncalc.errors import TrainingError

# Standard deviation of the offsets of elements and charge against that of the columns: as good as
# free, and yet no direction is without a prior.
FREE_SCALE = 30.0
_LEVERAGE_CEILING = 1.0 - 1e-6
BLOCK_BYTES = 64 * 2**20
"""Of weighted rows that are multiplied at a time."""
# A Gram matrix of rounded rows may miss being positive definite by a little more than the penalty.
_STIFFER = 10.0
_ATTEMPTS = 4


@dataclass
class FoldSums:
    """Sums of products of weighted rows.

    Attributes
    ----------
    grams : ndarray, shape (n_folds, n_columns, n_columns)
        Lower triangles.
    targets : ndarray, shape (n_folds, n_columns), or of k targets (n_folds, n_columns, k)
    """

    grams: FloatArray
    targets: FloatArray

    @classmethod
    def zeros(cls, n_folds: int, n_columns: int, *n_targets: int) -> FoldSums:
        """Of no rows, with one target or ``n_targets`` of them."""
        return cls(
            np.zeros((n_folds, n_columns, n_columns)), np.zeros((n_folds, n_columns, *n_targets))
        )

    def add(self, fold: int, rows: FloatArray, y: FloatArray, sign: float = 1.0) -> None:
        """Add rows (m, n_columns) and targets y (m,) or (m, k); take off with a sign of −1."""
        from scipy.linalg import get_blas_funcs

        # The other triangle would cost as much as the products, for nothing: no solver reads it.
        (syrk,) = get_blas_funcs(("syrk",), (rows,))
        self.grams[fold] += syrk(sign, np.ascontiguousarray(rows).T, lower=0).T
        self.targets[fold] += sign * (rows.T @ y.astype(rows.dtype))


@dataclass(frozen=True)
class Solution:
    """A fit to all rows, or to those outside a fold.

    Attributes
    ----------
    penalty : float
    free : ndarray, shape (n_free,)
        Coefficients of the free columns.
    coefficients : ndarray, shape (n_columns,)
    factor : ndarray, shape (n_free + n_columns,) * 2
        Lower Cholesky factor of the normal equations, free columns first and scaled.
    """

    penalty: float
    free: FloatArray
    coefficients: FloatArray
    factor: FloatArray

    def leverage(self, free: FloatArray, columns: FloatArray) -> FloatArray:
        """Posterior variance at rows in units of the noise variance, shape (n,)."""
        from scipy.linalg import solve_triangular

        rows = np.hstack([FREE_SCALE * free, columns])
        half = solve_triangular(self.factor, rows.T, lower=True, check_finite=False)
        return np.asarray(np.einsum("ij,ij->j", half, half))

    def variance_factors(self, n_free: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Arrays for :func:`ase_knncalc.trend.posterior.prediction_rows`.

        Returns
        -------
        free_map : ndarray, shape (n_free, n_free)
        shift : ndarray, shape (n_free, n_columns)
        factor : ndarray, shape (n_columns, n_columns)
        """
        from scipy.linalg import solve_triangular

        own, cross = self.factor[:n_free, :n_free], self.factor[n_free:, :n_free]
        rest = self.factor[n_free:, n_free:]
        free_map = FREE_SCALE * solve_triangular(own, np.eye(n_free), lower=True).T
        factor = solve_triangular(rest, np.eye(len(rest)), lower=True, check_finite=False).T
        return free_map, cross.T @ factor, factor


def damped(
    matrix: Callable[[], FloatArray], target: FloatArray, penalty: float, what: str
) -> tuple[float, FloatArray, FloatArray]:
    """Solve normal equations with a penalty on their diagonal, or with the next that will do.

    Parameters
    ----------
    matrix
        Makes the lower triangle, shape (n, n), which is overwritten.
    target
        Shape (n,) or (n, k).
    penalty
        To begin with.
    what
        The equations are of, for messages.

    Returns
    -------
    penalty : float
        What it took.
    solution : ndarray, of the shape of ``target``
    factor : ndarray, shape (n, n)
        Lower Cholesky factor.

    Raises
    ------
    TrainingError
        If they cannot be solved.
    """
    from scipy.linalg import LinAlgError, cho_solve, cholesky

    for attempt in range(_ATTEMPTS):
        gram = matrix()
        damping = penalty * _STIFFER**attempt
        gram[np.diag_indices_from(gram)] += damping
        try:
            factor = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            continue
        found = cho_solve((factor, True), target, check_finite=False)
        if np.all(np.isfinite(found)):
            return damping, found, factor
    raise TrainingError(
        f"the normal equations of {what} have no solution with a penalty of "
        f"{penalty:g}, nor with one {_STIFFER ** (_ATTEMPTS - 1):g} times as large: look for "
        "repeated or absurd structures (knncalc check), or raise the penalty"
    )


class NormalEquations:
    """Least squares of energies and forces, solved with any fold of the structures left out.

    Parameters
    ----------
    free, columns, y, weights
        Of the energies: free columns (n, n_free), penalised columns (n, n_columns), targets (n,)
        and positive weights (n,).
    folds
        Fold of each structure, shape (n,), from 0 to n_folds − 1.
    forces
        Sums over the force rows of each fold; their rows have zeros in the free columns.
    """

    def __init__(
        self,
        free: FloatArray,
        columns: Rows,
        y: FloatArray,
        weights: FloatArray,
        folds: IntArray,
        forces: FoldSums,
    ) -> None:
        self.free, self.columns, self.y, self.folds = free, columns, y, folds
        self.forces = forces
        self._root = np.sqrt(weights)
        # Offsets are larger by many orders than what is left: they are taken off first.
        weighted = self._root[:, None] * free
        self._offsets = np.linalg.lstsq(weighted, self._root * y, rcond=None)[0]
        self._rest = self._root * (y - free @ self._offsets)
        n = free.shape[1] + columns.shape[1]
        self._energies = FoldSums.zeros(len(forces.targets), n)
        for fold in range(len(forces.targets)):
            members = np.flatnonzero(folds == fold)
            for rows in np.array_split(members, 1 + len(members) * n * 8 // BLOCK_BYTES):
                self._energies.add(fold, self._weighted(rows), self._rest[rows])

    def _weighted(self, rows: IntArray) -> FloatArray:
        both = np.hstack([FREE_SCALE * self.free[rows], self.columns[rows]])
        return np.asarray(self._root[rows, None] * both)

    def solve(self, force_weight: float, penalty: float, without: int | None = None) -> Solution:
        """Coefficients of one force weight and penalty, a fold left out or none.

        Raises
        ------
        TrainingError
            If the equations cannot be solved.
        """
        n_free = self.free.shape[1]
        kept = [k for k in range(len(self.forces.targets)) if k != without]
        target = self._energies.targets[kept].sum(axis=0)
        target[n_free:] += force_weight * self.forces.targets[kept].sum(axis=0)

        def matrix() -> FloatArray:
            gram: FloatArray = np.zeros_like(self._energies.grams[0])
            for k in kept:
                gram += self._energies.grams[k]
                gram[n_free:, n_free:] += force_weight * self.forces.grams[k]
            return gram

        damping, found, factor = damped(matrix, target, penalty, "energies and forces")
        free = self._offsets + FREE_SCALE * found[:n_free]
        return Solution(damping, free, found[n_free:], factor)

    def residuals(self, solution: Solution, rows: IntArray) -> FloatArray:
        """Y − prediction of some structures, shape (m,)."""
        fitted = self.free[rows] @ solution.free + self.columns[rows] @ solution.coefficients
        return np.asarray(self.y[rows] - fitted)

    def leave_one_out(self, solution: Solution) -> tuple[FloatArray, FloatArray]:
        """Residuals and leverages of energies, each structure's energy left out, (n,) both.

        Forces of the structure stay in the fit.
        """
        n, width = len(self.y), self.columns.shape[1]
        residuals, leverage = np.empty(n), np.empty(n)
        for rows in np.array_split(np.arange(n), 1 + n * width * 8 // BLOCK_BYTES):
            weight = self._root[rows] ** 2
            own = weight * solution.leverage(self.free[rows], self.columns[rows])
            own = np.minimum(own, _LEVERAGE_CEILING)
            residuals[rows] = self.residuals(solution, rows) / (1.0 - own)
            leverage[rows] = own / (1.0 - own) / weight
        return residuals, leverage
