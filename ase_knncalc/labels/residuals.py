"""Residuals of labels, each from a trend that was fitted without it.

The residual of a structure is the exact leave-one-out one, from a trend that was fitted without the
other doubtful structures as well: it is refitted a few times, so that bad labels neither hide
themselves nor discredit their neighbours. It is given in units of the robust spread of structures
like it:

    score = |e| / (s √(1 + v)),    s = 1.4826 median |e| / √(1 + v)

with the leave-one-out residual e and the posterior variance v of the prediction in units of the
noise; s is taken over structures of about the same size, and over those with the same rarest
molecule if that is larger.

Cook & Weisberg, *Residuals and Influence in Regression* (1982), studentised residuals; Rousseeuw &
Leroy, *Robust Regression and Outlier Detection* (1987), reweighted least squares and the MAD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc._lib.constants import MAD
from ase_knncalc._lib.rowstore import Rows
from ase_knncalc.trend.ridge import RidgeFit, RidgeProblem

# Scores from which a residual has less weight in the next fit, and has none.
_UNUSUAL = 4.0
_DOUBTFUL = 10.0
# Weight of a doubtful structure: it has a residual, but no influence.
_IGNORED = 1e-12
# eV. No label is known better: convergence of the SCF, rounding.
_LEAST_SPREAD = 1e-3
_ROUNDS = 6
_SMALL_FAMILY = 30


@dataclass(frozen=True)
class Residuals:
    """Robust leave-one-out residuals of n structures.

    Attributes
    ----------
    residual, expected : ndarray, shape (n,)
        eV.
    leverage : ndarray, shape (n,)
        Posterior variance in units of the noise variance.
    """

    residual: FloatArray
    expected: FloatArray
    leverage: FloatArray

    @property
    def score(self) -> FloatArray:
        """Magnitude in units of what is expected, shape (n,)."""
        return np.asarray(np.abs(self.residual) / self.expected)


def robust_residuals(
    free: FloatArray,
    columns: Rows,
    delta: FloatArray,
    penalties: Sequence[float],
    sizes: IntArray,
    families: IntArray,
    kept: BoolArray,
) -> Residuals:
    """Leave-one-out residuals of a ridge fit that doubtful structures have no part in.

    Parameters
    ----------
    free, columns
        Unpenalised and penalised columns, shapes (n, n_free) and (n, n_columns).
    delta
        Targets in eV, shape (n,).
    penalties
        Tried in each round.
    sizes
        Numbers of atoms, shape (n,).
    families
        Numbers that structures of the same chemistry share, shape (n,).
    kept
        Structures that the first fit sees, booleans of shape (n,).
    """
    allowed = kept
    weights = np.where(kept, 1.0, _IGNORED)
    unusual = ~kept
    population = np.bincount(families)
    for _ in range(_ROUNDS):
        problem = RidgeProblem(free, columns, delta, weights)
        fit = min(
            problem.solve_all(penalties), key=lambda f: float(np.abs(f.leave_one_out[kept]).mean())
        )
        found = _scaled(fit, sizes, families, kept)
        score = found.score
        kept = allowed & (score < _DOUBTFUL)
        # What much of a family does is chemistry that the fit can learn if it sees it.
        odd = np.bincount(families[~kept], minlength=len(population))
        learn = allowed & ((odd >= 3) & (odd > population / 3))[families]
        kept |= learn
        weights = np.minimum(1.0, (_UNUSUAL / np.maximum(score, _UNUSUAL)) ** 2)
        weights[learn] = 1.0
        weights[~kept] = _IGNORED
        before, unusual = unusual, score > _UNUSUAL
        if np.array_equal(before, unusual):
            break
    return found


def _scaled(fit: RidgeFit, sizes: IntArray, families: IntArray, kept: BoolArray) -> Residuals:
    """Residuals with the robust spread among structures of about their size, and their family."""
    root = np.sqrt(1.0 + fit.leverage)
    student = np.abs(fit.leave_one_out) / root
    overall = max(_LEAST_SPREAD, MAD * float(np.median(student[kept])))
    scale = np.full(len(student), overall)
    order = np.argsort(sizes, kind="stable")
    for part in np.array_split(order, max(1, len(order) // 100)):
        if kept[part].any():
            scale[part] = max(
                _LEAST_SPREAD, 0.5 * overall, MAD * float(np.median(student[part][kept[part]]))
            )
    for family in range(int(families.max()) + 1):
        members = np.flatnonzero(families == family)
        if len(members) > _SMALL_FAMILY:
            scale[members] = np.maximum(scale[members], MAD * np.median(student[members]))
            continue
        # In small families a structure must not excuse itself.
        for i in members:
            others = student[members[members != i]]
            if len(others):
                scale[i] = max(scale[i], MAD * float(np.median(others)))
    return Residuals(fit.leave_one_out, scale * root, fit.leverage)
