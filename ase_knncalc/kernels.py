"""Gaussian kernels of atomic environments, and sums of them in a numerically stable basis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ase_knncalc.descriptors import FeatureBatch

FloatArray = np.ndarray

# Eigenvalues of the kernel matrix of the inducing environments below this fraction of the largest
# are rounding noise: directions that the data cannot tell apart in float64.
_EIGENVALUE_FLOOR = 1e-13


def gaussian(a: FloatArray, b: FloatArray) -> FloatArray:
    """Gaussian kernel of points in units of the length scale, shape (len(a), len(b))."""
    half = a @ b.T
    half -= 0.5 * np.einsum("ij,ij->i", a, a)[:, None]
    half -= 0.5 * np.einsum("ij,ij->i", b, b)
    np.minimum(half, 0.0, out=half)
    return np.exp(half, out=half)


def whitener(points: FloatArray) -> FloatArray:
    """W with Wᵀ K W = 1 for the kernel matrix K of the points, shape (n_points, n_columns)."""
    values, vectors = np.linalg.eigh(gaussian(points, points))
    keep = values > _EIGENVALUE_FLOOR * values[-1]
    return np.asarray(vectors[:, keep] / np.sqrt(values[keep]))


def kernel_sums(
    batch: FeatureBatch,
    number: int,
    project: Callable[[FloatArray], FloatArray],
    points: FloatArray,
) -> FloatArray:
    """Kernels of the atoms of one element with points, summed over each structure.

    Parameters
    ----------
    batch
        Of n structures.
    number
        Atomic number.
    project
        From descriptor rows to environments in units of the length scale.
    points
        Shape (m, rank).

    Returns
    -------
    ndarray, shape (n, m)
    """
    sums = np.zeros((len(batch), len(points)))
    for rows, part in batch.batches(4096):
        mask = part.numbers == number
        if mask.any():
            owner = np.repeat(np.arange(len(part)), part.sizes)[mask]
            kernel = gaussian(project(part.local[mask]), points)
            first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
            sums[rows.start + owner[first]] = np.add.reduceat(kernel, first, axis=0)
    return sums


def whitened_columns(
    batch: FeatureBatch,
    elements: Sequence[int],
    project: Callable[[int, FloatArray], FloatArray],
    points: Sequence[FloatArray],
    whiteners: Sequence[FloatArray],
) -> FloatArray:
    """Kernel sums of each structure in the whitened basis, shape (n_structures, n_columns)."""
    return np.hstack(
        [
            kernel_sums(batch, number, partial(project, e), points[e]) @ whiteners[e]
            for e, number in enumerate(elements)
        ]
    )
