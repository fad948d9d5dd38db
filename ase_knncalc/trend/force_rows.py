"""Forces in the training of the sparse trend.

A trend that is linear in its coefficients has forces that are, too: each force component is one
more row of the same least-squares problem. Rows are made frame by frame and kept only as sums, so
that memory does not grow with the number of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors import Descriptor
from ase_knncalc.trend.base import HeldOutForces
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.ridge import RidgeFit, RidgeProblem

# Frames on which weights are compared.
_JUDGED = 100


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
    """

    rows: IntArray
    numbers: list[IntArray]
    positions: list[FloatArray]
    delta: list[FloatArray]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: IntArray) -> ForceLabels:
        """Labels of a selection of the training structures, renumbered."""
        place = {int(i): new for new, i in enumerate(indices)}
        keep = [j for j, row in enumerate(self.rows) if int(row) in place]
        order = sorted(keep, key=lambda j: place[int(self.rows[j])])
        return ForceLabels(
            np.array([place[int(self.rows[j])] for j in order], dtype=np.intp),
            [self.numbers[j] for j in order],
            [self.positions[j] for j in order],
            [self.delta[j] for j in order],
        )


@dataclass(frozen=True)
class ForceRows:
    """Rows of a structure's force components in the regression and in that of the variance.

    Attributes
    ----------
    environments : Environments
    descriptor : Descriptor
        Gives the derivatives of an atom's row.
    whiteners, variance_whiteners : list of ndarray
        Of each element, for all its environments and for the first of them that the variance uses.
    """

    environments: Environments
    descriptor: Descriptor
    whiteners: Sequence[FloatArray]
    variance_whiteners: Sequence[FloatArray]

    def of(self, numbers: IntArray, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows (3 n_atoms, n_columns) and rows of the variance (3 n_atoms, n_variance_columns)."""
        local, derivative = self.descriptor.local_with_gradient(numbers, positions)
        slopes = -self.environments.slopes(numbers, local, derivative)
        return self._whitened(slopes, self.whiteners), self._whitened(
            slopes, self.variance_whiteners
        )

    def _whitened(self, slopes: FloatArray, whiteners: Sequence[FloatArray]) -> FloatArray:
        return np.hstack(
            [
                slopes[:, block.start : block.start + len(whitener)] @ whitener
                for block, whitener in zip(self.environments.blocks, whiteners, strict=True)
            ]
        )


Sums = tuple[FloatArray, FloatArray]


def accumulate(labels: ForceLabels, rows: ForceRows) -> tuple[Sums, Sums]:
    """Gram matrix and right-hand side of all force rows with weight 1; those of the variance."""
    sums: list[Sums] = []
    for which in (rows.whiteners, rows.variance_whiteners):
        n = sum(w.shape[1] for w in which)
        sums.append((np.zeros((n, n)), np.zeros(n)))
    for numbers, positions, delta in zip(
        labels.numbers, labels.positions, labels.delta, strict=True
    ):
        for (gram, target), block in zip(sums, rows.of(numbers, positions), strict=True):
            gram += block.T @ block
            target += block.T @ np.ravel(delta)
    return sums[0], sums[1]


@dataclass(frozen=True)
class ForceFit:
    """Fit to energies and forces.

    Attributes
    ----------
    fit : RidgeFit
        Cross-validated residuals of frames with forces are from fits without their forces.
    variance_problem : RidgeProblem
        That of the posterior variance, forces included.
    leverage, group_leverage : ndarray, shape (n,)
        Posterior variance at each structure from fits without it.
    held_out : HeldOutForces
    details : dict
        Weight, penalty and cross-validated force error (eV/Å).
    """

    fit: RidgeFit
    variance_problem: RidgeProblem
    leverage: FloatArray
    group_leverage: FloatArray
    held_out: HeldOutForces
    details: dict[str, Any]


Problem = Callable[[Sums | None], RidgeProblem]


def fit_with_forces(
    make_problem: Problem,
    make_variance_problem: Problem,
    labels: ForceLabels,
    rows: ForceRows,
    penalties: Sequence[float],
    weights: Sequence[float],
    seed: int,
) -> ForceFit:
    """Weight of forces against energies, and the penalty, by cross-validation.

    The candidate with the lowest sum of energy and force error, each relative to the best that
    any candidate reached, wins; it is judged on a sample of the frames with forces, each left out
    with all its rows.
    """
    (gram, target), (variance_gram, variance_target) = accumulate(labels, rows)
    rng = np.random.default_rng(seed)
    judged = np.sort(rng.permutation(len(labels))[:_JUDGED])
    candidates = []
    for weight in weights:
        problem = make_problem((weight * gram, weight * target))
        candidates.append((weight, problem, problem.best(penalties)))
    errors = np.zeros((len(weights), 2))
    for j in judged:
        block, _ = rows.of(labels.numbers[j], labels.positions[j])
        for c, (weight, problem, fit) in enumerate(candidates):
            out = problem.leave_block_out(
                fit, int(labels.rows[j]), block, np.ravel(labels.delta[j]), weight
            )
            errors[c] += abs(out.residual), np.abs(out.extra_residuals).mean()
    errors /= len(judged)
    force_errors = errors[:, 1].copy()
    errors[:, 0] += [np.abs(fit.leave_one_out).mean() for _, _, fit in candidates]
    # Where all errors vanish any weight is as good.
    relative = errors / np.maximum(errors.min(axis=0), np.finfo(np.float64).tiny)
    chosen = int(np.argmin(relative.sum(axis=1)))
    weight, problem, fit = candidates[chosen]
    del candidates
    variance_problem = make_variance_problem((weight * variance_gram, weight * variance_target))
    variance_fit = variance_problem.solve(fit.penalty)
    one_out, group_out = fit.leave_one_out.copy(), fit.leave_group_out.copy()
    leverage, group_leverage = variance_fit.leverage.copy(), variance_fit.group_leverage.copy()
    per_atom = []
    for j, row in enumerate(labels.rows):
        numbers, delta = labels.numbers[j], np.ravel(labels.delta[j])
        block, variance_block = rows.of(numbers, labels.positions[j])
        out = problem.leave_block_out(fit, int(row), block, delta, weight)
        spread = variance_problem.leave_block_out(
            variance_fit, int(row), variance_block, delta, weight
        )
        one_out[row] = out.residual
        leverage[row] = spread.leverage
        # Without the group there is at least the frame missing: never better than without it.
        if abs(out.residual) > abs(group_out[row]):
            group_out[row] = out.residual
        group_leverage[row] = max(group_leverage[row], spread.leverage)
        per_atom.append(
            (
                numbers,
                np.sqrt(np.mean(out.extra_residuals.reshape(-1, 3) ** 2, axis=1)),
                spread.extra_leverage.reshape(-1, 3).mean(axis=1),
            )
        )
    return ForceFit(
        fit=replace(fit, leave_one_out=one_out, leave_group_out=group_out),
        variance_problem=variance_problem,
        leverage=leverage,
        group_leverage=group_leverage,
        held_out=HeldOutForces(*(np.concatenate(c) for c in zip(*per_atom, strict=True))),
        details={
            "penalty": fit.penalty,
            "force_weight": weight,
            "force_mae": float(force_errors[chosen]),
            "force_frames": len(labels),
        },
    )
