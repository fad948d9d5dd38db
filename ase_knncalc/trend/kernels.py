"""Gaussian kernels of atomic environments, and sums of them in a numerically stable basis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray
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


def gaussian(a: FloatArray, b: FloatArray, squares: FloatArray | None = None) -> FloatArray:
    """Gaussian kernel of points in units of the length scale, shape (len(a), len(b)).

    ``squares`` are the :func:`half_squares` of ``b`` where they are known.
    """
    half: FloatArray = a @ b.T
    half -= half_squares(a)[:, None]
    half -= half_squares(b) if squares is None else squares
    np.minimum(half, 0.0, out=half)
    np.exp(half, out=half)
    return half


def whitener(points: FloatArray, floor: float = EIGENVALUE_FLOOR) -> FloatArray:
    """W with Wᵀ K W = 1 for the kernel matrix K of the points, shape (n_points, n_columns).

    Eigenvalues below ``floor`` times the largest are left out.
    """
    values, vectors = np.linalg.eigh(gaussian(points, points))
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
    kernels : list of ndarray, shape (n_atoms of the element, n_points of the element)
    places : list of ndarray, shape (n_atoms of the element, rank)
        The atoms in units of the length scale.
    """

    rows: slice
    part: FeatureBatch
    masks: list[BoolArray]
    kernels: list[FloatArray]
    places: list[FloatArray]

    def sums(self) -> list[FloatArray]:
        """Of each element, summed over structures, shape (n_structures, n_points)."""
        owners = np.repeat(np.arange(len(self.part)), self.part.sizes)
        sums: list[FloatArray] = []
        for mask, kernel in zip(self.masks, self.kernels, strict=True):
            of_element = np.zeros((len(self.part), kernel.shape[1]))
            owner = owners[mask]
            if len(owner):
                first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
                of_element[owner[first]] = np.add.reduceat(kernel, first, axis=0)
            sums.append(of_element)
        return sums

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
        for e, (mask, kernel) in enumerate(zip(self.masks, self.kernels, strict=True)):
            if not kernel.size:
                continue
            if others:
                kernel = np.where(kernel > _SAME, 0.0, kernel)
            nearest = np.maximum(kernel.max(axis=1), np.finfo(np.float64).tiny)
            found[mask] = np.sqrt(-2.0 * np.log(nearest)) / unit[e]
        return found


def kernel_blocks(
    batch: FeatureBatch,
    elements: Sequence[int],
    project: Project,
    points: Sequence[FloatArray],
    squares: Sequence[FloatArray] | None = None,
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
        Of each element, shape (m, rank).
    squares
        Their :func:`half_squares`, where they are known.
    """
    squares = [half_squares(own) for own in points] if squares is None else squares
    for rows, part in batch.batches(_BLOCK_ATOMS):
        masks = [part.numbers == number for number in elements]
        places = [project(e, part.local[mask]) for e, mask in enumerate(masks)]
        kernels = [
            gaussian(z, own, halves) for z, own, halves in zip(places, points, squares, strict=True)
        ]
        yield KernelBlock(rows, part, masks, kernels, places)


def whitened(sums: Sequence[FloatArray], whiteners: Sequence[FloatArray]) -> FloatArray:
    """Kernel sums of each element with the first points of it that ``whiteners`` are for."""
    return np.hstack([s[:, : len(w)] @ w for s, w in zip(sums, whiteners, strict=True)])


def unwhitened(whiteners: Sequence[FloatArray], columns: FloatArray) -> FloatArray:
    """What stands for whitened columns (Σ n_columns, …) for plain ones, (Σ n_points, …)."""
    stops = np.cumsum([w.shape[1] for w in whiteners])[:-1]
    parts = np.split(columns, stops)
    return np.concatenate([w @ part for w, part in zip(whiteners, parts, strict=True)])
