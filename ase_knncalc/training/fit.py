"""From arrays to a model: trend → metric → neighbours → calibration, in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc._lib.constants import MAD
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.profiling import stage
from ase_knncalc._lib.progress import track
from ase_knncalc.baselines import Baseline
from ase_knncalc.data import Omission
from ase_knncalc.errors import TrainingError
from ase_knncalc.info import HeldOutErrors, ModelInfo, Provenance, source_table
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.kernel_map import KernelMap, fit_kernel_map
from ase_knncalc.knn.metrics import KernelMetric, LinearMetric
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.knn.weights import OFF, KNNSettings
from ase_knncalc.labels.training_data import TrainingData
from ase_knncalc.model import KNNModel
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.structure import label_bytes
from ase_knncalc.training.bandwidth import HeldOut, tune_kernel
from ase_knncalc.training.metric import fit_metric, metric_rows
from ase_knncalc.trend.base import Trend, TrendFit, composition_columns
from ase_knncalc.trend.kinds import fit_trend, trend_class
from ase_knncalc.uncertainty import (
    Calibration,
    ForceCalibration,
    Signals,
    calibrate,
    calibrate_forces,
)


@dataclass(frozen=True)
class Origin:
    """What a model says of its data that arrays do not tell; nothing of a model for a moment.

    Attributes
    ----------
    baseline : Baseline or None
    reference : str
        Name of the high level.
    monomers, states
        As in :class:`~ase_knncalc.info.ModelInfo`.
    sources : list of str
        File of each structure, as :func:`~ase_knncalc.info.source_table` takes it.
    citations : list of str
    omitted : list of Omission
        Frames that are not in the data, and why.
    """

    baseline: Baseline | None = None
    reference: str = ""
    monomers: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[list[int]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    omitted: list[Omission] = field(default_factory=list)


@dataclass(frozen=True)
class FittedModel:
    """A model, and the held-out errors that it was calibrated with.

    Attributes
    ----------
    model : KNNModel
    trend_fit : TrendFit
    held_out_errors, held_out_std : ndarray, shape (n,)
        Cross-validated error and predicted standard deviation of each structure, eV.
    """

    model: KNNModel
    trend_fit: TrendFit
    held_out_errors: FloatArray
    held_out_std: FloatArray


# Residuals beyond this many robust standard deviations are taken back to it.
_WINSOR = 6.0


def winsorized(residuals: FloatArray) -> FloatArray:
    """Residuals for metric and neighbours: a bad label must not decide what its neighbours get."""
    scale = MAD * float(np.median(np.abs(residuals)))
    return np.clip(residuals, -_WINSOR * scale, _WINSOR * scale) if scale > 0 else residuals


def _anchored(fit: TrendFit, data: TrainingData) -> TrendFit:
    """Monomers with what the trend leaves over there, not with what it would without them.

    They are the zero of binding by their weight: the k-NN term must not move it, and an error from
    a fit without its own zero says nothing of clusters.
    """
    anchors = data.weights > 1
    if not anchors.any():
        return fit
    one_out, group_out = fit.leave_one_out.copy(), fit.leave_group_out.copy()
    left = data.delta[anchors] - fit.trend.predict(data.batch.select(np.flatnonzero(anchors)))
    one_out[anchors] = group_out[anchors] = left
    return replace(fit, leave_one_out=one_out, leave_group_out=group_out)


# Metrics of cross-validation folds learn from fewer structures: ten of them are needed.
_FOLD_METRIC_SAMPLES = 1500
# Structures held out with their group that calibration looks at.
_CALIBRATED = 20_000


def _as_loaded(trend: Trend) -> Trend:
    """The trend with its arrays laid out as a file gives them back: BLAS rounds by the layout."""
    arrays = {name: np.asarray(value, order="C") for name, value in trend.arrays().items()}
    return trend_class(trend.kind).from_arrays(trend.elements, arrays)


def fit_model(
    data: TrainingData,
    settings: TrainingSettings | None = None,
    *,
    origin: Origin | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> FittedModel:
    """Fit trend, metric, neighbours and calibration to described structures.

    ``origin`` is what the model will say of its data; ``n_jobs`` processes learn the metrics of the
    cross-validation folds.

    Raises
    ------
    TrainingError
        If there are fewer than 2 structures, or more neighbours than structures are asked for.
    """
    settings = settings or TrainingSettings()
    batch, groups = data.batch, data.groups
    n = len(data)
    if n < 2:
        raise TrainingError(f"training needs at least 2 labelled structures, got {n}")
    if settings.k > n:
        raise TrainingError(f"k = {settings.k} neighbours asked for, but only {n} structures")
    trend_fit = fit_trend(
        settings.trend,
        batch,
        data.delta,
        data.descriptor.elements,
        groups=groups,
        weights=data.weights,
        sparse=settings.sparse,
        seed=settings.seed,
        descriptor=data.descriptor,
        forces=data.forces,
        curvatures=data.curvatures,
        folds=settings.folds,
        n_jobs=n_jobs,
        progress=progress,
    )
    trend_fit = _anchored(trend_fit, data)
    fair = np.ones(n, dtype=bool) if trend_fit.fair is None else trend_fit.fair
    residuals = winsorized(trend_fit.leave_one_out)
    kernel_map = _kernel_map(data, settings)
    with stage("global descriptors"):
        summed = batch.summed() if kernel_map is None else kernel_map.features(batch)
    with stage("metrics of the folds"):
        held_out, by_group = _held_out(summed, trend_fit, groups, settings, n_jobs, progress)
    with stage("width of the k-NN term"):
        knn_settings, tuned = _knn_settings(
            settings, held_out, by_group, bool(trend_fit.details.get("force_frames"))
        )
    with stage("metric"):
        linear, story = fit_metric(summed, residuals, settings)
        linear = replace(linear, elements=batch.by_element)
        knn = KNNTerm(NeighborIndex(linear.project(summed)), residuals, knn_settings)
    with stage("calibration"):
        calibration, errors, std, group_errors = _calibrate(
            trend_fit,
            held_out,
            by_group,
            knn_settings,
            batch.sizes,
            _off_equilibrium(data),
            fair,
            settings.seed,
        )
    origin = origin or Origin()
    sources, source_of = source_table(origin.sources)
    info = ModelInfo(
        baseline=origin.baseline.spec() if origin.baseline is not None else {},
        reference=origin.reference,
        charges=sorted({int(q) for q in batch.charges}),
        n_structures=n,
        size_range=[int(batch.sizes.min()), int(batch.sizes.max())],
        errors={
            "mae": float(np.abs(errors[fair]).mean()),
            "rmse": float(np.sqrt(np.mean(errors[fair] ** 2))),
            "trend_mae": float(np.abs(trend_fit.leave_one_out[fair]).mean()),
            "group_mae": float(np.abs(group_errors).mean()),
            "group_trend_mae": float(np.abs(trend_fit.leave_group_out[fair]).mean()),
        },
        provenance=Provenance(
            settings=json.loads(json.dumps(asdict(settings))),
            trend=_trend_details(trend_fit, data),
            knn=tuned,
            metric=story,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            sources=sources,
            source_of=source_of,
            citations=origin.citations,
            compositions=len(set(groups)),
            omitted=[asdict(o) for o in origin.omitted],
        ),
        monomers=origin.monomers,
        states=origin.states,
    )
    model = KNNModel(
        descriptor=data.descriptor,
        trend=_as_loaded(trend_fit.trend),
        metric=linear if kernel_map is None else KernelMetric(kernel_map, linear),
        knn=knn,
        names=label_bytes(data.names),
        compositions=label_bytes(groups),
        calibration=calibration,
        info=info,
        baseline=origin.baseline,
        force_calibration=_force_calibration(trend_fit),
        held_out=_held_out_record(data, errors, std, fair),
    )
    return FittedModel(model, trend_fit, errors, std)


def _trend_details(fit: TrendFit, data: TrainingData) -> dict[str, Any]:
    """What the fit of the trend says of itself, structures by name."""
    if not len(fit.not_minima):
        return fit.details
    return {**fit.details, "not_minima": [data.names[i] for i in fit.not_minima]}


def _kernel_map(data: TrainingData, settings: TrainingSettings) -> KernelMap | None:
    if not settings.metric.startswith("kernel"):
        return None
    return fit_kernel_map(
        data.batch,
        data.descriptor.elements,
        sigma=settings.kernel_width,
        normalized=settings.metric == "kernel-normalised",
        n_landmarks=settings.kernel_landmarks,
        seed=settings.seed,
    )


def _off_equilibrium(data: TrainingData) -> BoolArray:
    """Which structures have forces that somebody computed, shape (n,)."""
    n = len(data)
    return np.zeros(n, dtype=bool) if data.forces is None else data.forces.computed(n)


def _held_out_record(
    data: TrainingData, errors: FloatArray, std: FloatArray, fair: BoolArray
) -> HeldOutErrors:
    return HeldOutErrors(
        (-errors).astype(np.float32),
        std.astype(np.float32),
        data.delta,
        composition_columns(data.batch, data.descriptor.elements).astype(np.int16),
        fair,
    )


def _force_calibration(fit: TrendFit) -> ForceCalibration | None:
    held = fit.held_out_forces
    if held is None:
        return None
    return calibrate_forces(fit.trend.elements, held.numbers, held.leverage, held.errors)


def _held_out(
    summed: FloatArray,
    trend_fit: TrendFit,
    groups: Sequence[str],
    settings: TrainingSettings,
    n_jobs: int,
    progress: bool,
) -> tuple[list[HeldOut], list[HeldOut]]:
    """Folds with their own metric: a metric that has seen a structure flatters it."""
    from sklearn.model_selection import GroupKFold, KFold

    n = len(summed)
    truth = trend_fit.leave_one_out
    residuals = winsorized(truth)
    folds = [
        (train, test, truth[test])
        for train, test in KFold(
            min(settings.folds, n), shuffle=True, random_state=settings.seed
        ).split(summed)
    ]
    n_random = len(folds)
    n_groups = len(set(groups))
    if n_groups > 1:
        folds += [
            (train, test, trend_fit.leave_group_out[test])
            for train, test in GroupKFold(min(settings.folds, n_groups)).split(
                summed, groups=list(groups)
            )
        ]
    jobs = []
    for known, _, _ in folds:
        # Only what a metric learns from travels to where it is learned.
        rows = known
        if settings.metric == "mlkr":
            rows = known[metric_rows(len(known), settings, _FOLD_METRIC_SAMPLES)[0]]
        jobs.append((summed[rows], residuals[rows], settings))
    metrics = run(_fold_metric, jobs, total=len(jobs), n_jobs=n_jobs)
    parts = []
    shown = track(metrics, total=len(folds), text="metrics of the folds", show=progress)
    for (known, test, truth), metric in zip(folds, shown, strict=True):
        points = summed if metric is None else metric.project(summed)
        parts.append(
            HeldOut(test, points[test], truth, NeighborIndex(points[known]), residuals[known])
        )
    return parts[:n_random], parts[n_random:]


def _fold_metric(
    summed: FloatArray, residuals: FloatArray, settings: TrainingSettings
) -> LinearMetric | None:
    return fit_metric(summed, residuals, settings)[0] if len(summed) > 1 else None


def _knn_settings(
    settings: TrainingSettings,
    held_out: list[HeldOut],
    by_group: list[HeldOut],
    with_forces: bool,
) -> tuple[KNNSettings, dict[str, Any]]:
    weights = settings.resolved_weights
    if weights not in ("kernel", "kriging"):
        return KNNSettings(settings.k, weights), {}
    if settings.bandwidth is not None and settings.nugget is not None:
        return (
            KNNSettings(settings.k, weights, settings.bandwidth, settings.nugget),
            {},
        )
    tuned, details = tune_kernel(held_out, by_group, settings.k, weights, settings.seed)
    if with_forces:
        # Residuals say nothing of the slope between them: on frames with forces the term took the
        # energy error down by a tenth and the force error up by a factor of two.
        tuned = replace(tuned, nugget=OFF)
    return tuned, details


def _calibrate(
    trend_fit: TrendFit,
    held_out: list[HeldOut],
    by_group: list[HeldOut],
    knn_settings: KNNSettings,
    sizes: IntArray,
    off_equilibrium: BoolArray,
    fair: BoolArray,
    seed: int,
) -> tuple[Calibration, FloatArray, FloatArray, FloatArray]:
    """Calibration, errors and standard deviations of all structures, errors of the group split.

    Those of the group split, and what the calibration sees, are of fair structures.
    """
    rng = np.random.default_rng(seed)

    def collect(
        parts: list[HeldOut], leverage: FloatArray, most: int
    ) -> tuple[Signals, FloatArray, IntArray]:
        members, truth, found = [], [], []
        for whole in parts:
            part = whole.sample(most // len(parts), rng)
            term = KNNTerm(part.index, part.residuals, knn_settings)
            found += term.evaluate_many(part.points)
            members.append(part.members)
            truth.append(part.truth)
        order = np.argsort(np.concatenate(members))
        rows = np.concatenate(members)[order]
        estimates = [found[i] for i in order]
        errors = np.concatenate(truth)[order] - np.array([e.mean for e in estimates])
        remoteness = None if trend_fit.remoteness is None else trend_fit.remoteness[rows]
        signals = Signals.of(leverage[rows], estimates, sizes[rows], remoteness)
        return signals, errors, rows

    # All of them: a model keeps the error of each of its structures.
    signals, errors, _ = collect(held_out, trend_fit.leverage, len(sizes) * len(held_out))
    seen, off = signals.take(fair), off_equilibrium[fair]
    if not by_group:
        calibration = calibrate(seen, errors[fair], off_equilibrium=off)
        return calibration, errors, calibration.std(signals), errors[fair]
    # Folds of groups may be of any size: of few structures all count.
    most = _CALIBRATED if len(sizes) > _CALIBRATED else len(sizes) * len(by_group)
    group_signals, group_errors, rows = collect(by_group, trend_fit.group_leverage, most)
    kept = fair[rows]
    group_errors = group_errors[kept]
    calibration = calibrate(
        seen,
        errors[fair],
        group_signals.take(kept),
        group_errors,
        off_equilibrium=off,
        group_off_equilibrium=off_equilibrium[rows[kept]],
    )
    return calibration, errors, calibration.std(signals), group_errors
