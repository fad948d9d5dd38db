"""Gaussian kernels of atomic environments, and sums of them in a numerically stable basis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ase_knncalc.descriptors import FeatureBatch

FloatArray = np.ndarray

# Eigenvalues of the kernel matrix of the inducing environments below this fraction of the largest
# are rounding noise: directions that the data cannot tell apart in float64.
_EIGENVALUE_FLOOR = 1e-13
# Atoms whose kernels are held at a time.
_BLOCK_ATOMS = 4096


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


Project = Callable[[int, FloatArray], FloatArray]


def kernel_blocks(
    batch: FeatureBatch, elements: Sequence[int], project: Project, points: Sequence[FloatArray]
) -> Iterator[tuple[slice, list[FloatArray]]]:
    """Kernels of atoms with points of their element, summed over structures, block by block.

    Parameters
    ----------
    batch
        Of n structures; each row is read once.
    elements
        Atomic numbers.
    project
        From the place of an element and descriptor rows to environments in units of the length
        scale.
    points
        Of each element, shape (m, rank).

    Yields
    ------
    rows : slice
        Which structures.
    sums : list of ndarray
        For each element, shape (len(rows), m).
    """
    for rows, part in batch.batches(_BLOCK_ATOMS):
        owners = np.repeat(np.arange(len(part)), part.sizes)
        sums = []
        for e, number in enumerate(elements):
            of_element = np.zeros((len(part), len(points[e])))
            mask = part.numbers == number
            if mask.any():
                kernel = gaussian(project(e, part.local[mask]), points[e])
                owner = owners[mask]
                first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
                of_element[owner[first]] = np.add.reduceat(kernel, first, axis=0)
            sums.append(of_element)
        yield rows, sums


def kernel_sums(
    batch: FeatureBatch, elements: Sequence[int], project: Project, points: Sequence[FloatArray]
) -> FloatArray:
    """As :func:`kernel_blocks`, all structures and elements in one array, shape (n, Σ m)."""
    out = np.empty((len(batch), sum(len(p) for p in points)))
    for rows, sums in kernel_blocks(batch, elements, project, points):
        np.concatenate(sums, axis=1, out=out[rows])
    return out


def whitened_columns(
    batch: FeatureBatch,
    elements: Sequence[int],
    project: Project,
    points: Sequence[FloatArray],
    whiteners: Sequence[FloatArray],
) -> FloatArray:
    """Kernel sums of each structure in the whitened basis, shape (n_structures, n_columns)."""
    out = np.empty((len(batch), sum(w.shape[1] for w in whiteners)))
    for rows, sums in kernel_blocks(batch, elements, project, points):
        out[rows] = whitened(sums, whiteners)
    return out


def whitened(sums: Sequence[FloatArray], whiteners: Sequence[FloatArray]) -> FloatArray:
    """Kernel sums of each element with the first points of it that ``whiteners`` are for."""
    return np.hstack([s[:, : len(w)] @ w for s, w in zip(sums, whiteners, strict=True)])
