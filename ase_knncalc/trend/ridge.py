"""Ridge regression with unpenalised columns and exact leave-one-out and leave-group-out residuals.

The trends of this package are linear in their coefficients: y ≈ C β + Φ w, with few *free* columns
C (element counts, charge) and many penalised ones. One eigendecomposition serves all penalties.

The rows of Φ are read block by block and never kept: a first reading adds up the normal equations,
a second one gives fitted values and, through the hat matrix, what a fit without each sample or
group says of it. Φ may therefore lie on disk (:mod:`ase_knncalc._lib.rowstore`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.rowstore import Rows
from ase_knncalc.errors import TrainingError

_LEVERAGE_CEILING = 1.0 - 1e-6
_NOISE = 1e-15
# Bytes of a block of rows, and rows that it has at least.
_BLOCK_BYTES = 64 * 2**20
_BLOCK_ROWS = 256
# Blocks of a long group that are kept between the two passes over it.
_KEPT_BLOCKS = 4
# Groups up to this size are left out by eigendecomposition, larger ones by Cholesky factors.
_SMALL_GROUP = 400


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
        without the sample or without its group. The latter is NaN where it was not asked for.
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


class RidgeProblem:
    """Least squares with free and penalised columns, factorised once.

    Parameters
    ----------
    free
        Unpenalised columns, shape (n, n_free); may be rank deficient (minimum-norm solution).
    columns
        Penalised columns, shape (n, n_columns), in memory or on disk.
    y
        Targets, shape (n,).
    weights
        Positive weight of each sample, shape (n,).
    groups
        Label of each sample, shape (n,); samples of a group are left out together.
    """

    def __init__(
        self,
        free: FloatArray,
        columns: Rows,
        y: FloatArray,
        weights: FloatArray | None = None,
        groups: Sequence[str] | IntArray | None = None,
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
        self._columns = columns
        self._target = self.root_weights * self.y
        self._free_target = self._q.T @ self._target
        n_columns = columns.shape[1]
        self._block = max(_BLOCK_ROWS, _BLOCK_BYTES // (8 * max(1, n_columns)))
        self._overlap = np.zeros((rank, n_columns))
        for rows in self._blocks():
            self._overlap += self._q[rows].T @ (root[rows] * columns[rows])
        # What the free columns explain is taken off first: it may be larger by many orders than
        # what is left, and rotated columns are orthogonal to it up to rounding only.
        rest = self._target - self._q @ self._free_target
        # All rows in the basis of the eigenvectors, where they are few.
        self._rotated: FloatArray | None = None
        if n < n_columns:
            # Fewer samples than columns: the smaller Gram matrix holds all there is to know of
            # the coefficients. What it drops as rounding noise is far below any penalty.
            scaled = self._scaled(slice(0, n))
            values, left = np.linalg.eigh(scaled @ scaled.T)
            keep = values > _NOISE * values[-1]
            self.eigenvalues, left = values[keep], left[:, keep]
            deviations = np.sqrt(self.eigenvalues)
            self._vectors, self._rotated = scaled.T @ left / deviations, left * deviations
            self._projected = self._rotated.T @ rest
            return
        gram, projected = self._gram(), np.zeros(n_columns)
        values, self._vectors = np.linalg.eigh(gram)
        del gram
        self.eigenvalues = np.maximum(values, 0.0)
        if n <= self._block:
            self._rotated = self._scaled(slice(0, n)) @ self._vectors
            self._projected = self._rotated.T @ rest
        else:
            for rows in self._blocks():
                projected += self._scaled(rows).T @ rest[rows]
            self._projected = self._vectors.T @ projected

    def _blocks(self) -> Iterator[slice]:
        n = len(self.y)
        return (slice(a, min(a + self._block, n)) for a in range(0, n, self._block))

    def _scaled(self, rows: slice | IntArray) -> FloatArray:
        """Weighted columns of some samples, orthogonal to the free ones."""
        scaled = self.root_weights[rows, None] * self._columns[rows]
        scaled -= self._q[rows] @ self._overlap
        return np.asarray(scaled)

    def _gram(self) -> FloatArray:
        gram = np.zeros((self._columns.shape[1],) * 2)
        for rows in self._blocks():
            scaled = self._scaled(rows)
            gram += scaled.T @ scaled
        return gram

    def _rows(self, rows: IntArray) -> FloatArray:
        """Some samples in the orthogonal basis: free columns, then those of the eigenvectors."""
        if self._rotated is not None:
            return np.hstack([self._q[rows], self._rotated[rows]])
        order = np.argsort(rows)
        both = np.empty((len(rows), self._q.shape[1] + len(self.eigenvalues)))
        both[:, : self._q.shape[1]] = self._q[rows]
        both[order, self._q.shape[1] :] = self._scaled(rows[order]) @ self._vectors
        return both

    def solve(self, penalty: float) -> RidgeFit:
        """Coefficients and cross-validated residuals for one penalty (> 0)."""
        return self.solve_all([penalty])[0]

    def best(
        self, penalties: Sequence[float] | FloatArray, *, group_leverage: bool = True
    ) -> RidgeFit:
        """The fit with the lowest :attr:`RidgeFit.score` among the given penalties."""
        fits = self.solve_all(penalties, group_leverage=group_leverage)
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

    def solve_all(
        self, penalties: Sequence[float] | FloatArray, *, group_leverage: bool = True
    ) -> list[RidgeFit]:
        """Fits for several penalties from one reading of the rows.

        ``group_leverage`` may be left out: for large groups it costs as much as all the rest.
        """
        for penalty in penalties:
            if not penalty > 0:
                raise TrainingError(f"the penalty must be positive, got {penalty!r}")
        n = len(self.y)
        drafts = [_Draft.of(self, float(p), n) for p in penalties]
        for members in self._bundles():
            if len(members[0]) > self._long:
                self._leave_out_long(members[0], drafts, group_leverage)
                continue
            rows = np.concatenate(members)
            both = self._rows(rows)
            ends = np.cumsum([len(m) for m in members])
            parts = [
                slice(int(e) - len(m), int(e))
                for m, e in zip(members, ends, strict=True)
                if len(m) > 1
            ]
            for draft in drafts:
                draft.leave_out(rows, both, parts, group_leverage)
        return [self._finished(draft) for draft in drafts]

    @property
    def _long(self) -> int:
        """Groups of more samples are cheaper to leave out in the space of the columns."""
        return max(_SMALL_GROUP, int(self._q.shape[1]) + len(self.eigenvalues))

    def _bundles(self) -> Iterator[list[IntArray]]:
        """Groups, as many at a time as make a block of rows; a long one is alone."""
        bundle: list[IntArray] = []
        size = 0
        for members in self._groups:
            alone = len(members) > self._long
            if bundle and (alone or size + len(members) > self._block):
                yield bundle
                bundle, size = [], 0
            if alone:
                yield [members]
                continue
            bundle.append(members)
            size += len(members)
        if bundle:
            yield bundle

    def _leave_out_long(
        self, members: IntArray, drafts: Sequence[_Draft], group_leverage: bool
    ) -> None:
        """Leave out a group with more samples than columns: two passes over its rows."""
        parts = [members[a : a + self._block] for a in range(0, len(members), self._block)]
        kept: list[FloatArray] = []
        rank = self._q.shape[1] + len(self.eigenvalues)
        gram = np.zeros((rank, rank))
        moments = [np.zeros(rank) for _ in drafts]
        for rows in parts:
            both = self._rows(rows)
            gram += both.T @ both
            for draft, moment in zip(drafts, moments, strict=True):
                moment += draft.scale * (both.T @ draft.leave_one_out(rows, both))
            if len(parts) <= _KEPT_BLOCKS:
                kept.append(both)
        factors = [_damped_factor(d.scale[:, None] * gram * d.scale) for d in drafts]
        for i, rows in enumerate(parts):
            both = kept[i] if kept else self._rows(rows)
            for draft, factor, moment in zip(drafts, factors, moments, strict=True):
                draft.finish_group(rows, both, factor, moment, group_leverage)

    def _finished(self, draft: _Draft) -> RidgeFit:
        root = self.root_weights
        coefficients = self._vectors @ draft.solution
        return RidgeFit(
            penalty=draft.penalty,
            free_coefficients=self._free_map @ (self._free_target - self._overlap @ coefficients),
            coefficients=coefficients,
            fitted=draft.fitted / root,
            leave_one_out=draft.one_out / root,
            leave_group_out=draft.group_out / root,
            leverage=draft.hat / (1.0 - draft.hat) / root**2,
            group_leverage=draft.group_leverage / root**2,
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
            values, vectors = np.linalg.eigh(self._gram())
            values = np.maximum(values, 0.0)
        factor = vectors / np.sqrt(values + penalty)
        return self._free_map, self._overlap @ factor, factor


@dataclass(frozen=True)
class _Draft:
    """Solution for one penalty, filled in block by block; weighted as the rows are."""

    penalty: float
    target: FloatArray
    free_target: FloatArray
    solution: FloatArray  # coefficients in the basis of the eigenvectors
    scale: FloatArray  # columns of [q, rotated] to rows of the square root of the hat matrix
    fitted: FloatArray
    hat: FloatArray
    one_out: FloatArray
    group_out: FloatArray
    group_leverage: FloatArray

    @staticmethod
    def of(problem: RidgeProblem, penalty: float, n: int) -> _Draft:
        inverse = 1.0 / (problem.eigenvalues + penalty)
        return _Draft(
            penalty=penalty,
            target=problem._target,
            free_target=problem._free_target,
            solution=inverse * problem._projected,
            scale=np.concatenate([np.ones(problem._q.shape[1]), np.sqrt(inverse)]),
            fitted=np.empty(n),
            hat=np.empty(n),
            one_out=np.empty(n),
            group_out=np.empty(n),
            group_leverage=np.empty(n),
        )

    def leave_one_out(self, rows: IntArray, both: FloatArray) -> FloatArray:
        """Fill in what concerns single samples, and return their residuals.

        ``both`` are their rows in the orthogonal basis, free columns first.
        """
        fitted = both @ np.concatenate([self.free_target, self.solution])
        residual = self.target[rows] - fitted
        hat = np.minimum(np.square(both) @ self.scale**2, _LEVERAGE_CEILING)
        self.fitted[rows] = fitted
        self.hat[rows] = hat
        self.one_out[rows] = residual / (1.0 - hat)
        return np.asarray(residual)

    def leave_out(
        self, rows: IntArray, both: FloatArray, parts: Sequence[slice], group_leverage: bool
    ) -> None:
        """Fill in samples, and the groups of several that they form (as slices of ``rows``)."""
        residual = self.leave_one_out(rows, both)
        # What is said of groups of one: their own leave-one-out.
        self.group_out[rows] = self.one_out[rows]
        self.group_leverage[rows] = self.hat[rows] / (1.0 - self.hat[rows])
        for part in parts:
            members = rows[part]
            block = both[part] * self.scale
            if len(members) > _SMALL_GROUP:
                self._leave_out_short(members, block, residual[part], group_leverage)
                continue
            values, vectors = np.linalg.eigh(block @ block.T)
            values = np.minimum(values, _LEVERAGE_CEILING)
            self.group_out[members] = vectors @ ((vectors.T @ residual[part]) / (1.0 - values))
            self.group_leverage[members] = np.einsum(
                "ij,j,ij->i", vectors, values / (1 - values), vectors
            )

    def _leave_out_short(
        self, members: IntArray, block: FloatArray, residual: FloatArray, group_leverage: bool
    ) -> None:
        """A group with fewer members than there are columns: (1 − H)⁻¹ in the space of members."""
        from scipy.linalg import cho_solve

        factor = _damped_factor(block @ block.T)
        self.group_out[members] = cho_solve(factor, residual)
        if group_leverage:
            inverse = cho_solve(factor, np.eye(len(members)))
            self.group_leverage[members] = np.diag(inverse) - 1.0
        else:
            self.group_leverage[members] = np.nan

    def finish_group(
        self,
        members: IntArray,
        both: FloatArray,
        factor: tuple[FloatArray, bool],
        moment: FloatArray,
        group_leverage: bool,
    ) -> None:
        """Members of a group with more of them than columns: (1 − RRᵀ)⁻¹ = 1 + R(1 − RᵀR)⁻¹Rᵀ.

        ``factor`` is that of 1 − RᵀR and ``moment`` Rᵀ r, both over the whole group; R is ``both``
        of :meth:`leave_one_out` times ``scale``.
        """
        from scipy.linalg import cho_solve, solve_triangular

        residual = self.target[members] - self.fitted[members]
        self.group_out[members] = residual + both @ (self.scale * cho_solve(factor, moment))
        if group_leverage:
            rows = (both * self.scale).T
            half = solve_triangular(factor[0], rows, lower=factor[1], check_finite=False)
            self.group_leverage[members] = np.einsum("ij,ij->j", half, half)
        else:
            self.group_leverage[members] = np.nan


def _damped_factor(hat: FloatArray) -> tuple[FloatArray, bool]:
    """Cholesky factor of 1 − H, kept from being singular as the ceiling of leverages does."""
    from scipy.linalg import cho_factor

    matrix = -hat
    matrix[np.diag_indices_from(matrix)] += 2.0 - _LEVERAGE_CEILING
    factor, lower = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return factor, bool(lower)


def _group_members(groups: Sequence[str] | IntArray | None, n: int) -> list[IntArray]:
    if groups is None:
        return [np.array([i]) for i in range(n)]
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(labels) != n:
        raise TrainingError(f"{len(labels)} group labels for {n} structures")
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
