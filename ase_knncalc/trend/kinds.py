"""Which trends there are, and fitting one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.descriptors import Descriptor, FeatureBatch
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.base import (
    TREND_KINDS,
    Trend,
    TrendFit,
    composition_columns,
    ridge_trend_fit,
)
from ase_knncalc.trend.force_labels import CurvatureLabels, ForceLabels
from ase_knncalc.trend.linear import LinearTrend, OffsetTrend
from ase_knncalc.trend.ridge import RidgeProblem
from ase_knncalc.trend.sparse import SparseSettings, SparseTrend
from ase_knncalc.trend.sparse_fit import fit_sparse

# Penalties tried, in units of the mean eigenvalue of the normal equations.
_RELATIVE_PENALTIES = 10.0 ** np.arange(-11.0, 0.0)


def trend_class(kind: str) -> type[Trend]:
    """Class of the trend of a kind.

    Raises
    ------
    SettingsError
        If there is no such kind.
    """
    classes: dict[str, type[Trend]] = {t.kind: t for t in (SparseTrend, LinearTrend, OffsetTrend)}
    if kind not in classes:
        raise SettingsError(f"trend must be one of {', '.join(TREND_KINDS)}, got {kind!r}")
    return classes[kind]


def fit_trend(
    kind: str,
    batch: FeatureBatch,
    delta: FloatArray,
    elements: tuple[int, ...],
    *,
    groups: Sequence[str] | None = None,
    weights: FloatArray | None = None,
    sparse: SparseSettings | None = None,
    seed: int = 0,
    descriptor: Descriptor | None = None,
    forces: ForceLabels | None = None,
    curvatures: CurvatureLabels | None = None,
    folds: int = 5,
    n_jobs: int = 1,
    progress: bool = False,
) -> TrendFit:
    """Fit the trend of one kind to Δ.

    Parameters
    ----------
    kind
        ``"sparse"``, ``"linear"`` or ``"none"``.
    batch
        Descriptors of the training structures.
    delta
        Reference minus baseline energy, eV, shape (n,).
    elements
        Atomic numbers, ascending.
    groups
        Labels (compositions) that are left out together in cross-validation.
    weights
        Of the structures in the fit, shape (n,).
    sparse, seed
        Settings of the sparse trend, and of its random choices.
    descriptor, forces, curvatures
        Δ forces for the sparse trend, and what gives the derivatives; Δ curvatures, which are used
        where there are forces.
    folds
        In which groups are left out where forces take part.
    n_jobs, progress
        Processes for rows of forces, and whether to show bars.
    """
    free = composition_columns(batch, elements)
    if kind == "none":
        problem = RidgeProblem(free, np.zeros((len(delta), 0)), delta, weights, groups)
        fit = problem.solve(1.0)
        return ridge_trend_fit(OffsetTrend(elements, fit.free_coefficients), fit, {})
    if kind == "linear":
        problem = RidgeProblem(free, batch.summed(), delta, weights, groups)
        # Of all columns: the problem drops eigenvalues that are zero.
        scale = float(problem.eigenvalues.sum()) / batch.local.shape[1] or 1.0
        fit = problem.best(scale * _RELATIVE_PENALTIES)
        trend = LinearTrend(
            elements,
            fit.free_coefficients,
            fit.coefficients,
            *problem.variance_factors(fit.penalty),
        )
        return ridge_trend_fit(trend, fit, {"penalty": fit.penalty})
    if kind == "sparse":
        return fit_sparse(
            batch,
            delta,
            elements,
            groups=groups,
            weights=weights,
            settings=sparse or SparseSettings(),
            seed=seed,
            descriptor=descriptor,
            forces=forces,
            curvatures=curvatures,
            folds=folds,
            n_jobs=n_jobs,
            progress=progress,
        )
    raise SettingsError(f"trend must be one of {', '.join(TREND_KINDS)}, got {kind!r}")
