"""Which structures of a pool are worth a label.

``diversity``, ``combined`` and ``variance`` build a batch one structure at a time: of two that are
alike, the second is worth little once the first is taken.

``random``
    The control.
``energy_std``
    Largest calibrated standard deviation first.
``novelty``
    Largest novelty first.
``diversity``
    Farthest point in the learned metric, from the training structures and those chosen before.
``combined``
    Standard deviation times distance to the training structures and those chosen before, both
    relative to their median in the pool.
``variance``
    What lowers the mean standard deviation of the trend's posterior over the whole pool most, given
    those chosen before [1]_: representative structures where there are many, and not outliers for
    their own sake. It needs no label, and no error either: only the kernel.

References
----------
.. [1] D. A. Cohn, Z. Ghahramani, M. I. Jordan, J. Artif. Intell. Res. 4, 129 (1996); there the mean
   variance, here the mean of its root, as the error that is asked for is an absolute one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import numpy as np
from annotated_types import Ge, Lt

from ase_knncalc._lib.arguments import NotNegative, OneOf, Whole, checked, instance
from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.charges import stated_copy
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import ChargeError, FormulaError, SettingsError, UnknownElementError
from ase_knncalc.sameness import DuplicateFinder
from ase_knncalc.structure import (
    check_structure,
    composition_label,
    resolve_charge,
    structure_label,
)

if TYPE_CHECKING:
    from ase import Atoms

    from ase_knncalc.data import KeyMap
    from ase_knncalc.model import KNNModel
    from ase_knncalc.trend.sparse import SparseSettings


Strategy = Literal["random", "energy_std", "novelty", "diversity", "combined", "variance"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

# The mean is taken over this many structures of the pool at most, and as many candidates
# are looked at: the covariance between them has to fit in memory.
_MOST_REFERENCES = 1000
_MOST_CANDIDATES = 5000


@dataclass(frozen=True)
class Pool:
    """What selection knows of n unlabelled structures.

    Attributes
    ----------
    energy_std : ndarray, shape (n,)
        eV.
    novelty : ndarray, shape (n,)
    points : ndarray, shape (n, n_components)
        In the learned metric.
    known : ndarray, shape (m, n_components)
        Of the training structures.
    rows : ndarray, shape (n, d), or None
        Rows whose products are the posterior covariance of the trend in units of the noise
        variance; ``variance`` needs them.
    energies : ndarray, shape (n,), or None
        Predicted, eV; for the energy window.
    groups : sequence of str or None
        Composition of each structure: energies are compared within one.
    left_out : ndarray of bool, shape (n,), or None
        Structures that are not chosen: a label of what is known, or chosen already, teaches
        nothing. They count for the energy window.
    """

    energy_std: FloatArray
    novelty: FloatArray
    points: FloatArray
    known: FloatArray
    rows: FloatArray | None = None
    energies: FloatArray | None = None
    groups: Sequence[str] | None = None
    left_out: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.energy_std)


def survey(
    model: KNNModel,
    batch: FeatureBatch,
    *,
    baseline_energies: FloatArray | None = None,
    groups: Sequence[str] | None = None,
    rows: FloatArray | None = None,
    strategy: str = "variance",
) -> Pool:
    """What a model says of structures whose descriptors are known.

    Parameters
    ----------
    model, batch
        The batch was computed with the model's descriptor.
    baseline_energies
        eV, shape (n,); None leaves the energy window out.
    groups
        Compositions.
    rows
        From :func:`kernel_rows`; by default those of the model's trend.
    strategy
        What the pool is for: rows are made for ``variance`` only.
    """
    found = model.correct_features(batch)
    if rows is None and strategy == "variance":
        rows = model.trend.posterior_rows(batch)
    return Pool(
        energy_std=np.asarray(found.energy_std),
        novelty=np.asarray(found.novelty),
        points=model.metric.place(batch),
        known=model.knn.index.points.astype(np.float64),
        rows=rows,
        energies=None if baseline_energies is None else baseline_energies + found.delta,
        groups=groups,
    )


def select(
    pool: Pool,
    n: int,
    strategy: str = "combined",
    *,
    seed: int = 0,
    energy_window: float | None = None,
) -> IntArray:
    """Indices of the structures to label, in the order they were chosen.

    Parameters
    ----------
    pool
        What is known of the structures.
    n
        Budget; fewer are returned where fewer are left.
    strategy
        See the module.
    seed
        Of ``random``, and of ties.
    energy_window
        Leave out structures more than this above the lowest of their composition, eV (predicted
        energies).

    Raises
    ------
    SettingsError
        For an unknown strategy, a negative budget or window, or a window without energies.
    """
    checked("strategy", strategy, OneOf(STRATEGIES))
    n = checked("n", n, Whole)
    rng = np.random.default_rng(checked("seed", seed, Annotated[int, Ge(0), Lt(2**63)]))
    # A shuffled pool: ties are broken by the seed and not by the order of a file.
    candidates: IntArray = rng.permutation(within_window(pool, energy_window))
    n = min(n, len(candidates))
    if n == 0:
        return np.zeros(0, dtype=np.intp)
    if strategy == "random":
        return candidates[:n]
    if strategy in ("energy_std", "novelty"):
        score = np.asarray(getattr(pool, strategy))[candidates]
        return np.asarray(candidates[np.argsort(-score, kind="stable")[:n]])
    if strategy == "diversity":
        return np.asarray(candidates[farthest_points(pool.points[candidates], pool.known, n)])
    if strategy == "combined":
        std = pool.energy_std[candidates]
        return np.asarray(candidates[farthest_points(pool.points[candidates], pool.known, n, std)])
    if pool.rows is None or not pool.rows.shape[1]:
        raise SettingsError(
            "strategy='variance' needs the posterior covariance of a trend: this model has none "
            "(trend='none'); use diversity or combined"
        )
    if len(candidates) > _MOST_CANDIDATES:
        variance = np.einsum("ij,ij->i", pool.rows[candidates], pool.rows[candidates])
        candidates = candidates[np.argsort(-variance, kind="stable")[:_MOST_CANDIDATES]]
    n = min(n, len(candidates))
    reference = rng.permutation(_choosable(pool))[:_MOST_REFERENCES]
    return np.asarray(
        candidates[variance_reduction(pool.rows[candidates], pool.rows[reference], n)]
    )


def select_frames(
    model: KNNModel,
    frames: Sequence[Atoms],
    n: int,
    strategy: str = "combined",
    *,
    seed: int = 0,
    energy_window: float | None = None,
    keys: KeyMap | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[IntArray, Pool]:
    """Structures to label, and what the model says of all of them; see :func:`select`.

    A structure that is there several times, in whatever orientation and order of atoms, is chosen
    once at most, and one that the model has already is not chosen: ``left_out`` of the pool.
    ``keys`` say where structures keep the energies of ``baseline="given"``, for an energy window.

    Raises
    ------
    StructureError
        If the model does not cover a structure.
    BaselineError
        If there is an energy window, and the baseline is missing or fails for a structure.

    Warns
    -----
    UserWarning
        If structures are left out.
    """
    from ase_knncalc.analysis.ranking import baseline_of
    from ase_knncalc.labels.training_data import compute_features

    frames = list(instance("frames", frames, Iterable))
    checked("strategy", strategy, OneOf(STRATEGIES))
    n = checked("n", n, Whole)
    checked("energy_window", energy_window, NotNegative | None)
    charged = []
    for i, atoms in enumerate(frames):
        total = _covered_charge(model, atoms, i)
        copy = stated_copy(atoms)
        copy.info["charge"] = total
        copy.info["composition"] = composition_label(copy)
        charged.append(copy)
    if not charged:
        raise SettingsError("there are no structures to choose from")
    energies = None
    if energy_window is not None:
        energies = baseline_of(model, frames, charged, keys=keys, n_jobs=n_jobs, progress=progress)
    batch = compute_features(model.descriptor, charged, n_jobs=n_jobs, progress=progress)
    pool = replace(
        survey(
            model,
            batch,
            baseline_energies=energies,
            groups=[str(a.info["composition"]) for a in charged],
            strategy=strategy,
        ),
        left_out=_left_out(model, charged, batch),
    )
    return select(pool, n, strategy, seed=seed, energy_window=energy_window), pool


def _covered_charge(model: KNNModel, atoms: Atoms, place: int) -> int:
    check_structure(atoms)
    resolve_charge(atoms)
    try:
        return model.check(atoms)
    except (UnknownElementError, ChargeError, FormulaError) as e:
        raise type(e)(
            f"{structure_label(atoms, place)}: {e}. Leave such structures out, or label some of "
            "them and train anew with these (knncalc train)"
        ) from None


def _left_out(model: KNNModel, frames: Sequence[Atoms], batch: FeatureBatch) -> BoolArray:
    """Which structures are no choice, as they are there before, or the model has them."""
    from ase_knncalc.analysis.membership import new_ones

    finder = DuplicateFinder()
    repeated = np.array(
        [finder.find_or_add(a, *resolve_charge(a)) is not None for a in frames], dtype=bool
    )
    known = np.ones(len(frames), dtype=bool)
    known[new_ones(model, frames, batch)] = False
    counts = {
        "are in the model's training data": int(known.sum()),
        "repeat others of them": int((repeated & ~known).sum()),
    }
    if any(counts.values()):
        warnings.warn(
            f"of {len(frames)} structures "
            + " and ".join(f"{n} {what}" for what, n in counts.items() if n)
            + ": these are left out, as their labels would teach nothing",
            UserWarning,
            stacklevel=3,
        )
    return np.asarray(known | repeated)


def _choosable(pool: Pool) -> IntArray:
    everything = np.arange(len(pool))
    return everything if pool.left_out is None else everything[~np.asarray(pool.left_out)]


def within_window(pool: Pool, energy_window: float | None) -> IntArray:
    """Structures whose predicted energy is near the lowest of their composition, ascending.

    Without those that are left out.
    """
    choosable = _choosable(pool)
    if energy_window is None:
        return choosable
    checked("energy_window", energy_window, NotNegative)
    if pool.energies is None:
        raise SettingsError("an energy window needs energies: give the model its baseline")
    labels = np.zeros(len(pool), dtype=np.intp)
    if pool.groups is not None:
        labels = np.unique(np.asarray(pool.groups), return_inverse=True)[1]
    lowest = np.full(int(labels.max(initial=0)) + 1, np.inf)
    np.minimum.at(lowest, labels, pool.energies)
    near = pool.energies <= lowest[labels] + energy_window
    return np.asarray(choosable[near[choosable]])


def farthest_points(
    points: FloatArray, known: FloatArray, n: int, scores: FloatArray | None = None
) -> IntArray:
    """Greedy choice of the points farthest from all known and chosen ones.

    Parameters
    ----------
    points
        Shape (n_points, d).
    known
        Points that are there already, shape (m, d); without any, the first is that with the
        highest score, or else the one farthest from the mean.
    n
        How many, at most ``n_points``.
    scores
        Positive factors of the distance, shape (n_points,).

    Returns
    -------
    ndarray of int, shape (n,)
    """
    factor = np.ones(len(points)) if scores is None else np.asarray(scores, dtype=np.float64)
    if len(known):
        distance = _nearest(points, known)
    elif scores is not None:
        distance = np.ones(len(points))
    else:
        distance = np.linalg.norm(points - points.mean(axis=0), axis=1)
    left = np.ones(len(points), dtype=bool)
    chosen: list[int] = []
    for _ in range(n):
        i = int(np.argmax(np.where(left, distance * factor, -np.inf)))
        chosen.append(i)
        left[i] = False
        step = np.linalg.norm(points - points[i], axis=1)
        distance = np.minimum(distance, step) if len(known) or len(chosen) > 1 else step
    return np.array(chosen, dtype=np.intp)


def _nearest(points: FloatArray, known: FloatArray, block: int = 1000) -> FloatArray:
    """Distance of each point to the nearest known one, shape (n_points,)."""
    squares = np.full(len(points), np.inf)
    own = np.einsum("ij,ij->i", points, points)
    for start in range(0, len(known), block):
        part = known[start : start + block]
        cross = own[:, None] + np.einsum("ij,ij->i", part, part) - 2 * points @ part.T
        squares = np.minimum(squares, cross.min(axis=1))
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def variance_reduction(rows: FloatArray, reference: FloatArray, n: int) -> IntArray:
    """Greedy choice of the rows that lower the reference's mean standard deviation most.

    With covariance C = rows · rowsᵀ in units of the noise variance, a label of i takes
    C_ij² / (1 + C_ii) from the variance at j.

    Parameters
    ----------
    rows
        Of the candidates, shape (n_candidates, d).
    reference
        Rows of the structures whose standard deviation counts, shape (n_reference, d).
    n
        How many, at most ``n_candidates``.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    cross = rows @ reference.T
    variance = np.einsum("ij,ij->i", rows, rows)
    # Rounding must not make a variance negative.
    floor = 1e-12 * max(float(variance.max(initial=0.0)), 1e-300)
    asked = np.einsum("ij,ij->i", reference, reference)
    left = np.ones(len(rows), dtype=bool)
    steps: list[tuple[FloatArray, float]] = []
    chosen: list[int] = []
    for _ in range(n):
        after = asked - cross**2 / (1.0 + variance)[:, None]
        np.maximum(after, floor, out=after)
        total = np.sqrt(after, out=after).sum(axis=1)
        i = int(np.argmin(np.where(left, total, np.inf)))
        chosen.append(i)
        left[i] = False
        column = rows @ rows[i]
        for other, scale in steps:
            column = column - other * (other[i] / scale)
        scale = 1.0 + float(variance[i])
        towards = cross[i] / scale
        asked = np.maximum(asked - scale * towards**2, floor)
        cross -= np.outer(column, towards)
        variance = np.maximum(variance - column**2 / scale, 0.0)
        steps.append((column, scale))
    return np.array(chosen, dtype=np.intp)


def kernel_rows(
    known: FeatureBatch,
    pool: FeatureBatch,
    elements: Sequence[int],
    settings: SparseSettings | None = None,
    *,
    penalty: float = 1e-5,
    seed: int = 0,
) -> FloatArray:
    """Posterior rows of a pool from the kernel of the sparse trend, without any label.

    Other than :meth:`SparseTrend.posterior_rows`, the inducing environments come from known
    structures and the pool alike: what is new in the pool is seen as new, where a trend that was
    fitted to the known structures alone has no environment near it.

    Parameters
    ----------
    known, pool
        Labelled and unlabelled structures, described alike; ``known`` may be empty.
    elements
        Atomic numbers of both.
    settings
        Length scale, rank, whitening, number of environments (those of the variance).
    penalty
        Noise over signal variance.
    seed
        Of random choices.

    Returns
    -------
    ndarray, shape (n_pool, d)
    """
    from scipy.linalg import solve_triangular

    from ase_knncalc.trend.sparse import SparseSettings as Settings
    from ase_knncalc.trend.sparse_fit import whitened_features

    batch = FeatureBatch.concatenate([known, pool]) if len(known) else pool
    columns = whitened_features(batch, tuple(elements), settings or Settings(), seed)
    n = len(known)
    precision = columns[:n].T @ columns[:n] + penalty * np.eye(columns.shape[1])
    factor = np.linalg.cholesky(precision)
    return np.asarray(solve_triangular(factor, columns[n:].T, lower=True).T)
