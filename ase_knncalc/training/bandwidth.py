"""Width and nugget of the k-NN term by cross-validation, on random and on group splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.knn.weights import OFF, KNNSettings, wendland

_NUGGETS = np.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
_WIDTHS = np.array([0.7, 1.0, 1.5, 2.0, 3.0, 5.0])
_MOST = 2000


@dataclass(frozen=True)
class HeldOut:
    """A fold: structures held out, and those that may be their neighbours.

    Attributes
    ----------
    members : ndarray of int, shape (m,)
        Held-out structures, as indices of the whole training set.
    points : ndarray, shape (m, n_components)
        Projected with the metric of this fold.
    truth : ndarray, shape (m,)
        What the k-NN term should give there, eV.
    index : NeighborIndex
        The other structures.
    residuals : ndarray
        Of the other structures, eV.
    """

    members: IntArray
    points: FloatArray
    truth: FloatArray
    index: NeighborIndex
    residuals: FloatArray

    def sample(self, most: int, rng: np.random.Generator) -> HeldOut:
        """At most that many of the held-out structures."""
        if len(self.members) <= most:
            return self
        rows = np.sort(rng.choice(len(self.members), most, replace=False))
        return replace(
            self, members=self.members[rows], points=self.points[rows], truth=self.truth[rows]
        )


def tune_kernel(
    held_out: list[HeldOut], by_group: list[HeldOut], k: int, weights: str, seed: int
) -> tuple[KNNSettings, dict[str, Any]]:
    """Settings with the lowest mean absolute error that harm neither kind of split.

    Parameters
    ----------
    held_out, by_group
        Folds of random and of group splits (the latter may be empty).
    k, weights
        As in :class:`KNNSettings`; weights are ``"kernel"`` or ``"kriging"``.
    seed
        Of the subsample that the search looks at.

    Returns
    -------
    settings : KNNSettings
        With the nugget so high that the term is off where nothing else is harmless.
    details : dict
        Errors with and without the term, eV.
    """
    rng = np.random.default_rng(seed)
    kinds = [
        [part.sample(max(_MOST // len(parts), 1), rng) for part in parts]
        for parts in (held_out, by_group)
        if parts
    ]
    typical = _typical_distance(kinds[0], k)
    # Shape (kinds, widths, nuggets), and (kinds,) for no term at all.
    errors = np.array([_errors(parts, typical * _WIDTHS, k, weights) for parts in kinds])
    off = np.array([np.mean(np.abs(np.concatenate([p.truth for p in parts]))) for parts in kinds])
    harmless = np.all(errors <= off[:, None, None], axis=0)
    total = np.where(harmless, errors.mean(axis=0), np.inf)
    best = divmod(int(np.argmin(total)), len(_NUGGETS))
    if not np.isfinite(total[best]):
        return (
            KNNSettings(k, weights, typical, OFF),
            {"without": off.tolist(), "with": off.tolist()},
        )
    settings = KNNSettings(
        k,
        weights,
        float(typical * _WIDTHS[best[0]]),
        float(_NUGGETS[best[1]]),
    )
    return settings, {"without": off.tolist(), "with": errors[:, best[0], best[1]].tolist()}


def _typical_distance(parts: list[HeldOut], k: int) -> float:
    """Median distance of the k-th neighbour."""
    found = float(
        np.median(np.concatenate([p.index.query_many(p.points, k)[0][:, -1] for p in parts]))
    )
    return found if found > 0 else 1.0


def _errors(parts: list[HeldOut], widths: FloatArray, k: int, weights: str) -> FloatArray:
    """Mean absolute error for every width and nugget, shape (n_widths, n_nuggets)."""
    kind = _kernel_errors if weights == "kernel" else partial(_kriging_errors, k=k)
    found = [kind(part, widths) for part in parts]
    return np.asarray(np.abs(np.concatenate(found, axis=1)).mean(axis=1))


def _kriging_errors(part: HeldOut, widths: FloatArray, k: int) -> FloatArray:
    """Errors of kriging for every width and nugget, shape (n_widths, m, n_nuggets)."""
    means = [
        [
            [
                e.mean
                for e in KNNTerm(
                    part.index, part.residuals, KNNSettings(k, "kriging", float(width), nugget)
                ).evaluate_many(part.points)
            ]
            for nugget in _NUGGETS
        ]
        for width in widths
    ]
    return np.asarray(part.truth[None, :, None] - np.array(means).transpose(0, 2, 1))


def _kernel_errors(part: HeldOut, widths: FloatArray) -> FloatArray:
    """Errors of the kernel mean for every width and nugget, shape (n_widths, m, n_nuggets)."""
    errors = np.empty((len(widths), len(part.members), len(_NUGGETS)))
    others = part.index.points
    largest = float(widths.max())
    for i, z, approximate in part.index.scan(part.points):
        limit = largest**2 + part.index.tolerance(z)
        inside = np.flatnonzero(approximate <= limit)
        difference = others[inside].astype(np.float64) - z
        distances = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        phi = wendland(distances / widths[:, None])
        mean = (phi @ part.residuals[inside])[:, None] / (phi.sum(axis=1)[:, None] + _NUGGETS)
        errors[:, i] = part.truth[i] - mean
    return errors
