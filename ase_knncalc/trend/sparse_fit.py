"""Fitting the sparse trend: inducing environments, normal equations, variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray
from ase_knncalc._lib.profiling import stage
from ase_knncalc.descriptors import Descriptor, FeatureBatch
from ase_knncalc.trend.base import TrendFit, composition_columns
from ase_knncalc.trend.choice import choose_environments
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.force_fit import EnergyRows, fit_with_forces, folds_of
from ase_knncalc.trend.force_labels import CurvatureLabels, ForceLabels
from ase_knncalc.trend.force_rows import ForceRows
from ase_knncalc.trend.kernels import EIGENVALUE_FLOOR, FORCES_FLOOR, unwhitened
from ase_knncalc.trend.local_metric import (
    metric_root,
    pilot_sample,
    slope_products,
    unseen_fold,
)
from ase_knncalc.trend.ridge import RidgeProblem
from ase_knncalc.trend.sparse import SparseSettings, SparseTrend, size_weights

# Distances in units of σ: beyond the range of kernels in float64, and below what means anything.
_FAR, _NEAR = 30.0, 1e-3
# Columns above which rows of forces are in single precision.
_DOUBLE = 2500
# Structures from which on a metric of environments is learned: fewer are needed to calibrate.
_METRIC_FROM = 500
# Structures and environments of the trend that teaches it, and labels that are enough for it.
_PILOT_FRAMES = 3000
_PILOT_ENVIRONMENTS = 400
_ENOUGH_LABELS = 200
# Structures whose distances are looked at in training.
_MOST_REMOTE = 20_000

# Standard deviation of offsets against that of the kernel, for features that have no free columns.
_FREE_SCALE = 30.0


def fit_sparse(
    batch: FeatureBatch,
    delta: FloatArray,
    elements: tuple[int, ...],
    *,
    groups: Sequence[str] | None,
    weights: FloatArray | None,
    settings: SparseSettings,
    seed: int,
    descriptor: Descriptor | None = None,
    forces: ForceLabels | None = None,
    curvatures: CurvatureLabels | None = None,
    folds: int = 5,
    n_jobs: int = 1,
    progress: bool = False,
) -> TrendFit:
    """Fit the sparse trend; arguments as for :func:`ase_knncalc.trend.kinds.fit_trend`.

    ``descriptor`` is needed (for its derivatives) where there are ``forces``.
    """
    roots, fair = None, None
    if settings.metric_exponent and len(batch) >= _METRIC_FROM:
        fair = unseen_fold(folds_of(groups, len(batch), folds))
    if fair is not None:
        with stage("trend: metric of environments"):
            roots = learned_roots(
                batch,
                delta,
                elements,
                ~fair,
                groups=groups,
                weights=weights,
                settings=settings,
                seed=seed,
                descriptor=descriptor,
                forces=forces,
                folds=folds,
                n_jobs=n_jobs,
                progress=progress,
            )
    with stage("trend: choice of environments"):
        environments = choose_environments(batch, elements, settings, seed, roots)
    if settings.size_exponent:
        by_size = size_weights(batch.sizes, settings.size_exponent)
        weights = by_size if weights is None else weights * by_size
    free = composition_columns(batch, elements)
    with_forces = forces is not None and len(forces) > 0 and descriptor is not None
    floor = FORCES_FLOOR if with_forces else EIGENVALUE_FLOOR
    whiteners = environments.whiteners(floor)
    # The variance comes from a smaller problem of its own, so that it stays cheap and small.
    variance_counts = np.minimum(environments.counts, settings.variance_environments)
    variance_whiteners = environments.first(variance_counts).whiteners(floor)
    with stage("trend: kernels with the environments"):
        columns, variance_columns = environments.columns(batch, whiteners, variance_whiteners)
    if with_forces:
        assert forces is not None
        assert descriptor is not None
        wide = columns.shape[1] > _DOUBLE
        found = fit_with_forces(
            EnergyRows(
                free,
                columns,
                variance_columns,
                delta,
                np.ones(len(delta)) if weights is None else weights,
            ),
            forces,
            ForceRows(
                environments,
                descriptor,
                whiteners,
                variance_whiteners,
                settings.force_rows,
                settings.minima_rows,
                settings.minima_weight,
                settings.size_exponent,
                "float32" if wide else "float64",
            ),
            groups,
            fair=fair,
            curvatures=curvatures,
            penalties=settings.penalties,
            force_weights=settings.force_weights,
            n_folds=folds,
            seed=seed,
            n_jobs=n_jobs,
            progress=progress,
        )
        offsets, coefficients, details = found.free, found.coefficients, found.details
        variance_factors = found.variance_factors
    else:
        with stage("trend: normal equations"):
            main = RidgeProblem(free, columns, delta, weights, groups)
        with stage("trend: structures and groups left out"):
            # Its own leverage is not needed: that of the smaller problem stands for it.
            fit = main.best(settings.penalties, group_leverage=False)
        del main
        with stage("trend: posterior variance"):
            small = RidgeProblem(free, variance_columns, delta, weights, groups)
            variance_fit = small.solve(fit.penalty)
            variance_factors = small.variance_factors(fit.penalty)
        offsets, coefficients = fit.free_coefficients, fit.coefficients
        details = {"penalty": fit.penalty}
    with stage("trend: distances of environments"):
        spacings, remoteness = _spacings(environments, batch, np.random.default_rng(seed))
    free_map, shift, factor = variance_factors
    trend = SparseTrend(
        environments=environments,
        offsets=offsets,
        coefficients=unwhitened(whiteners, coefficients),
        variance_counts=variance_counts,
        free_map=free_map,
        shift=shift,
        factor=unwhitened(variance_whiteners, factor),
        spacings=spacings,
    )
    details = {"environments": environments.counts.tolist(), **details}
    if with_forces:
        return TrendFit(
            trend,
            found.leave_one_out,
            found.leave_group_out,
            found.leverage,
            found.group_leverage,
            details,
            found.held_out,
            remoteness,
            found.not_minima,
            fair,
        )
    return TrendFit(
        trend,
        fit.leave_one_out,
        fit.leave_group_out,
        variance_fit.leverage,
        variance_fit.group_leverage,
        details,
        remoteness=remoteness,
        fair=fair,
    )


def learned_roots(
    batch: FeatureBatch,
    delta: FloatArray,
    elements: tuple[int, ...],
    seen: BoolArray,
    *,
    groups: Sequence[str] | None,
    weights: FloatArray | None,
    settings: SparseSettings,
    forces: ForceLabels | None,
    **options: Any,
) -> list[FloatArray]:
    """Root of the metric of each element, from a small trend of a part of the structures.

    What is left out in the first fold is not among ``seen``: a metric knows the structures that it
    comes from so well that their errors, left out later, are far too small. Of elements that only
    others have it knows nothing.
    """
    named = [str(i) for i in range(len(batch))] if groups is None else groups
    labelled = np.zeros(len(batch), dtype=bool) if forces is None else forces.computed(len(batch))
    sample = pilot_sample(named, batch.sizes, seen, labelled, _PILOT_FRAMES, options["seed"])
    part = batch.select(sample)
    few = min(settings.environments, _PILOT_ENVIRONMENTS)
    present = tuple(z for z in elements if np.any(part.numbers == z))
    pilot = fit_sparse(
        part,
        delta[sample],
        present,
        groups=[named[i] for i in sample],
        weights=None if weights is None else weights[sample],
        settings=replace(settings, environments=few, metric_exponent=0.0),
        forces=None if forces is None else forces.select(sample),
        **options,
    ).trend
    assert isinstance(pilot, SparseTrend)
    # Where forces were computed, the trend has been told its slopes.
    asked = np.flatnonzero(labelled[sample])
    if len(asked) >= _ENOUGH_LABELS:
        part = part.select(asked)
    products = dict(
        zip(present, slope_products(pilot.environments, pilot.coefficients, part), strict=True)
    )
    nothing = np.zeros((part.local.shape[1],) * 2)
    return [metric_root(products.get(z, nothing), settings.metric_exponent) for z in elements]


def _spacings(
    environments: Environments, batch: FeatureBatch, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Usual distances of training atoms to environments not their own, and each structure's.

    Returns
    -------
    spacings : ndarray, shape (n_elements,)
    remoteness : ndarray, shape (n_structures,)
        As :meth:`SparseTrend.evaluate` gives it for structures that are not in training; of
        very many, those of a sample, and their median for the others.
    """
    n = len(batch)
    looked_at = np.arange(n)
    if n > _MOST_REMOTE:
        looked_at = np.sort(rng.choice(n, _MOST_REMOTE, replace=False))
        batch = batch.select(looked_at)
    distance = environments.distances(batch, others=True)
    # An element with one environment has no other to be near to.
    known = distance < _FAR
    spacings = np.array(
        [
            np.median(distance[mask]) if (mask := known & (batch.numbers == z)).any() else np.nan
            for z in environments.elements
        ]
    )
    usual = np.nanmedian(spacings) if np.isfinite(spacings).any() else 1.0
    spacings = np.maximum(np.where(np.isfinite(spacings), spacings, usual), _NEAR)
    relative = distance / spacings[np.searchsorted(environments.elements, batch.numbers)]
    found = batch.sum_atoms(np.where(known, relative, 1.0)) / batch.sizes
    remoteness = np.full(n, np.median(found))
    remoteness[looked_at] = found
    return spacings, remoteness


def whitened_features(
    batch: FeatureBatch, elements: tuple[int, ...], settings: SparseSettings, seed: int
) -> FloatArray:
    """Rows whose products are the kernel of structures, shape (n_structures, n_columns).

    With ``settings.variance_environments`` inducing environments of each element, and the counts of
    elements and the charge as columns of a variance far above the kernel's.
    """
    few = replace(settings, environments=settings.variance_environments)
    environments = choose_environments(batch, elements, few, seed)
    (columns,) = environments.columns(batch, environments.whiteners())
    return np.hstack([columns[:], _FREE_SCALE * composition_columns(batch, elements)])
