"""Ridge regression with unpenalised columns and exact leave-one-out and leave-group-out residuals.

The trends of this package are linear in their coefficients: y ≈ C β + Φ w, with few *free* columns
C (element counts, charge) and many penalised ones. One eigendecomposition serves all penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_knncalc.errors import TrainingError

FloatArray = np.ndarray
IntArray = np.ndarray

_LEVERAGE_CEILING = 1.0 - 1e-6
_NOISE = 1e-15


@dataclass(frozen=True)
class RidgeFit:
    """Solution of a :class:`RidgeProblem` for one penalty.

    Attributes
    ----------
    penalty : float
    free_coefficients : ndarray, shape (n_free,)
    coefficients : ndarray, shape (n_columns,)
    fitted, leave_one_out, leave_group_out : ndarray, shape (n,)
        In-sample prediction, and residuals y − prediction of the fit without the sample or without
        its group.
    leverage, group_leverage : ndarray, shape (n,)
        Variance of the prediction at each sample in units of the noise variance, from the fit
        without the sample or without its group.
    """

    penalty: float
    free_coefficients: FloatArray
    coefficients: FloatArray
    fitted: FloatArray
    leave_one_out: FloatArray
    leave_group_out: FloatArray
    leverage: FloatArray
    group_leverage: FloatArray

    @property
    def score(self) -> float:
        """Mean of both mean absolute cross-validation errors; robust against a few bad labels."""
        return 0.5 * float(np.abs(self.leave_one_out).mean() + np.abs(self.leave_group_out).mean())


@dataclass(frozen=True)
class BlockOut:
    """A sample and its extra rows, left out of the fit together.

    Attributes
    ----------
    residual, leverage : float
        Of the sample: y − prediction, and variance of the prediction in units of the noise's.
    extra_residuals, extra_leverage : ndarray, shape (m,)
        Of its extra rows.
    """

    residual: float
    extra_residuals: FloatArray
    leverage: float
    extra_leverage: FloatArray


class RidgeProblem:
    """Least squares with free and penalised columns, factorised once.

    Parameters
    ----------
    free
        Unpenalised columns, shape (n, n_free); may be rank deficient (minimum-norm solution).
    columns
        Penalised columns, shape (n, n_columns).
    y
        Targets, shape (n,).
    weights
        Positive weight of each sample, shape (n,).
    groups
        Label of each sample, shape (n,); samples of a group are left out together.
    extra
        Further rows that do not touch the free columns (forces), as their weighted Gram matrix
        (n_columns, n_columns) and right-hand side (n_columns,): they need not be kept.
    """

    def __init__(
        self,
        free: FloatArray,
        columns: FloatArray,
        y: FloatArray,
        weights: FloatArray | None = None,
        groups: Sequence[str] | IntArray | None = None,
        extra: tuple[FloatArray, FloatArray] | None = None,
    ) -> None:
        n = len(y)
        if n < 2:
            raise TrainingError(f"a trend needs at least 2 labelled structures, got {n}")
        self.y = np.asarray(y, dtype=np.float64)
        self.root_weights = np.ones(n) if weights is None else np.sqrt(weights)
        self._groups = _group_members(groups, n)
        root = self.root_weights[:, None]
        u, s, vt = np.linalg.svd(root * free, full_matrices=False)
        rank = int(np.sum(s > s[0] * 1e-10)) if s.size and s[0] > 0 else 0
        # Orthonormal basis of the free columns, and the map from raw free columns to it.
        self._q = u[:, :rank]
        self._free_map = vt[:rank].T / s[:rank]
        scaled = root * columns
        self._overlap = self._q.T @ scaled
        scaled -= self._q @ self._overlap
        self._target = self.root_weights * self.y
        self._free_target = self._q.T @ self._target
        self._scaled = scaled
        if extra is None and n < scaled.shape[1]:
            # Fewer samples than columns: the smaller Gram matrix holds all there is to know of
            # the coefficients. What it drops as rounding noise is far below any penalty.
            values, left = np.linalg.eigh(scaled @ scaled.T)
            keep = values > _NOISE * values[-1]
            self.eigenvalues, left = values[keep], left[:, keep]
            root = np.sqrt(self.eigenvalues)
            self._vectors, self._rotated = scaled.T @ left / root, left * root
        else:
            gram = scaled.T @ scaled
            if extra is not None:
                gram += extra[0]
            values, self._vectors = np.linalg.eigh(gram)
            self.eigenvalues = np.maximum(values, 0.0)
            self._rotated = scaled @ self._vectors
        # What the free columns explain is taken off first: it may be larger by many orders than
        # what is left, and rotated columns are orthogonal to it up to rounding only.
        rest = self._target - self._q @ self._free_target
        self._projected = self._rotated.T @ rest
        if extra is not None:
            self._projected += self._vectors.T @ extra[1]

    def solve(self, penalty: float) -> RidgeFit:
        """Coefficients and cross-validated residuals for one penalty (> 0)."""
        if not penalty > 0:
            raise TrainingError(f"the penalty must be positive, got {penalty!r}")
        inverse = 1.0 / (self.eigenvalues + penalty)
        coefficients = self._vectors @ (inverse * self._projected)
        free = self._free_map @ (self._free_target - self._overlap @ coefficients)
        fitted = self._q @ self._free_target + self._rotated @ (inverse * self._projected)
        residual = self._target - fitted
        # Rows of the square root of the hat matrix.
        root_hat = np.hstack([self._q, self._rotated * np.sqrt(inverse)])
        hat = np.minimum(np.einsum("ij,ij->i", root_hat, root_hat), _LEVERAGE_CEILING)
        one_out = residual / (1.0 - hat)
        group_out, group_leverage = one_out.copy(), hat / (1.0 - hat)
        for members in self._groups:
            if len(members) == 1:
                continue
            block = root_hat[members] @ root_hat[members].T
            values, vectors = np.linalg.eigh(block)
            values = np.minimum(values, _LEVERAGE_CEILING)
            group_out[members] = vectors @ ((vectors.T @ residual[members]) / (1.0 - values))
            group_leverage[members] = np.einsum(
                "ij,j,ij->i", vectors, values / (1 - values), vectors
            )
        root = self.root_weights
        return RidgeFit(
            penalty=float(penalty),
            free_coefficients=free,
            coefficients=coefficients,
            fitted=fitted / root,
            leave_one_out=one_out / root,
            leave_group_out=group_out / root,
            leverage=hat / (1.0 - hat) / root**2,
            group_leverage=group_leverage / root**2,
        )

    def best(self, penalties: Sequence[float] | FloatArray) -> RidgeFit:
        """The fit with the lowest :attr:`RidgeFit.score` among the given penalties."""
        fits = [self.solve(float(p)) for p in penalties]
        # Where most samples are interpolated, 1 − h is lost in rounding, and what is left of the
        # residuals says nothing: the smallest of all scores would be that of the worst penalty.
        sound = [
            fit
            for fit in fits
            if np.median(fit.leverage * self.root_weights**2) < 0.5 / (1.0 - _LEVERAGE_CEILING)
        ]
        if not sound:
            return max(fits, key=lambda fit: fit.penalty)
        return min(sound, key=lambda fit: fit.score)

    def leave_block_out(
        self, fit: RidgeFit, row: int, extra_rows: FloatArray, extra_y: FloatArray, weight: float
    ) -> BlockOut:
        """A sample and its extra rows as a fit without any of them sees them.

        Parameters
        ----------
        fit
            Solution of this problem.
        row
            The sample.
        extra_rows, extra_y, weight
            Its part of ``extra``: rows (m, n_columns), targets (m,) and their weight.
        """
        root = np.sqrt(weight)
        inverse = 1.0 / np.sqrt(self.eigenvalues + fit.penalty)
        rotated = extra_rows @ self._vectors
        residual = np.concatenate(
            [
                [self.root_weights[row] * (self.y[row] - fit.fitted[row])],
                root * (extra_y - extra_rows @ fit.coefficients),
            ]
        )
        hat = np.vstack([self._rotated[row], root * rotated]) * inverse
        block = hat @ hat.T
        block[0, 0] += self._q[row] @ self._q[row]
        values, vectors = np.linalg.eigh(block)
        values = np.minimum(values, _LEVERAGE_CEILING)
        out = vectors @ ((vectors.T @ residual) / (1.0 - values))
        leverage = np.einsum("ij,j,ij->i", vectors, values / (1.0 - values), vectors)
        own = self.root_weights[row]
        return BlockOut(
            residual=float(out[0] / own),
            extra_residuals=out[1:] / root,
            leverage=float(leverage[0] / own**2),
            extra_leverage=leverage[1:] / weight,
        )

    def variance_factors(self, penalty: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Arrays from which :func:`prediction_rows` gets the covariance of new samples.

        Returns
        -------
        free_map : ndarray, shape (n_free, rank)
        shift : ndarray, shape (rank, n_columns)
        factor : ndarray, shape (n_columns, n_columns)
        """
        values, vectors = self.eigenvalues, self._vectors
        if vectors.shape[1] < vectors.shape[0]:
            # Directions that no sample reaches matter most for the variance.
            values, vectors = np.linalg.eigh(self._scaled.T @ self._scaled)
            values = np.maximum(values, 0.0)
        factor = vectors / np.sqrt(values + penalty)
        return self._free_map, self._overlap @ factor, factor


def prediction_leverage(
    free: FloatArray,
    columns: FloatArray,
    free_map: FloatArray,
    shift: FloatArray,
    factor: FloatArray,
) -> FloatArray:
    """Variance of predictions at new samples in units of the noise variance, shape (n,)."""
    rows = prediction_rows(free, columns, free_map, shift, factor)
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def prediction_rows(
    free: FloatArray,
    columns: FloatArray,
    free_map: FloatArray,
    shift: FloatArray,
    factor: FloatArray,
) -> FloatArray:
    """Rows whose products are the covariance of predictions in units of the noise variance.

    Shape (n, rank + n_columns); arguments as for :meth:`RidgeProblem.variance_factors`.
    """
    q = free @ free_map
    return np.hstack([q, columns @ factor - q @ shift])


def _group_members(groups: Sequence[str] | IntArray | None, n: int) -> list[IntArray]:
    if groups is None:
        return [np.array([i]) for i in range(n)]
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(labels) != n:
        raise TrainingError(f"{len(labels)} group labels for {n} structures")
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
