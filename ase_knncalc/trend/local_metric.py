"""A metric of atomic environments, learned from how a fitted trend answers to them.

Principal components say which directions of a descriptor vary, not which of them matter. Those that
matter are the ones along which the trend slopes: the mean outer product of its slopes,

    M = ⟨∇f ∇fᵀ⟩,        d²(x, y) = (x − y)ᵀ M^α (x − y),

taken over the atoms of an element, is the metric in which a second trend is fitted. With α = 1 this
is one pass of a recursive feature machine; α = 1/2 shortens the axes that the first trend, which
has fewer environments, sees no use in, and gives none of them up.

References
----------
A. Radhakrishnan, D. Beaglehole, P. Pandit, M. Belkin, Science 383, 1461 (2024): the average
gradient outer product as a metric of kernels.
K. Q. Weinberger, G. Tesauro, AISTATS 2007: metric learning for kernel regression, which is what
global descriptors get.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.trend.environments import Environments

# Directions in which nothing slopes are kept at this fraction of the steepest one's weight, so that
# the root of the metric is no rounding noise.
_FLOOR = 1e-12


def slope_products(
    environments: Environments, coefficients: FloatArray, batch: FeatureBatch
) -> list[FloatArray]:
    """Mean outer product of a trend's slopes along descriptor rows, of each element.

    Parameters
    ----------
    environments, coefficients
        Of the trend; eV, shape (m,).
    batch
        Structures whose atoms are looked at.

    Returns
    -------
    list of ndarray, shape (n_features, n_features)
        eV² in units of the descriptor; zeros for an element without atoms.
    """
    size = batch.local.shape[1]
    sums = np.zeros((len(environments.elements), size, size))
    counts = np.zeros(len(sums))
    for block in environments.kernels(batch):
        slopes = environments.pulled(block, coefficients)
        for e, mask in enumerate(block.masks):
            own = slopes[mask]
            sums[e] += own.T @ own
            counts[e] += len(own)
    return list(sums / np.maximum(counts, 1.0)[:, None, None])


def metric_root(products: FloatArray, exponent: float) -> FloatArray:
    """Symmetric root of a metric: distances of rows times it are those of ``products ** exponent``.

    The identity where there are no slopes.
    """
    values, vectors = np.linalg.eigh(products)
    if not values[-1] > 0:
        return np.eye(len(products))
    relative = np.maximum(values / values[-1], _FLOOR)
    return np.asarray((vectors * relative ** (0.5 * exponent)) @ vectors.T)


def unseen_fold(folds: IntArray) -> BoolArray | None:
    """Structures that shall teach the metric nothing, (n,): those left out in the first fold.

    In the smallest where that has more than half of them; None where nothing is left out together.
    """
    counts = np.bincount(folds)
    if len(counts) < 2:
        return None
    return np.asarray(folds == (0 if 2 * counts[0] <= len(folds) else counts.argmin()))


def pilot_sample(
    groups: Sequence[str],
    sizes: IntArray,
    seen: BoolArray,
    labelled: BoolArray,
    most: int,
    seed: int,
) -> IntArray:
    """Structures among ``seen`` that the first trend is fitted to, at most ``most``.

    Those that are labelled, then the rest: of each kind one of each group after the other, small
    ones first.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(seen))
    order = order[np.lexsort((sizes[order], ~labelled[order]))]
    taken: Counter[tuple[str, bool]] = Counter()
    turns = np.empty(len(order), dtype=np.intp)
    for place, i in enumerate(order):
        kind = groups[i], bool(labelled[i])
        turns[place] = taken[kind]
        taken[kind] += 1
    return np.sort(order[np.lexsort((turns, ~labelled[order]))][:most])
