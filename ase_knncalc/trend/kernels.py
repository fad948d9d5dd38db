"""Kernels of atomic environments, and sums of them in a numerically stable basis.

    k = (g + s g⁴) / (1 + s),    g = exp(−|z − p|² / 2)

with places z and points p in units of the length scale. g⁴ is the Gaussian of half of it, in the
share s: what two environments have in common at large, and what is theirs alone. The first by
itself (s = 0) is so smooth that beyond some thousand points no further one is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray, runs
from ase_knncalc.descriptors import FeatureBatch

# Eigenvalues of the kernel matrix of the inducing environments below this fraction of the largest
# are rounding noise: directions that the data cannot tell apart in float64.
EIGENVALUE_FLOOR = 1e-13
# The same where rows of slopes are in single precision, which whitening amplifies.
FORCES_FLOOR = 1e-10
# Kernels above this are of an environment with itself, in the precision of a file.
_SAME = 1.0 - 1e-8
# Atoms whose kernels are held at a time.
_BLOCK_ATOMS = 4096


def half_squares(points: FloatArray) -> FloatArray:
    """Half the squared norm of each point, shape (n_points,)."""
    return np.asarray(0.5 * np.einsum("ij,ij->i", points, points))


def raised(points: FloatArray) -> FloatArray:
    """Points p as (p, 1, −|p|²/2), shape (n_points, rank + 2).

    Exponents of kernels are then one product of matrices, see :func:`gaussian_of`.
    """
    return np.column_stack([points, np.ones(len(points)), -half_squares(points)])


Product = Callable[[FloatArray, Any], FloatArray]


def product(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    """Product rows @ matrix.T, which everything here is made of."""
    return np.asarray(rows @ matrix.T)


def gaussian_of(z: FloatArray, points: FloatArray, product: Product = product) -> FloatArray:
    """Gaussian kernel of places z in units of the length scale with :func:`raised` points."""
    own = np.empty((len(z), points.shape[1]))
    own[:, :-2] = z
    np.negative(half_squares(z), out=own[:, -2])
    own[:, -1] = 1.0
    half = product(own, points)
    np.minimum(half, 0.0, out=half)
    np.exp(half, out=half)
    return half


def gaussian(a: FloatArray, b: FloatArray) -> FloatArray:
    """Gaussian kernel of points in units of the length scale, shape (len(a), len(b))."""
    return gaussian_of(a, raised(b))


def mixed(gaussians: FloatArray, share: float) -> FloatArray:
    """The kernel, of any shape, from its wide Gaussian; see the module."""
    return _mixed(gaussians, share, share)


def mixed_slope(gaussians: FloatArray, share: float) -> FloatArray:
    """Slope of the kernel by the exponent −|z − p|² / 2 of its wide Gaussian, of any shape."""
    return _mixed(gaussians, share, 4.0 * share)


def _mixed(gaussians: FloatArray, share: float, sharp: float) -> FloatArray:
    """(g + sharp · g⁴) / (1 + share)."""
    if not share:
        return gaussians
    out = gaussians * gaussians
    out *= out
    out *= sharp
    out += gaussians
    out /= 1.0 + share
    return out


def whitener(points: FloatArray, floor: float = EIGENVALUE_FLOOR, share: float = 0.0) -> FloatArray:
    """W with Wᵀ K W = 1 for the kernel matrix K of the points, shape (n_points, n_columns).

    Eigenvalues below ``floor`` times the largest are left out.
    """
    values, vectors = np.linalg.eigh(mixed(gaussian(points, points), share))
    keep = values > floor * values[-1]
    return np.asarray(vectors[:, keep] / np.sqrt(values[keep]))


Project = Callable[[int, FloatArray], FloatArray]


@dataclass(frozen=True)
class KernelBlock:
    """Kernels of the atoms of consecutive structures with the points of their element.

    Attributes
    ----------
    rows : slice
        Which structures.
    part : FeatureBatch
        These structures.
    masks : list of ndarray of bool, shape (n_atoms,)
        For each element, its atoms.
    gaussians : list of ndarray, shape (n_atoms of the element, n_points of the element)
        The wide Gaussians of the kernels.
    places : list of ndarray, shape (n_atoms of the element, rank)
        The atoms in units of the length scale.
    share : float
        Of the sharp Gaussian.
    """

    rows: slice
    part: FeatureBatch
    masks: list[BoolArray]
    gaussians: list[FloatArray]
    places: list[FloatArray]
    share: float = 0.0

    @cached_property
    def kernels(self) -> list[FloatArray]:
        """Shapes as of :attr:`gaussians`."""
        return [mixed(own, self.share) for own in self.gaussians]

    def sums(self, counts: Sequence[int] | IntArray | None = None) -> list[FloatArray]:
        """Of each element, summed over structures, shape (n_structures, n_points).

        ``counts`` are how many of the first points are wanted; None is all.
        """
        owners = np.repeat(np.arange(len(self.part)), self.part.sizes)
        sums: list[FloatArray] = []
        for e, (mask, kernel) in enumerate(zip(self.masks, self.kernels, strict=True)):
            own = kernel if counts is None else kernel[:, : counts[e]]
            of_element = np.zeros((len(self.part), own.shape[1]))
            if len(own):
                owner = owners[mask]
                first = runs(owner)
                of_element[owner[first]] = np.add.reduceat(own, first, axis=0)
            sums.append(of_element)
        return sums

    def weighted(self, weights: Sequence[FloatArray]) -> FloatArray:
        """Σ w k over points and atoms, weights of each element's, shape (n_structures,)."""
        of_atoms = np.zeros(len(self.part.numbers))
        for mask, kernel, own in zip(self.masks, self.kernels, weights, strict=True):
            if len(kernel):
                of_atoms[mask] = kernel @ own
        return self.part.sum_atoms(of_atoms)

    def first(self, counts: Sequence[int] | IntArray) -> KernelBlock:
        """The kernels with the first points of each element."""
        own = [part[:, :n] for part, n in zip(self.gaussians, counts, strict=True)]
        return replace(self, gaussians=own)

    def distances(self, units: FloatArray | float = 1.0, *, others: bool = False) -> FloatArray:
        """Distance of each atom to the nearest point of its element, shape (n_atoms,).

        0 where its element has none.

        Parameters
        ----------
        units
            Of each element, shape (n_elements,), in those of the points.
        others
            Leave points that equal the atom's own out of account: for training structures.
        """
        found = np.zeros(len(self.part.numbers))
        unit = np.broadcast_to(units, len(self.masks))
        for e, (mask, near) in enumerate(zip(self.masks, self.gaussians, strict=True)):
            if not near.size:
                continue
            if others:
                near = np.where(near > _SAME, 0.0, near)
            nearest = np.maximum(near.max(axis=1), np.finfo(np.float64).tiny)
            found[mask] = np.sqrt(-2.0 * np.log(nearest)) / unit[e]
        return found


def kernel_blocks(
    batch: FeatureBatch,
    elements: Sequence[int],
    project: Project,
    points: Sequence[FloatArray],
    share: float = 0.0,
    product: Product = product,
) -> Iterator[KernelBlock]:
    """Kernels of atoms with points of their element, block by block; each row is read once.

    Parameters
    ----------
    batch
        Of n structures.
    elements
        Atomic numbers.
    project
        From the place of an element and descriptor rows to environments in units of the length
        scale.
    points
        Of each element, :func:`raised`, shape (m, rank + 2).
    share
        Of the sharp Gaussian.
    product
        What multiplies: :func:`product`, or what does the same.
    """
    for rows, part in batch.batches(_BLOCK_ATOMS):
        masks, places, gaussians = [], [], []
        for e, (number, own) in enumerate(zip(elements, points, strict=True)):
            mask = part.numbers == number
            masks.append(mask)
            if mask.any():
                places.append(project(e, part.local[mask]))
                gaussians.append(gaussian_of(places[-1], own, product))
            else:
                places.append(np.zeros((0, own.shape[1] - 2)))
                gaussians.append(np.zeros((0, len(own))))
        yield KernelBlock(rows, part, masks, gaussians, places, share)


def whitened(sums: Sequence[FloatArray], whiteners: Sequence[FloatArray]) -> FloatArray:
    """Kernel sums of each element with the first points of it that ``whiteners`` are for."""
    return np.hstack([s[:, : len(w)] @ w for s, w in zip(sums, whiteners, strict=True)])


def unwhitened(whiteners: Sequence[FloatArray], columns: FloatArray) -> FloatArray:
    """What stands for whitened columns (Σ n_columns, …) for plain ones, (Σ n_points, …)."""
    stops = np.cumsum([w.shape[1] for w in whiteners])[:-1]
    parts = np.split(columns, stops)
    return np.concatenate([w @ part for w, part in zip(whiteners, parts, strict=True)])
