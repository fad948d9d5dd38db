"""Inducing environments of each element, and kernels of atoms with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ase_knncalc._lib.arguments import Length, Share, checked
from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray, runs
from ase_knncalc._lib.rowstore import Rows, allocate, folder_of
from ase_knncalc.descriptors import FeatureBatch, MovingRows
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.base import require_shape
from ase_knncalc.trend.kernels import (
    EIGENVALUE_FLOOR,
    KernelBlock,
    Product,
    gaussian_of,
    kernel_blocks,
    mixed,
    mixed_slope,
    product,
    raised,
    whitened,
    whitener,
)


class _Matrices(NamedTuple):
    """What products of an element are with: raised points, projection, and both transposed."""

    to_points: Any
    points_to: Any
    to_place: Any
    place_to: Any


@dataclass(frozen=True)
class Environments:
    """Points z_m in the projected descriptor space of their element.

    Atom i has a kernel with each point of its element (:mod:`ase_knncalc.trend.kernels`), at the
    place P(x_i − μ) / σ for its descriptor row x_i; sums of kernels over the atoms of a structure
    are what a trend is linear in.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    length_scale
        σ, shape ().
    means
        μ of each element, shape (n_elements, n_features).
    projections
        P of each element, shape (n_elements, rank, n_features).
    points
        All z, shape (m, rank), those of an element together.
    counts
        How many of them each element has, shape (n_elements,).
    sharp_share
        s of the kernel, shape ().

    Attributes
    ----------
    blocks : list of slice
        Where the points of each element are among all.
    scaled : list of ndarray, shape (n_points, rank)
        The points of each element in units of σ.
    raised : list of ndarray, shape (n_points, rank + 2)
        The same for :func:`~ase_knncalc.trend.kernels.gaussian_of`.
    product : callable
        What multiplies rows with points and projections.

    Raises
    ------
    SettingsError
        If σ, s or the counts have the wrong shape, σ is no positive number, or s negative or vast.
    """

    elements: tuple[int, ...]
    length_scale: FloatArray
    means: FloatArray
    projections: FloatArray
    points: FloatArray
    counts: IntArray
    sharp_share: FloatArray
    product: Product = field(init=False, repr=False, compare=False)
    blocks: list[slice] = field(init=False, repr=False, compare=False)
    scaled: list[FloatArray] = field(init=False, repr=False, compare=False)
    raised: list[FloatArray] = field(init=False, repr=False, compare=False)
    _maps: list[FloatArray] = field(init=False, repr=False, compare=False)
    _share: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_shape("length_scale", self.length_scale, ())
        require_shape("counts", self.counts, (len(self.elements),))
        require_shape("sharp_share", self.sharp_share, ())
        sigma = checked("trend: length_scale", self.length_scale, Length)
        share = float(checked("trend: sharp_share", self.sharp_share, Share))
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        blocks = [slice(int(a), int(b)) for a, b in pairwise(starts)]
        # In float64 from here on: single precision is amplified by the whitening.
        scaled = self.points.astype(np.float64) / sigma
        set_ = object.__setattr__
        set_(self, "product", product)
        set_(self, "blocks", blocks)
        set_(self, "_share", share)
        set_(self, "raised", [raised(scaled[b]) for b in blocks])
        set_(self, "scaled", [own[:, :-2] for own in self.raised])
        set_(self, "_maps", [p.astype(np.float64).T / sigma for p in self.projections])

    @classmethod
    def from_arrays(cls, elements: tuple[int, ...], arrays: Mapping[str, AnyArray]) -> Environments:
        """From what :meth:`arrays` gives."""
        names = ("length_scale", "means", "projections", "environments", "counts", "sharp_share")
        # Files of before have no second Gaussian.
        given = {"sharp_share": np.zeros(()), **arrays}
        return cls(elements, *(given[name] for name in names))

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps; no share of the sharp Gaussian where there is none."""
        share = {"sharp_share": self.sharp_share} if self._share else {}
        return share | {
            "length_scale": self.length_scale,
            "means": self.means,
            "projections": self.projections,
            "environments": self.points,
            "counts": self.counts,
        }

    def first(self, counts: IntArray) -> Environments:
        """The first points of each element, ``counts`` of them, shape (n_elements,)."""
        kept = [self.points[b][: int(n)] for b, n in zip(self.blocks, counts, strict=True)]
        few = replace(self, points=np.concatenate(kept), counts=np.array([len(k) for k in kept]))
        object.__setattr__(few, "_maps", self._maps)
        return few

    def multiplied_by(self, product: Product, held: Callable[[FloatArray], Any]) -> Environments:
        """The same with another product, of matrices as ``held`` gives them."""
        other = copy(self)
        set_ = object.__setattr__
        set_(other, "product", product)
        # Of a pull the sum of squares is not asked for.
        set_(
            other,
            "_matrices",
            [
                _Matrices(
                    held(own.to_points),
                    held(own.points_to[:-1]),
                    held(own.to_place),
                    held(own.place_to),
                )
                for own in self._matrices
            ],
        )
        return other

    def project(self, element: int, rows: FloatArray) -> FloatArray:
        """Descriptor rows of one element (by its place) in units of σ, shape (n, rank)."""
        centred = np.subtract(rows, self.means[element], dtype=np.float64)
        return self.product(centred, self._matrices[element].to_place)

    def kernels(self, batch: FeatureBatch) -> Iterator[KernelBlock]:
        """Kernels of atoms with the points of their element, block by block.

        A batch that keeps kernels computes them once for all that use the same points, or the
        first of them: for the energy and properties of a structure.
        """
        if batch.kernels is None:
            return self._blocks(batch)
        for maps, blocks, counts in batch.kernels:
            if maps is self._maps and np.all(counts >= self.counts):
                return (block.first(self.counts) for block in blocks)
        blocks = list(self._blocks(batch))
        batch.kernels[:] = [(self._maps, blocks, self.counts)]
        return iter(blocks)

    def _blocks(self, batch: FeatureBatch) -> Iterator[KernelBlock]:
        points = [own.to_points for own in self._matrices]
        return kernel_blocks(batch, self.elements, self.project, points, self._share, self.product)

    @cached_property
    def _matrices(self) -> list[_Matrices]:
        return [
            _Matrices(points, points.T, map_.T, map_)
            for points, map_ in zip(self.raised, self._maps, strict=True)
        ]

    def sums(self, batch: FeatureBatch) -> FloatArray:
        """Kernels summed over the atoms of each structure, shape (n_structures, m)."""
        out = np.empty((len(batch), len(self.points)))
        for block in self.kernels(batch):
            np.concatenate(block.sums(), axis=1, out=out[block.rows])
        return out

    def whiteners(self, floor: float = EIGENVALUE_FLOOR) -> list[FloatArray]:
        """From plain to whitened sums, for each element.

        Their columns have no fixed sign: nothing that depends on them may outlive a fit.
        """
        return [whitener(points, floor, self._share) for points in self.scaled]

    def columns(self, batch: FeatureBatch, *bases: Sequence[FloatArray]) -> list[Rows]:
        """Sums of kernels in each of several bases, from one pass over the descriptors.

        Parameters
        ----------
        batch
            Of n structures.
        bases
            The :meth:`whiteners` of these points, or of the first of them.

        Returns
        -------
        list of ndarray, shape (n, n_columns)
            On disk if they are many.
        """
        tables = [
            allocate((len(batch), sum(w.shape[1] for w in of)), "float64", folder_of(batch.local))
            for of in bases
        ]
        for block in self.kernels(batch):
            sums = block.sums()
            for table, of in zip(tables, bases, strict=True):
                table[block.rows] = whitened(sums, of)
        return tables

    def distances(
        self, batch: FeatureBatch, units: FloatArray | float = 1.0, *, others: bool = False
    ) -> FloatArray:
        """Distance of each atom to the nearest point, see :meth:`KernelBlock.distances`."""
        found = np.zeros(len(batch.numbers))
        for block in self.kernels(batch):
            found[batch.atoms_of(block.rows)] = block.distances(units, others=others)
        return found

    def gradient(
        self, numbers: IntArray, local: FloatArray, coefficients: FloatArray
    ) -> FloatArray:
        """Derivative of Σ_m w_m k_m by each atom's row, w (m,), shape (n_atoms, n_features)."""
        whole, charges = np.array([0, len(local)]), np.zeros(1, dtype=np.intp)
        blocks = self.kernels(FeatureBatch(np.asarray(numbers), local, whole, charges))
        return self.pulled(next(blocks), coefficients)

    def pulled(self, block: KernelBlock, coefficients: FloatArray) -> FloatArray:
        """:meth:`gradient` of the structures of a block, whose kernels are known."""
        slope = np.zeros(block.part.local.shape)
        for e, (mask, near, z) in enumerate(
            zip(block.masks, block.gaussians, block.places, strict=True)
        ):
            if near.size:
                slope[mask] = self._pulled(e, z, near, coefficients[self.blocks[e]])
        return slope

    def _pulled(
        self, element: int, z: FloatArray, near: FloatArray, weights: FloatArray
    ) -> FloatArray:
        """Slopes of Σ w k along the rows of one element's atoms, whose Gaussians are known."""
        own, rank = self._matrices[element], z.shape[1]
        pull = self.product(mixed_slope(near, self._share) * weights, own.points_to)
        return self.product(pull[:, :rank] - pull[:, rank : rank + 1] * z, own.place_to)

    def value_and_gradient(
        self, numbers: IntArray, rows: FloatArray, coefficients: FloatArray
    ) -> tuple[float, FloatArray]:
        """Σ_m w_m k_m of one structure and :meth:`gradient`, with nothing beside them."""
        value, slope = 0.0, np.empty(rows.shape)
        for e, number in enumerate(self.elements):
            atoms = np.flatnonzero(numbers == number)
            if not len(atoms):
                continue
            z = self.project(e, rows[atoms])
            near = gaussian_of(z, self._matrices[e].to_points, self.product)
            own = coefficients[self.blocks[e]]
            value += float((mixed(near, self._share) @ own).sum())
            slope[atoms] = self._pulled(e, z, near, own)
        return value, slope

    def _slope(self, element: int, z: FloatArray) -> FloatArray:
        """Slopes of kernels of places z by their exponents, shape (len(z), n_points)."""
        return mixed_slope(gaussian_of(z, self.raised[element]), self._share)

    def slopes(self, numbers: IntArray, moving: MovingRows, dtype: str = "float64") -> FloatArray:
        """Derivatives of the sums of kernels by the positions of one structure, in Å⁻¹.

        Parameters
        ----------
        numbers
            Atomic numbers, shape (n_atoms,).
        moving
            Rows of the atoms, and what moves them.
        dtype
            Of the result.

        Returns
        -------
        ndarray, shape (3 n_atoms, m)
        """
        n, local, derivatives = len(numbers), moving.rows, moving.derivatives()
        out = np.zeros((n, 3, len(self.points)), dtype=dtype)
        starts = np.searchsorted(derivatives.centers, np.arange(n + 1))
        for e, number in enumerate(self.elements):
            atoms = np.flatnonzero(np.asarray(numbers) == number)
            points, part = self.scaled[e], out[:, :, self.blocks[e]]
            if not len(atoms) or not len(points):
                continue
            z = self.project(e, local[atoms])
            kernel = self._slope(e, z).astype(dtype, copy=False)
            z, points = z.astype(dtype, copy=False), points.astype(dtype, copy=False)
            for i, atom in enumerate(atoms):
                own = slice(starts[atom], starts[atom + 1])
                shifts = (derivatives.values[own] @ self._maps[e]).astype(dtype, copy=False)
                # d k(z_i, p)/dR = k' (p − z_i) · dz_i/dR
                change = (shifts @ points.T - (shifts @ z[i])[..., None]) * kernel[i]
                part[derivatives.moved[own]] += change
                part[atom] -= change.sum(axis=0)
        return out.reshape(3 * n, -1)

    @cached_property
    def _pulled_points(self) -> list[FloatArray]:
        """Points of each element in the space of the rows, (n_points, n_features)."""
        return [
            (points @ map_.T).astype(np.float32)
            for points, map_ in zip(self.scaled, self._maps, strict=True)
        ]

    def single_slopes(self, numbers: IntArray, moving: MovingRows) -> FloatArray:
        """:meth:`slopes` in single precision throughout: for variances, not for forces."""
        numbers, local = np.asarray(numbers), moving.rows
        derivatives = moving.derivatives("float32")
        out = np.zeros((len(numbers), 3, len(self.points)), dtype=np.float32)
        for e, number in enumerate(self.elements):
            own = np.flatnonzero(numbers[derivatives.centers] == number)
            if not len(own) or not len(self.scaled[e]):
                continue
            centers, moved = derivatives.centers[own], derivatives.moved[own]
            begins, order = runs(centers), np.argsort(moved, kind="stable")
            z = self.project(e, local[centers[begins]])
            kernel = self._slope(e, z).astype(np.float32)
            places = (z @ self._maps[e].T).astype(np.float32)
            # d k(z_i, p)/d row = k' (p − z_i) P; the row moves with its neighbours.
            atoms = np.repeat(np.arange(len(z)), np.diff(np.append(begins, len(own))))
            values = derivatives.values[own]
            change = values.reshape(-1, values.shape[2]) @ self._pulled_points[e].T
            change = change.reshape(len(own), 3, -1)
            change -= np.einsum("pcf,pf->pc", values, places[atoms])[:, :, None]
            change *= kernel[atoms][:, None, :]
            part = out[:, :, self.blocks[e]]
            part[centers[begins]] -= np.add.reduceat(change, begins, axis=0)
            begins = runs(moved[order])
            part[moved[order][begins]] += np.add.reduceat(change[order], begins, axis=0)
        return out.reshape(3 * len(numbers), -1)

    def slopes_along(
        self, numbers: IntArray, moving: MovingRows, displacements: FloatArray, dtype: str
    ) -> FloatArray:
        """Derivatives of the sums of kernels along displacements of all atoms.

        Parameters
        ----------
        numbers, moving, dtype
            As for :meth:`slopes`.
        displacements
            Shape (k, n_atoms, 3).

        Returns
        -------
        ndarray, shape (k, m)
            In units of the sums over those of the displacements times Å⁻¹.
        """
        local, changes = moving.rows, moving.along(displacements)
        out = np.zeros((len(displacements), len(self.points)), dtype=dtype)
        for e, number in enumerate(self.elements):
            atoms = np.flatnonzero(np.asarray(numbers) == number)
            points = self.scaled[e]
            if not len(atoms) or not len(points):
                continue
            z = self.project(e, local[atoms])
            kernel = self._slope(e, z).astype(dtype, copy=False)
            shifts = changes[:, atoms] @ self._maps[e]
            inner = np.einsum("kar,ar->ka", shifts, z).astype(dtype, copy=False)
            cross = shifts.astype(dtype, copy=False) @ points.T.astype(dtype, copy=False)
            # d k(z_i, p) = k' (p − z_i) · dz_i, summed over the atoms
            cross *= kernel
            out[:, self.blocks[e]] = cross.sum(axis=1) - inner @ kernel
        return out

    def validate(self, n_features: int) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""
        if self.projections.ndim != 3 or self.points.ndim != 2:
            raise SettingsError("trend: projections and environments have the wrong dimensions")
        n, rank, m = len(self.elements), self.projections.shape[1], len(self.points)
        require_shape("means", self.means, (n, n_features))
        require_shape("projections", self.projections, (n, rank, n_features))
        require_shape("environments", self.points, (m, rank))
        require_counts(self.counts, m)
        if self.counts.sum() != m:
            raise SettingsError("trend: counts of inducing environments do not fit")


def require_counts(counts: IntArray, most: int) -> None:
    """Raise :class:`SettingsError` unless these are whole numbers from 0 to ``most``."""
    # Before any sum, which could overflow.
    if counts.dtype.kind not in "iu" or np.any(counts < 0) or np.any(counts > most):
        raise SettingsError(f"trend: counts of environments must be from 0 to {most}")
