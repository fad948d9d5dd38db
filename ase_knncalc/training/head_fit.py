"""The equations of heads, their errors left out, and what these calibrate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from ase import Atoms

from ase_knncalc._lib.arguments import Count, NotNegative, Positive, Seed, Settings, Several
from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc._lib.constants import MAD
from ase_knncalc.descriptors import Descriptor, FeatureBatch
from ase_knncalc.heads.head import Head, Posterior, free_columns, signals_of
from ase_knncalc.heads.targets import PropertyTarget
from ase_knncalc.heads.thermal import OUTPUTS
from ase_knncalc.training.dipoles import DipoleProblem, charge_slopes, dipole_columns
from ase_knncalc.training.slopes import random_slopes
from ase_knncalc.trend.base import composition_columns
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.force_fit import folds_of
from ase_knncalc.trend.kernels import FORCES_FLOOR, unwhitened, whitened
from ase_knncalc.trend.ridge import RidgeProblem
from ase_knncalc.trend.targets import TargetFit, TargetProblem, best_penalty
from ase_knncalc.uncertainty import Calibration, calibrate

# Distances in units of σ: beyond the range of kernels, and below what means anything.
_FAR, _NEAR = 30.0, 1e-3
# Labels further from what compositions say than this many robust standard deviations are absurd.
_ABSURD = 25.0
_REWEIGHTED = 20
# Prior variance of what sources of labels differ by beside their offsets, relative to the property:
# 0.01 to 1 is alike for the two of DLPNO-CCSD(T).
_BETWEEN = 0.1
# Most structures whose atoms move, where slopes are looked at.
_MOVED = 1000
# Eigenvalues below this fraction of the largest are rounding noise.
_NOISE = 1e-13


@dataclass(frozen=True)
class HeadSettings(Settings):
    """How heads are made.

    Parameters
    ----------
    environments
        Most inducing environments of an element, of those that the trend has.
    variance_environments, dipole_environments
        Those that the posterior variance uses, and dipoles.
    penalties
        Tried on compositions left out.
    folds
        Of cross-validation.
    dipoles
        Most structures whose baseline dipole is computed, where they bring none along.
    slopes
        Weight of the rows that keep charges of dipoles as they are where atoms move; 0 is none.
    level_slopes
        The same of what a level of theory adds to the energy, which else has wild forces.
    seed
        Of random folds, of which these are, and how atoms move.
    """

    environments: Count = 600
    variance_environments: Count = 80
    dipole_environments: Count = 160
    penalties: Several[Positive] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    folds: Annotated[Count, Ge(2)] = 5
    dipoles: Count = 2500
    slopes: NotNegative = 0.05
    level_slopes: NotNegative = 0.01
    seed: Seed = 0


@dataclass(frozen=True)
class Labels:
    """Labels of one target.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Frames that have them.
    values : ndarray, shape (m, n_outputs)
    sets : list of str
        Source of each label; empty if they are not told apart.
    base : ndarray, shape (m, 3), or None
        Of dipoles, the baseline's, e Å.
    """

    rows: IntArray
    values: FloatArray
    sets: list[str]
    base: FloatArray | None = None


@dataclass(frozen=True)
class HeadColumns:
    """Kernels of structures with the environments that heads share.

    Attributes
    ----------
    free : ndarray, shape (n, n_elements + 2)
    columns, variance_columns : ndarray, shape (n, …)
        Whitened sums, float32 the first.
    whiteners, variance_whiteners : list of ndarray
    distances : ndarray, shape (n_atoms_total,)
        Of each atom to environments other than itself.
    """

    free: FloatArray
    columns: FloatArray
    variance_columns: FloatArray
    whiteners: list[FloatArray]
    variance_whiteners: list[FloatArray]
    distances: FloatArray


def head_columns(
    environments: Environments, batch: FeatureBatch, variance_environments: int
) -> HeadColumns:
    """One pass over the descriptors."""
    few = environments.first(np.minimum(environments.counts, variance_environments))
    bases = environments.whiteners(FORCES_FLOOR), few.whiteners(FORCES_FLOOR)
    widths = [sum(w.shape[1] for w in of) for of in bases]
    columns = np.empty((len(batch), widths[0]), dtype=np.float32)
    variance_columns = np.empty((len(batch), widths[1]))
    distances = np.empty(len(batch.numbers))
    for block in environments.kernels(batch):
        sums = block.sums()
        columns[block.rows] = whitened(sums, bases[0])
        variance_columns[block.rows] = whitened(sums, bases[1])
        distances[batch.atoms_of(block.rows)] = block.distances(others=True)
    free = composition_columns(batch, environments.elements)
    return HeadColumns(free, columns, variance_columns, *bases, distances)


@dataclass(frozen=True)
class Described:
    """Structures as heads see them.

    Attributes
    ----------
    frames : list of Atoms
    batch : FeatureBatch
    environments : Environments
        That heads share.
    columns : HeadColumns
    descriptor : Descriptor
    """

    frames: Sequence[Atoms]
    batch: FeatureBatch
    environments: Environments
    columns: HeadColumns
    descriptor: Descriptor


@dataclass(frozen=True)
class _Solved:
    """Coefficients of k outputs, and prediction minus label of what was left out, (n, k)."""

    penalty: float
    offsets: FloatArray
    coefficients: FloatArray
    counts: IntArray
    errors: FloatArray
    group_errors: FloatArray


@dataclass(frozen=True)
class FittedHead:
    """A head, and what it says of m structures that were left out.

    Attributes
    ----------
    head : Head
    rows : ndarray of int, shape (m,)
        Frames that it learned from.
    errors, group_errors : ndarray, shape (m, n_outputs)
        Prediction minus label by the fit without the fold of the structure, or of its composition.
    stds, group_stds : ndarray, shape (m, n_outputs)
        Calibrated standard deviations that go with these.
    """

    head: Head
    rows: IntArray
    errors: FloatArray
    group_errors: FloatArray
    stds: FloatArray
    group_stds: FloatArray


def fit_head(
    target: PropertyTarget, labels: Labels, of: Described, settings: HeadSettings
) -> FittedHead:
    """The head of one target."""
    shared = of.columns
    sets, places = _by_size(labels.sets or [""] * len(labels.rows))
    own_free = free_columns(shared.free[labels.rows], target.kind)
    free = _with_sets(own_free, places, len(sets))
    sound = _sound(free, labels.values)
    rows, values, free = labels.rows[sound], labels.values[sound], free[sound]
    groups = [str(of.frames[i].info["composition"]) for i in rows]
    folds = (
        folds_of(groups, len(rows), settings.folds),
        np.random.default_rng(settings.seed).permutation(len(rows)) % settings.folds,
    )
    if labels.base is None:
        columns = _with_differences(shared, rows, places[sound], len(sets))
        with_slopes = target.kind == "level" and settings.level_slopes > 0
        moved = _moved(len(rows) if with_slopes else 0, settings)
        slopes = np.zeros((len(moved), columns.shape[1]), dtype=columns.dtype)
        if with_slopes:
            slopes[:, : shared.columns.shape[1]] = settings.level_slopes * random_slopes(
                of.environments,
                shared.whiteners,
                of.descriptor,
                [of.frames[i] for i in rows[moved]],
                settings.seed,
            )
        solved = _ridge(
            _Rows(free, columns, values, folds),
            _Rows(
                np.zeros((len(moved), free.shape[1])),
                slopes,
                np.zeros((len(moved), values.shape[1])),
                (folds[0][moved], folds[1][moved]),
            ),
            own_free.shape[1],
            shared,
            settings,
        )
    else:
        solved = _dipoles(labels.base[sound], values[:, 0], of, rows, folds, settings)
    # The same variance for all outputs: what is known of a structure does not depend on them.
    small = RidgeProblem(free, shared.variance_columns[rows], values[:, 0], None, groups)
    variance = small.solve(solved.penalty)
    free_map, shift, factor = small.variance_factors(solved.penalty)
    sizes = of.batch.sizes[rows]
    elements = of.environments.elements
    spacings, remoteness = _spacings(elements, of.batch, shared.distances, rows)
    one_out = signals_of(variance.leverage, sizes, remoteness)
    group_out = signals_of(variance.group_leverage, sizes, remoteness)
    errors, group_errors = solved.errors, solved.group_errors
    calibrations = tuple(
        calibrate(one_out, errors[:, k], group_out, group_errors[:, k])
        for k in range(values.shape[1])
    )
    stds, group_stds = (
        np.column_stack([c.std(signals) for c in calibrations]) for signals in (one_out, group_out)
    )
    outputs = OUTPUTS if target.kind == "thermochemistry" else (target.name,)
    details = {
        "target": asdict(target),
        "structures": len(rows),
        "compositions": len(set(groups)),
        "penalty": solved.penalty,
        "left_out": [str(of.frames[i].info["name"]) for i in labels.rows[~sound]],
        "sets": sets if labels.sets else [],
        "errors": {
            name: {
                "mae": float(np.abs(errors[:, k]).mean()),
                "group_mae": float(np.abs(group_errors[:, k]).mean()),
                "inside_90": _inside(calibrations[k], stds[:, k], errors[:, k]),
                "group_inside_90": _inside(calibrations[k], group_stds[:, k], group_errors[:, k]),
            }
            for k, name in enumerate(outputs)
        },
    }
    head = Head(
        name=target.name,
        kind=target.kind,  # type: ignore[arg-type]
        unit=target.unit,
        outputs=outputs,
        counts=solved.counts,
        offsets=solved.offsets,
        coefficients=solved.coefficients,
        posterior=Posterior(
            np.array([len(w) for w in shared.variance_whiteners]),
            free_map,
            shift,
            unwhitened(shared.variance_whiteners, factor),
            spacings,
        ),
        calibrations=calibrations,
        details=details,
    )
    return FittedHead(head, rows, errors, group_errors, stds, group_stds)


@dataclass(frozen=True)
class _Rows:
    """Rows of equations: free columns, others, targets, and folds of groups and random ones."""

    free: FloatArray
    columns: FloatArray
    values: FloatArray
    folds: tuple[IntArray, IntArray]


def _ridge(
    labels: _Rows, slopes: _Rows, n_free: int, shared: HeadColumns, settings: HeadSettings
) -> _Solved:
    """Numbers that are linear in the columns, with slopes that are to be small.

    Of the free columns the first ``n_free`` are kept, of the others those that are shared: what is
    beside them says what further sources differ by.
    """
    n, back = len(labels.values), None
    free, columns, values = (
        np.vstack([getattr(labels, name), getattr(slopes, name)])
        for name in ("free", "columns", "values")
    )
    groups, random = (np.concatenate(of) for of in zip(labels.folds, slopes.folds, strict=True))
    if len(columns) < columns.shape[1]:
        columns, back = _spanned(columns)
    penalty, group_errors, fit = _best(TargetProblem(free, columns, values, groups), n, settings)
    errors = TargetProblem(free, columns, values, random).left_out(penalty)[:n]
    coefficients = fit.coefficients if back is None else back @ fit.coefficients
    return _Solved(
        penalty,
        fit.free[:n_free],
        unwhitened(shared.whiteners, coefficients[: shared.columns.shape[1]]),
        np.array([len(w) for w in shared.whiteners]),
        errors,
        group_errors,
    )


def _best(
    problem: TargetProblem, n: int, settings: HeadSettings
) -> tuple[float, FloatArray, TargetFit]:
    """Penalty, errors of the first n rows left out with their groups, and the fit to all."""
    penalty, errors = best_penalty(lambda p: problem.left_out(p)[:n], settings.penalties)
    return penalty, errors, problem.solve(penalty)


def _moved(n: int, settings: HeadSettings) -> IntArray:
    """Which of n structures have their atoms moved."""
    return np.random.default_rng(settings.seed).permutation(n)[:_MOVED]


def _with_differences(
    shared: HeadColumns, rows: IntArray, places: IntArray, n_sets: int
) -> FloatArray:
    """Columns of structures, and for each source but the first those of few environments again."""
    few = np.sqrt(_BETWEEN) * shared.variance_columns[rows]
    more = [np.where((places == k)[:, None], few, 0.0) for k in range(1, n_sets)]
    return np.hstack([shared.columns[rows], *more])


def _spanned(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Columns of few structures in the space that they span, and the way back.

    As the penalty is the same in all directions, the ridge problem is the same.
    """
    columns = columns.astype(np.float64)
    values, left = np.linalg.eigh(columns @ columns.T)
    kept = values > _NOISE * values[-1]
    left, sizes = left[:, kept], np.sqrt(values[kept])
    return left * sizes, columns.T @ (left / sizes)


def _dipoles(
    base: FloatArray,
    magnitudes: FloatArray,
    of: Described,
    rows: IntArray,
    folds: tuple[IntArray, IntArray],
    settings: HeadSettings,
) -> _Solved:
    """Dipoles, of which magnitudes are known (e Å)."""
    few = of.environments.first(np.minimum(of.environments.counts, settings.dipole_environments))
    whiteners = few.whiteners(FORCES_FLOOR)
    frames = [of.frames[i] for i in rows]
    columns = dipole_columns(few, whiteners, of.batch.select(rows), [a.positions for a in frames])
    slopes = np.zeros(columns.shape)
    moved = _moved(len(rows), settings)
    if settings.slopes > 0:
        slopes[moved] = settings.slopes * charge_slopes(
            few, whiteners, of.descriptor, [frames[i] for i in moved], settings.seed
        )
    problem = DipoleProblem(base, columns, magnitudes, slopes)
    penalty, group_errors = best_penalty(
        lambda p: problem.left_out(p, folds[0])[:, None], settings.penalties
    )
    found = problem.solve(penalty, np.arange(len(rows)))
    n = len(few.elements)
    offsets = np.zeros((n + 2, 1))
    offsets[:n, 0] = found[:n]
    return _Solved(
        penalty,
        offsets,
        unwhitened(whiteners, found[n:, None]),
        few.counts,
        problem.left_out(penalty, folds[1])[:, None],
        group_errors,
    )


def _by_size(sets: Sequence[str]) -> tuple[list[str], IntArray]:
    """Different sources, that of most labels first, and which each label came from."""
    order = [name for name, _ in Counter(sets).most_common()]
    place = {name: k for k, name in enumerate(order)}
    return order, np.array([place[name] for name in sets], dtype=np.intp)


def _with_sets(free: FloatArray, places: IntArray, n_sets: int) -> FloatArray:
    """Composition columns, and for each source but the first the same again: its offsets."""
    more = [np.where((places == k)[:, None], free, 0.0) for k in range(1, n_sets)]
    return np.hstack([free, *more])


def _sound(free: FloatArray, values: FloatArray) -> BoolArray:
    """Which labels are not absurd: far from what compositions say, by orders of magnitude."""
    kept = np.ones(len(values), dtype=bool)
    for y in values.T:
        weights = np.ones(len(y))
        for _ in range(_REWEIGHTED):
            # Least absolute deviations: one absurd label must not draw the offsets to itself.
            root = np.sqrt(weights)
            offsets = np.linalg.lstsq(root[:, None] * free, root * y, rcond=None)[0]
            rest = np.abs(y - free @ offsets)
            usual = max(MAD * float(np.median(rest)), 1e-300)
            weights = 1.0 / np.maximum(rest, 0.1 * usual)
        kept &= rest <= _ABSURD * usual
    return kept


def _spacings(
    elements: Sequence[int], batch: FeatureBatch, distances: FloatArray, rows: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Usual distances of atoms of each element to environments, and each structure's mean."""
    member = np.zeros(len(batch), dtype=bool)
    member[rows] = True
    atoms = np.repeat(member, batch.sizes)
    known = distances < _FAR
    spacings = np.ones(len(elements))
    for e, number in enumerate(elements):
        mask = atoms & known & (batch.numbers == number)
        if mask.any():
            spacings[e] = max(float(np.median(distances[mask])), _NEAR)
    relative = distances / spacings[np.searchsorted(elements, batch.numbers)]
    means = batch.sum_atoms(np.where(known, relative, 1.0)) / batch.sizes
    return spacings, np.asarray(means[rows])


def _inside(calibration: Calibration, stds: FloatArray, errors: FloatArray) -> float:
    return float(np.mean(np.abs(errors) <= calibration.multiple(0.9) * stds))
