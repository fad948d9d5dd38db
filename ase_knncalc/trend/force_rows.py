"""Rows of force components and of curvatures in the regression of the sparse trend.

Rows are made frame by frame and kept only as sums, so that memory does not grow with the number of
frames. A frame with more components than wanted gives random combinations of them, which are
derivatives along random displacements of all atoms: their expected sum of products is that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.parallel import run
from ase_knncalc.descriptors import Descriptor, featurize
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.force_labels import CurvatureLabels, ForceLabels
from ase_knncalc.trend.sparse import size_weights

# Rows that are multiplied at a time, and frames that travel together between processes.
_BLOCK_ROWS = 6000
_FRAMES = 16
# Å; second differences over it are exact to 1e-4 of stretches, and far above rounding.
_STEP = 0.01

# Numbers, positions, forces, seed, most rows and root of their weight.
Frame = tuple[IntArray, FloatArray, FloatArray, int, int, float]
Block = tuple[int, int, FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True)
class ForceRows:
    """Slopes of kernel sums in the whitened bases of the regression and of its variance.

    Attributes
    ----------
    environments : Environments
    descriptor : Descriptor
        Gives the derivatives of an atom's row.
    whiteners, variance_whiteners : list of ndarray
        Of each element, for all its environments and for the first of them that the variance uses.
    most, most_assumed : int
        Most rows of a frame, and of one whose forces are assumed; 0 for all of them.
    assumed_weight : float
        Of assumed forces, against 1 for computed ones.
    size_exponent : float
        See :class:`~ase_knncalc.trend.sparse.SparseSettings`.
    dtype : str
        Of the rows: in single precision where there are too many columns for double.
    """

    environments: Environments
    descriptor: Descriptor
    whiteners: Sequence[FloatArray]
    variance_whiteners: Sequence[FloatArray]
    most: int = 0
    most_assumed: int = 0
    assumed_weight: float = 1.0
    size_exponent: float = 0.0
    dtype: str = "float64"

    def blocks(
        self,
        labels: ForceLabels,
        folds: IntArray,
        n_jobs: int,
        seeds: IntArray | None = None,
    ) -> Iterator[Block]:
        """Rows of all frames, fold by fold, a few thousand at a time.

        Parameters
        ----------
        labels
            Of m frames.
        folds
            Fold of each frame, shape (m,).
        n_jobs
            Processes that compute slopes.
        seeds
            Of each frame's combinations, shape (m,); by default its place.

        Yields
        ------
        fold : int
        frames : int
            How many frames the block ends.
        rows : ndarray, shape (k, n_columns)
        variance_rows : ndarray, shape (k, n_variance_columns)
        targets : ndarray, shape (k,)
            Forces, or the same combinations of them, times the root of their weight, eV/Å.
        """
        seeds = np.arange(len(labels)) if seeds is None else seeds

        def job(lot: IntArray) -> tuple[Any, ...]:
            frames = [
                (
                    labels.numbers[j],
                    labels.positions[j],
                    labels.delta[j],
                    int(seeds[j]),
                    self.most_assumed if labels.assumed[j] else self.most,
                    self._root(len(labels.numbers[j]), bool(labels.assumed[j])),
                )
                for j in lot
            ]
            return self.environments, self.descriptor, frames, self.dtype

        return self._in_blocks(_slopes, job, folds, n_jobs)

    def _root(self, n_atoms: int, assumed: bool) -> float:
        weight = self.assumed_weight if assumed else 1.0
        return float(np.sqrt(weight * size_weights(n_atoms, self.size_exponent)))

    def curvature_blocks(
        self, labels: CurvatureLabels, folds: IntArray, n_jobs: int
    ) -> Iterator[Block]:
        """Rows of curvatures, as :meth:`blocks` gives those of forces."""

        def job(lot: IntArray) -> tuple[Any, ...]:
            return self.environments, self.descriptor, labels.take(lot), self.dtype

        return self._in_blocks(_curvatures, job, folds, n_jobs)

    def _in_blocks(
        self,
        function: Callable[..., tuple[FloatArray, FloatArray]],
        job: Callable[[IntArray], tuple[Any, ...]],
        folds: IntArray,
        n_jobs: int,
    ) -> Iterator[Block]:
        for fold in np.unique(folds):
            members = np.flatnonzero(folds == fold)
            lots = [members[i : i + _FRAMES] for i in range(0, len(members), _FRAMES)]
            kept: list[tuple[FloatArray, FloatArray]] = []
            frames = 0
            jobs = (job(lot) for lot in lots)
            for lot, found in zip(
                lots, run(function, jobs, total=len(lots), n_jobs=n_jobs), strict=True
            ):
                kept.append(found)
                frames += len(lot)
                if sum(len(y) for _, y in kept) >= _BLOCK_ROWS:
                    yield int(fold), frames, *self._whitened(kept)
                    kept, frames = [], 0
            if kept:
                yield int(fold), frames, *self._whitened(kept)

    def _whitened(
        self, kept: Sequence[tuple[FloatArray, FloatArray]]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        slopes = np.concatenate([s for s, _ in kept])
        bases = (self.whiteners, self.variance_whiteners)
        rows = [
            np.hstack(
                [
                    slopes[:, block.start : block.start + len(w)] @ w.astype(slopes.dtype)
                    for block, w in zip(self.environments.blocks, of, strict=True)
                ]
            )
            for of in bases
        ]
        return rows[0], rows[1], np.concatenate([y for _, y in kept])


def _slopes(
    environments: Environments,
    descriptor: Descriptor,
    frames: Sequence[Frame],
    dtype: str,
) -> tuple[FloatArray, FloatArray]:
    """Slopes of kernel sums of some frames as rows of force components, and their targets."""
    rows: list[FloatArray] = []
    targets: list[FloatArray] = []
    for numbers, positions, delta, place, most, root in frames:
        moving = descriptor.moving(numbers, positions)
        y = np.ravel(delta)
        if 0 < most < len(y):
            mix = combinations(len(y), most, place)
            along = mix.reshape(most, -1, 3)
            made, y = environments.slopes_along(numbers, moving, along, dtype), mix @ y
        else:
            made = environments.slopes(numbers, moving, dtype)
        made *= -root
        rows.append(made)
        targets.append(root * y)
    return np.concatenate(rows), np.concatenate(targets)


def combinations(n: int, m: int, seed: int) -> FloatArray:
    """Random combinations of n rows whose sum of products is expected to be that of all, (m, n).

    Orthogonal, which makes less noise than independent ones. The seed is the frame's: the same
    combinations whenever its rows are made.
    """
    random = np.random.default_rng(seed).normal(size=(n, m))
    return np.asarray(np.linalg.qr(random)[0].T * np.sqrt(n / m))


def _curvatures(
    environments: Environments, descriptor: Descriptor, labels: CurvatureLabels, dtype: str
) -> tuple[FloatArray, FloatArray]:
    """Second differences of kernel sums of some frames along their displacements, mixed."""
    rows = []
    for numbers, positions, displacements, mixing in zip(
        labels.numbers, labels.positions, labels.displacements, labels.mixing, strict=True
    ):
        k = len(displacements)
        steps = np.concatenate([displacements, -displacements, np.zeros((1, len(numbers), 3))])
        moved = [(numbers, positions + _STEP * step, 0) for step in steps]
        sums = environments.sums(featurize(descriptor, moved))
        second = (sums[:k] + sums[k : 2 * k] - 2.0 * sums[-1]) / _STEP**2
        rows.append((mixing @ second).astype(dtype))
    return np.concatenate(rows), np.concatenate(labels.delta)
