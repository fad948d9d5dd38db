"""A descriptor whose rows are compressed to the principal components of their element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray
from ase_knncalc.descriptors.base import require_atoms
from ase_knncalc.descriptors.moving import Derivatives, MovingRows
from ase_knncalc.descriptors.power_spectrum import Expansion, PowerSpectrum
from ase_knncalc.errors import SettingsError


@dataclass(frozen=True)
class Compressed:
    """The first principal components of another descriptor's rows, those of each element its own.

    Rows of atoms of different elements have no common meaning: global descriptors keep them apart
    (:meth:`FeatureBatch.summed`).

    Parameters
    ----------
    base
        What is compressed.
    means
        Of the rows of each element, shape (n_elements, n_features of the base).
    axes
        Principal axes of each element in units that make the variance of all of its rows 1,
        float32, shape (n_elements, rank, n_features of the base).
    """

    kind: ClassVar[str] = "compressed"
    differentiable: ClassVar[bool] = True
    by_element: ClassVar[bool] = True

    base: PowerSpectrum
    means: FloatArray
    axes: FloatArray

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the descriptor distinguishes, ascending."""
        return self.base.elements

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        return int(self.axes.shape[1])

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], Part]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_parts", "_compiled")}

    def compiled(self) -> Compressed:
        """The same by compiled loops, where numba is installed; rows differ by rounding."""
        return self._compiled

    @cached_property
    def _compiled(self) -> Compressed:
        # Their matrices are in the precision of the axes.
        if self.axes.dtype != np.float32:
            return self
        try:
            from ase_knncalc.descriptors.compiled import CompiledDescriptor
        except ImportError:
            return self
        return CompiledDescriptor(self.base, self.means, self.axes)

    def part(self, elements: tuple[int, ...]) -> Part:
        """What a structure of these elements needs, kept for the next one."""
        part = self._parts.get(elements)
        if part is None:
            if len(self._parts) >= _KEPT_PARTS:
                # Two threads may both have found the same one to be the oldest.
                self._parts.pop(next(iter(list(self._parts))), None)
            part = self._parts[elements] = _part(self, elements)
        return part

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms, shape (n_atoms, n_features); see :meth:`PowerSpectrum.local`."""
        return self.moving(numbers, positions).rows

    def moving(self, numbers: IntArray, positions: FloatArray) -> MovingRows:
        """Rows as from :meth:`local`, and what moves them."""
        numbers, positions = require_atoms(numbers, positions, self.elements)
        part = self.part(elements_of(numbers) or self.elements)
        kinds = np.searchsorted(part.base.elements, numbers)
        return CompressedRows(part, kinds, part.base.moving(numbers, positions))

    def together(self, numbers: IntArray, positions: FloatArray, starts: IntArray) -> FloatArray:
        """Rows of several structures, those of the same elements at once.

        See :meth:`DescriptorSettings.together`.
        """
        numbers, positions = require_atoms(numbers, positions, self.elements)
        groups: dict[tuple[int, ...], list[IntArray]] = {}
        for a, b in pairwise(starts.tolist()):
            elements = elements_of(numbers[a:b]) or self.elements
            groups.setdefault(elements, []).append(np.arange(a, b))
        out = np.empty((len(numbers), self.n_features))
        for elements, members in groups.items():
            part, atoms = self.part(elements), np.concatenate(members)
            kinds = np.searchsorted(part.base.elements, numbers[atoms])
            own = np.cumsum([0, *map(len, members)])
            expansion = Expansion(part.base, numbers[atoms], positions[atoms], own)
            out[atoms] = CompressedRows(part, kinds, expansion).rows
        return out

    def blocks(self) -> dict[str, slice]:
        """The whole row: a principal component describes everything."""
        return {"environment": slice(0, self.n_features)}

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings, with the kind of descriptor."""
        return {"kind": self.kind, "base": self.base.to_dict(), "elements": list(self.elements)}

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps beside the settings."""
        return {"means": self.means, "axes": self.axes}

    @classmethod
    def from_arrays(cls, base: PowerSpectrum, arrays: Mapping[str, AnyArray]) -> Compressed:
        """From what :meth:`arrays` gives.

        Raises
        ------
        SettingsError
            If the arrays are not those of the base.
        """
        means, axes = arrays["means"], arrays["axes"]
        n, f = len(base.elements), base.n_features
        if means.shape != (n, f) or axes.ndim != 3 or (axes.shape[0], axes.shape[2]) != (n, f):
            raise SettingsError(
                f"descriptor: means {means.shape} and axes {axes.shape} do not fit {n} elements "
                f"with rows of {f} numbers"
            )
        return cls(base, means, axes)


def elements_of(numbers: IntArray) -> tuple[int, ...]:
    """Elements that some atoms have, ascending."""
    return tuple(sorted(set(numbers.tolist())))


# Sets of elements whose part of the axes is kept.
_KEPT_PARTS = 8


@dataclass(frozen=True)
class Part:
    """The part of a compressed descriptor that structures of some elements need.

    What the other elements add to a row is zero before it is compressed, and a constant after.

    Attributes
    ----------
    base : PowerSpectrum
        That of the elements alone.
    means, maps, constants : ndarray
        A row is (row of the base − mean) @ mapᵀ + constant; of each element, shapes (n_elements,
        n_features of the base), (n_elements, rank, n_features of the base), (n_elements, rank).
    """

    base: PowerSpectrum
    means: FloatArray
    maps: FloatArray
    constants: FloatArray

    @cached_property
    def single_maps(self) -> FloatArray:
        """The maps in single precision, which is that of the axes."""
        return self.maps.astype(np.float32)

    @cached_property
    def single_columns(self) -> FloatArray:
        """The single maps the other way round, (n_elements, n_features of the base, rank)."""
        return np.ascontiguousarray(self.single_maps.transpose(0, 2, 1))

    @cached_property
    def single_products(self) -> list[list[FloatArray]]:
        """The maps of each element by the products of coefficients, of each degree."""
        return [self.base.by_products(maps) for maps in self.single_maps]


def _part(whole: Compressed, elements: tuple[int, ...]) -> Part:
    places = np.searchsorted(whole.elements, elements)
    own = whole.base.features_of(places)
    means = whole.means[places]
    rest = means.copy()
    rest[:, own] = 0.0
    axes = whole.axes[places].astype(np.float64)
    return Part(
        replace(whole.base, elements=elements),
        means[:, own],
        np.ascontiguousarray(axes[:, :, own]),
        -np.einsum("ef,erf->er", rest, axes),
    )


@dataclass(frozen=True)
class CompressedRows:
    """Rows of one structure, see :class:`MovingRows`."""

    part: Part
    kinds: IntArray
    expansion: Expansion

    @cached_property
    def rows(self) -> FloatArray:
        """Shape (n_atoms, n_features)."""
        full = self.expansion.rows
        out = np.empty((len(full), self.part.maps.shape[1]))
        for e, atoms in self._elements:
            rows = (full[atoms] - self.part.means[e]) @ self.part.maps[e].T
            out[atoms] = rows + self.part.constants[e]
        return out

    @cached_property
    def _elements(self) -> list[tuple[int, IntArray]]:
        return atoms_by_element(self.kinds, len(self.part.maps))

    def derivatives(self, dtype: str = "float64") -> Derivatives:
        """All derivatives of the rows."""
        if dtype == "float32":
            maps, products = self.part.single_maps, self.part.single_products
        else:
            maps = self.part.maps
            products = [self.part.base.by_products(of_element) for of_element in maps]
        return self.expansion.projected(maps, products, self.kinds)

    def along(self, displacements: FloatArray) -> FloatArray:
        """Changes of the rows along displacements (k, n_atoms, 3), (k, n_atoms, n_features)."""
        full = self.expansion.along(displacements).astype(np.float32)
        out = np.empty((*full.shape[:2], self.part.maps.shape[1]))
        for e, atoms in self._elements:
            # In the precision of the axes: no energy comes from this.
            out[:, atoms] = full[:, atoms] @ self.part.single_maps[e].T
        return out

    def pull(self, slopes: FloatArray) -> FloatArray:
        """Gradient of Σ slopes · rows by the positions, 1/Å, shape (n_atoms, 3)."""
        full = np.empty((len(slopes), self.part.base.n_features))
        for e, atoms in self._elements:
            full[atoms] = slopes[atoms] @ self.part.maps[e]
        return self.expansion.pull(full)


def atoms_by_element(kinds: IntArray, n_elements: int) -> list[tuple[int, IntArray]]:
    """Each element that a structure has, by its place, with its atoms."""
    atoms = [np.flatnonzero(kinds == e) for e in range(n_elements)]
    return [(e, of) for e, of in enumerate(atoms) if len(of)]


def compress(
    base: PowerSpectrum, structures: Iterable[tuple[IntArray, FloatArray]], rank: int
) -> Compressed:
    """Principal axes of the rows of some structures.

    Parameters
    ----------
    base
        What is compressed.
    structures
        Numbers (n_atoms,) and positions (n_atoms, 3) of each, Å. An element that none of them has
        gets axes of zeros.
    rank
        Components kept of each element; fewer where there are fewer atoms.
    """
    n_elements, f = len(base.elements), base.n_features
    counts, sums = np.zeros(n_elements), np.zeros((n_elements, f))
    squares = np.zeros((n_elements, f, f))
    for numbers, positions in structures:
        rows = base.local(numbers, positions)
        kinds = np.searchsorted(base.elements, numbers)
        for e in np.unique(kinds):
            own = rows[kinds == e]
            counts[e] += len(own)
            sums[e] += own.sum(axis=0)
            squares[e] += own.T @ own
    rank = min(rank, f)
    means = sums / np.maximum(counts, 1.0)[:, None]
    axes = np.zeros((n_elements, rank, f), dtype=np.float32)
    for e in np.flatnonzero(counts):
        covariance = squares[e] / counts[e] - np.outer(means[e], means[e])
        values, vectors = np.linalg.eigh(covariance)
        kept = int(min(rank, np.sum(values > values[-1] * 1e-12))) if values[-1] > 0 else 0
        if kept:
            axes[e, :kept] = vectors[:, ::-1][:, :kept].T / np.sqrt(values.clip(0.0).sum())
    return Compressed(base, means, axes)
