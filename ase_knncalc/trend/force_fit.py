"""Fitting the sparse trend to energies and forces, with whole groups left out in folds.

What a fit without a frame's group says of the frame decides twice: which records that are said to
be minima are none, and how far forces and energies can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc._lib.constants import MAD
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.profiling import stage
from ase_knncalc._lib.progress import track
from ase_knncalc._lib.rowstore import Rows
from ase_knncalc.descriptors import Descriptor
from ase_knncalc.errors import TrainingError
from ase_knncalc.trend.base import HeldOutForces
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.force_labels import CurvatureLabels, ForceLabels
from ase_knncalc.trend.force_rows import Block, ForceRows, combinations
from ase_knncalc.trend.kernels import unwhitened
from ase_knncalc.trend.normal_equations import FoldSums, NormalEquations, Solution

# Frames whose held-out forces calibrate and choose, of each kind (computed, assumed).
_JUDGED = 500
_FRAMES = 16
# A record is called no minimum where its worst atom is this many robust standard deviations of the
# logarithm beyond what such records show, in units of the fit's own standard deviation of forces.
_OUTLYING = 4.0
_PASSES = 3
# Looking again is not worth it where so small a part was found.
_ENOUGH = 0.002
# And of the rest, one in so many.
_AGAIN = 5
# Of a frame's force components, for the standard deviation of all.
_COMBINATIONS = 4
# Fewer frames than this say nothing of what is usual.
_FEW = 30


@dataclass(frozen=True)
class EnergyRows:
    """Rows of energies in both regressions.

    Attributes
    ----------
    free, columns, variance_columns : ndarray, shape (n, …)
        Free columns, those of the fit, and those of its variance.
    delta, weights : ndarray, shape (n,)
        Targets (eV) and weights.
    """

    free: FloatArray
    columns: Rows
    variance_columns: Rows
    delta: FloatArray
    weights: FloatArray


@dataclass(frozen=True)
class ForceFit:
    """Fit to energies and forces.

    Attributes
    ----------
    free, coefficients : ndarray
        Of the free columns and of the others.
    leave_one_out, leave_group_out : ndarray, shape (n,)
        Residuals of energies, from fits without the energy or without the structure's fold.
    leverage, group_leverage : ndarray, shape (n,)
        Posterior variances that go with them, in units of the noise variance.
    variance_factors : tuple of ndarray
        See :meth:`Solution.variance_factors`.
    held_out : HeldOutForces
    not_minima : ndarray of int
        Structures whose assumed zero forces were left out.
    details : dict
        Weight, penalty, counts and cross-validated force errors (eV/Å).
    """

    free: FloatArray
    coefficients: FloatArray
    leave_one_out: FloatArray
    leave_group_out: FloatArray
    leverage: FloatArray
    group_leverage: FloatArray
    variance_factors: tuple[FloatArray, FloatArray, FloatArray]
    held_out: HeldOutForces
    not_minima: IntArray
    details: dict[str, Any]


def folds_of(groups: Sequence[str] | None, n: int, n_folds: int) -> IntArray:
    """Fold of each structure, groups kept together, shape (n,)."""
    from sklearn.model_selection import GroupKFold

    labels = np.arange(n)
    if groups is not None:
        labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    n_folds = min(n_folds, len(np.unique(labels)))
    folds = np.zeros(n, dtype=np.intp)
    if n_folds > 1:
        for k, (_, members) in enumerate(GroupKFold(n_folds).split(labels, groups=labels)):
            folds[members] = k
    return folds


def fit_with_forces(
    energies: EnergyRows,
    labels: ForceLabels,
    rows: ForceRows,
    groups: Sequence[str] | None,
    *,
    fair: BoolArray | None = None,
    curvatures: CurvatureLabels | None = None,
    penalties: Sequence[float],
    force_weights: Sequence[float],
    n_folds: int,
    seed: int,
    n_jobs: int = 1,
    progress: bool = False,
) -> ForceFit:
    """Fit, after leaving out the zero forces of records that are no minima.

    Weight of forces and penalty with the lowest sum of errors, each relative to the best that any
    candidate reached, win: energies of all structures and of those with computed forces, computed
    forces and zero forces, each of structures whose groups were left out, and of those that are
    ``fair`` (:attr:`~ase_knncalc.trend.base.TrendFit.fair`).
    """
    folds = folds_of(groups, len(energies.delta), n_folds)
    frame_folds = folds[labels.rows]
    n_folds = int(folds.max()) + 1
    main, small = (
        FoldSums.zeros(n_folds, sum(w.shape[1] for w in of))
        for of in (rows.whiteners, rows.variance_whiteners)
    )
    with stage("trend: rows of forces"):
        blocks = rows.blocks(labels, frame_folds, n_jobs)
        _add(main, small, _advancing(blocks, len(labels), "rows of forces", progress))
    with stage("trend: normal equations"):
        equations = NormalEquations(
            energies.free, energies.columns, energies.delta, energies.weights, folds, main
        )
        variance = NormalEquations(
            energies.free, energies.variance_columns, energies.delta, energies.weights, folds, small
        )
    judge = _Judge(rows, labels, frame_folds, n_jobs, progress)
    start = float(np.median(force_weights)), float(np.median(penalties))
    with stage("trend: records that are no minima"):
        bad = _no_minima(judge, (main, small), equations, variance, start)
    good = np.setdiff1d(np.arange(len(labels)), bad)
    n_curvatures = 0
    if curvatures is not None:
        kept = curvatures.take(np.flatnonzero(~np.isin(curvatures.rows, labels.rows[bad])))
        n_curvatures = len(kept)
        with stage("trend: rows of curvatures"):
            blocks = rows.curvature_blocks(kept, folds[kept.rows], n_jobs)
            _add(main, small, _advancing(blocks, n_curvatures, "rows of curvatures", progress))
    rng = np.random.default_rng(seed)
    fair = np.ones(len(folds), dtype=bool) if fair is None else fair
    asked = good[fair[labels.rows[good]]]
    judged = np.sort(
        np.concatenate(
            [_sample(rng, asked[labels.assumed[asked] == kind]) for kind in (True, False)]
        )
    )
    with stage("trend: groups left out"):
        weight, penalty, out, errors, scores = _best(
            equations, judge, judged, fair, force_weights, penalties
        )
    with stage("trend: posterior variance"):
        without = [variance.solve(weight, penalty, k) for k in np.unique(folds)]
        leverages = judge.leverages(judged, without)
        whole = variance.solve(weight, penalty)
        one_leverage = variance.leave_one_out(whole)[1]
        group_leverage = np.empty(len(folds))
        for k, solution in zip(np.unique(folds), without, strict=True):
            members = np.flatnonzero(folds == k)
            group_leverage[members] = solution.leverage(
                energies.free[members], energies.variance_columns[members]
            )
    with stage("trend: normal equations"):
        final = equations.solve(weight, penalty)
        one_out = equations.leave_one_out(final)[0]
    return ForceFit(
        free=final.free,
        coefficients=final.coefficients,
        leave_one_out=_with_computed(one_out, out, labels),
        leave_group_out=out,
        leverage=np.where(labels.computed(len(folds)), group_leverage, one_leverage),
        group_leverage=group_leverage,
        variance_factors=whole.variance_factors(energies.free.shape[1]),
        held_out=HeldOutForces(
            np.concatenate([labels.numbers[j] for j in judged]),
            np.concatenate([np.sqrt(np.mean(e**2, axis=1)) for e in errors]),
            np.concatenate(leverages),
            np.concatenate([np.full(len(labels.numbers[j]), labels.assumed[j]) for j in judged]),
        ),
        not_minima=labels.rows[bad],
        details={
            "penalty": final.penalty,
            "force_weight": weight,
            "force_frames": len(good),
            "curvature_frames": n_curvatures,
            **scores,
        },
    )


def _with_computed(one_out: FloatArray, out: FloatArray, labels: ForceLabels) -> FloatArray:
    """Leave-one-out residuals; of frames with computed forces those without their group.

    Forces of a frame say nearly all of its energy that its neighbours on a trajectory do not.
    """
    return np.where(labels.computed(len(out)), out, one_out)


def _sample(rng: np.random.Generator, places: IntArray) -> IntArray:
    return rng.permutation(places)[:_JUDGED]


def _add(main: FoldSums, small: FoldSums, blocks: Iterable[Block]) -> None:
    """Add rows to the sums of the fit and of its variance."""
    for fold, _, block, variance_block, targets in blocks:
        main.add(fold, block, targets)
        small.add(fold, variance_block, targets)


def _advancing(blocks: Iterable[Block], total: int, text: str, progress: bool) -> Iterator[Block]:
    """Blocks of rows, with a bar that counts frames."""

    def frames() -> Iterator[Block | None]:
        for block in blocks:
            yield block
            # The bar counts what it is given: one item a frame.
            yield from (None for _ in range(block[1] - 1))

    shown = track(frames(), total=total, text=text, show=progress)
    return (block for block in shown if block is not None)


def _best(
    equations: NormalEquations,
    judge: _Judge,
    judged: IntArray,
    fair: BoolArray,
    force_weights: Sequence[float],
    penalties: Sequence[float],
) -> tuple[float, float, FloatArray, list[FloatArray], dict[str, float]]:
    """Weight, penalty, held-out energies and forces, and scores of the best candidate."""
    n_folds = len(equations.forces.targets)
    assumed = judge.labels.assumed[judged]
    computed = judge.labels.computed(len(equations.y)) & fair
    found = []
    for weight in force_weights:
        for penalty in penalties:
            out = np.empty(len(equations.y))
            coefficients = []
            for k in range(n_folds):
                without = k if n_folds > 1 else None
                solution = equations.solve(weight, penalty, without)
                members = np.flatnonzero(equations.folds == k)
                out[members] = equations.residuals(solution, members)
                coefficients.append(solution.coefficients)
            errors = judge.errors(judged, coefficients)
            means = np.array([np.abs(e).mean() for e in errors])
            scores = {"group_mae": float(np.median(np.abs(out[fair])))}
            if computed.any():
                scores["group_mae_computed"] = float(np.median(np.abs(out[computed])))
            for name, mask in (("force_mae_minima", assumed), ("force_mae", ~assumed)):
                if mask.any():
                    scores[name] = float(means[mask].mean())
            found.append((weight, penalty, out, errors, scores))
    best = {
        name: max(min(scores[name] for *_, scores in found), np.finfo(np.float64).tiny)
        for name in found[0][4]
    }
    return min(found, key=lambda f: sum(f[4][name] / best[name] for name in best))


@dataclass(frozen=True)
class _Judge:
    """Forces of frames as fits without their folds see them."""

    rows: ForceRows
    labels: ForceLabels
    folds: IntArray
    n_jobs: int
    progress: bool

    def errors(self, places: IntArray, coefficients: Sequence[FloatArray]) -> list[FloatArray]:
        """Predicted minus true Δ forces, (n_atoms, 3) each; coefficients of each fold's fit."""
        plain = [unwhitened(self.rows.whiteners, of) for of in coefficients]
        return self._each(_errors, places, self.rows.environments, plain, "forces left out")

    def spreads(self, places: IntArray, solutions: Sequence[Solution]) -> FloatArray:
        """Root mean posterior variance of each frame's force components, (len(places),).

        From a few random combinations of them.
        """
        found = self._with_factors(_spread, places, solutions, "variance of minima left out")
        return np.array([float(v[0]) for v in found])

    def leverages(self, places: IntArray, solutions: Sequence[Solution]) -> list[FloatArray]:
        """Mean posterior variance of each atom's components, (n_atoms,) each."""
        return self._with_factors(_leverages, places, solutions, "variance of forces left out")

    def _with_factors(
        self, function: Any, places: IntArray, solutions: Sequence[Solution], text: str
    ) -> list[FloatArray]:
        counts = np.array([len(w) for w in self.rows.variance_whiteners])
        few = self.rows.environments.first(counts)
        n_free = len(solutions[0].free)
        factors = [
            unwhitened(self.rows.variance_whiteners, s.variance_factors(n_free)[2])
            for s in solutions
        ]
        return self._each(function, places, few, factors, text)

    def _each(
        self,
        function: Any,
        places: IntArray,
        environments: Environments,
        of_folds: Sequence[FloatArray],
        text: str,
    ) -> list[FloatArray]:
        order = np.argsort(self.folds[places], kind="stable")
        jobs = []
        for fold in np.unique(self.folds[places]):
            members = places[order][self.folds[places[order]] == fold]
            for i in range(0, len(members), _FRAMES):
                jobs.append(
                    (
                        self.rows.descriptor,
                        environments,
                        of_folds[fold],
                        self.labels.take(members[i : i + _FRAMES]),
                    )
                )
        found = run(function, jobs, total=len(jobs), n_jobs=self.n_jobs)
        shown = track(found, total=len(jobs), text=text, show=self.progress)
        flat = [entry for lot in shown for entry in lot]
        result: list[FloatArray] = [np.zeros(0)] * len(places)
        for place, entry in zip(order, flat, strict=True):
            result[place] = entry
        return result


def _errors(
    descriptor: Descriptor,
    environments: Environments,
    coefficients: FloatArray,
    labels: ForceLabels,
) -> list[FloatArray]:
    errors: list[FloatArray] = []
    for numbers, positions, delta in zip(
        labels.numbers, labels.positions, labels.delta, strict=True
    ):
        moving = descriptor.moving(numbers, positions)
        slopes = environments.gradient(numbers, moving.rows, coefficients)
        errors.append(-moving.pull(slopes) - delta)
    return errors


def _leverages(
    descriptor: Descriptor, environments: Environments, factor: FloatArray, labels: ForceLabels
) -> list[FloatArray]:
    leverages: list[FloatArray] = []
    for numbers, positions in zip(labels.numbers, labels.positions, strict=True):
        rows = environments.slopes(numbers, descriptor.moving(numbers, positions)) @ factor
        leverages.append(np.einsum("ij,ij->i", rows, rows).reshape(-1, 3).mean(axis=1))
    return leverages


def _spread(
    descriptor: Descriptor, environments: Environments, factor: FloatArray, labels: ForceLabels
) -> list[FloatArray]:
    spreads: list[FloatArray] = []
    for numbers, positions in zip(labels.numbers, labels.positions, strict=True):
        n = 3 * len(numbers)
        m = min(_COMBINATIONS, n)
        along = combinations(n, m, 0).reshape(m, -1, 3)
        moving = descriptor.moving(numbers, positions)
        rows = environments.slopes_along(numbers, moving, along, "float64") @ factor
        spreads.append(np.array([np.sqrt(np.sum(rows**2) / n)]))
    return spreads


def _no_minima(
    judge: _Judge,
    sums: tuple[FoldSums, FoldSums],
    equations: NormalEquations,
    variance: NormalEquations,
    candidate: tuple[float, float],
) -> IntArray:
    """Places among the force labels of records that are said to be minima and are none.

    The worst atom's force in the fit without the record's group, in units of that fit's standard
    deviation there, is compared with those of all such records: rare chemistry, of which the fit
    knows little, has large forces and a large standard deviation, and stays. What is found is taken
    off the sums, for it spoils the fits that the others are judged by, and they are judged again.
    Where a whole group is rare and wrong in part, that fit cannot tell: in the end the fit to all
    is asked, too, which has been told that there are no forces and follows where it can.
    """
    left = np.flatnonzero(judge.labels.assumed)
    found = np.zeros(0, dtype=np.intp)
    n_folds = len(equations.forces.targets)
    if len(left) < _FEW or n_folds < 2:
        return found

    def largest(places: IntArray, coefficients: Sequence[FloatArray]) -> FloatArray:
        errors = judge.errors(places, coefficients)
        return np.array([np.sqrt(np.max(np.sum(e**2, axis=1))) for e in errors])

    def take_off(taken: IntArray) -> None:
        blocks = judge.rows.blocks(
            judge.labels.take(taken), judge.folds[taken], judge.n_jobs, taken
        )
        for fold, _, block, variance_block, targets in blocks:
            sums[0].add(fold, block, targets, -1.0)
            sums[1].add(fold, variance_block, targets, -1.0)

    spread = judge.spreads(left, [variance.solve(*candidate, k) for k in range(n_folds)])
    spread = np.maximum(spread, np.finfo(np.float64).tiny)
    values = np.zeros(len(left))
    again = np.arange(len(left))
    for _ in range(_PASSES):
        solutions = [equations.solve(*candidate, k).coefficients for k in range(n_folds)]
        values[again] = largest(left[again], solutions) / spread[again]
        bad = _outlying(values)
        take_off(left[bad])
        found = np.concatenate([found, left[bad]])
        spread, left, values = spread[~bad], left[~bad], values[~bad]
        if bad.mean() < _ENOUGH:
            break
        # What a better fit may call no minimum is among what this one finds unusual.
        again = np.argsort(values, kind="stable")[-max(1, len(values) // _AGAIN) :]
    bad = _outlying(largest(left, [equations.solve(*candidate).coefficients] * n_folds))
    take_off(left[bad])
    found = np.concatenate([found, left[bad]])
    return np.sort(found)


def _outlying(values: FloatArray) -> BoolArray:
    """Which of these positive numbers are far above what is usual among them."""
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    if not np.all(np.isfinite(logs)):
        raise TrainingError("forces of some records are not finite: check the data (knncalc check)")
    usual = float(np.median(logs))
    spread = MAD * float(np.median(np.abs(logs - usual)))
    return np.asarray(logs > usual + _OUTLYING * spread)
