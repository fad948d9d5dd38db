"""Descriptors of many structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray, runs
from ase_knncalc._lib.rowstore import DiskRows, Rows
from ase_knncalc.descriptors.base import Descriptor

# Atoms that are described at a time: what is known of their pairs stays in the caches.
_TOGETHER = 256


@dataclass(frozen=True)
class FeatureBatch:
    """Descriptors of several structures, all atoms stacked.

    Attributes
    ----------
    numbers : ndarray of int, shape (n_atoms_total,)
    local : ndarray or DiskRows, shape (n_atoms_total, n_features)
        In memory, or on disk where they are too many for that.
    starts : ndarray of int, shape (n_structures + 1,)
        Structure ``s`` owns the atoms ``starts[s]:starts[s + 1]``.
    charges : ndarray of int, shape (n_structures,)
    by_element : tuple of int
        Atomic numbers whose rows global descriptors keep apart; none where rows of all elements
        have one meaning.
    """

    numbers: IntArray
    local: Rows
    starts: IntArray
    charges: IntArray
    by_element: tuple[int, ...] = ()
    _summed: list[FloatArray] = field(default_factory=list, repr=False, compare=False)
    kernels: list[Any] | None = field(default=None, repr=False, compare=False)
    """Kernels that are known, where :mod:`ase_knncalc.trend.environments` is to keep them."""

    def __len__(self) -> int:
        return len(self.charges)

    @property
    def sizes(self) -> IntArray:
        """Number of atoms of each structure, shape (n_structures,)."""
        return np.diff(self.starts)

    def summed(self) -> FloatArray:
        """Global descriptors: rows summed over atoms in float64, (n_structures, n_features).

        Where rows of elements are kept apart, their sums stand side by side, in
        (n_structures, n_elements · n_features).
        """
        if not self._summed:
            width = self.local.shape[1]
            summed = np.zeros((len(self), width * max(1, len(self.by_element))))
            for rows, part in self.batches():
                if self.by_element:
                    part._add_by_element(summed[rows].reshape(-1, width))
                else:
                    summed[rows] = part.sum_atoms(part.local)
            self._summed.append(summed)
        return self._summed[0]

    def _add_by_element(self, sums: FloatArray) -> None:
        """Add rows to the sums (n_structures · n_elements, n_features) that they belong to."""
        kinds = np.searchsorted(self.by_element, self.numbers)
        owners = np.repeat(np.arange(len(self)), self.sizes) * len(self.by_element) + kinds
        order = np.argsort(owners, kind="stable")
        owners = owners[order]
        first = runs(owners)
        sums[owners[first]] += np.add.reduceat(self.local[order], first, axis=0, dtype=np.float64)

    def atoms_of(self, structures: slice) -> slice:
        """Where the atoms of consecutive structures are among all."""
        return slice(int(self.starts[structures.start]), int(self.starts[structures.stop]))

    def sum_atoms(self, values: Rows) -> FloatArray:
        """Sum per-atom values (n_atoms_total, …) over each structure, in float64."""
        return np.add.reduceat(values[:], self.starts[:-1], axis=0, dtype=np.float64)

    def counts(self, elements: Sequence[int]) -> FloatArray:
        """Atoms of each element, shape (n_structures, n_elements)."""
        return self.sum_atoms(
            (self.numbers[:, None] == np.asarray(elements)[None, :]).astype(np.float64)
        )

    @classmethod
    def of_one(
        cls, descriptor: Descriptor, numbers: IntArray, local: FloatArray, charge: int
    ) -> FeatureBatch:
        """One structure whose rows are known."""
        return cls(
            np.asarray(numbers, dtype=np.intp),
            local,
            np.array([0, len(local)]),
            np.array([charge], dtype=np.intp),
            descriptor.elements if descriptor.by_element else (),
            kernels=[],
        )

    @staticmethod
    def concatenate(parts: Sequence[FeatureBatch]) -> FeatureBatch:
        """Several batches as one in memory, in their order."""
        sizes = np.concatenate([p.sizes for p in parts])
        return FeatureBatch(
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.local[:] for p in parts]),
            np.concatenate([[0], np.cumsum(sizes)]),
            np.concatenate([p.charges for p in parts]),
            parts[0].by_element,
        )

    def select(self, indices: Sequence[int] | IntArray) -> FeatureBatch:
        """The structures of the given indices, in that order."""
        indices = np.asarray(indices, dtype=np.intp)
        sizes = self.sizes[indices]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        atoms = np.repeat(self.starts[indices] - starts[:-1], sizes) + np.arange(starts[-1])
        local = self.local.take(atoms) if isinstance(self.local, DiskRows) else self.local[atoms]
        selected = FeatureBatch(
            self.numbers[atoms], local, starts, self.charges[indices], self.by_element
        )
        selected._summed.extend(summed[indices] for summed in self._summed)
        return selected

    def batches(self, max_atoms: int = 20_000) -> Iterator[tuple[slice, FeatureBatch]]:
        """Cut into consecutive parts of at most ``max_atoms`` atoms (at least one structure)."""
        first = 0
        while first < len(self):
            limit = self.starts[first] + max_atoms
            last = max(first + 1, int(np.searchsorted(self.starts, limit, side="right")) - 1)
            a, b = self.starts[first], self.starts[last]
            yield (
                slice(first, last),
                FeatureBatch(
                    self.numbers[a:b],
                    self.local[a:b],
                    self.starts[first : last + 1] - a,
                    self.charges[first:last],
                    self.by_element,
                ),
            )
            first = last


def featurize(
    descriptor: Descriptor,
    structures: Sequence[tuple[IntArray, FloatArray, int]],
    dtype: str = "float64",
) -> FeatureBatch:
    """Descriptors of structures given as (numbers, positions, charge).

    Parameters
    ----------
    descriptor
        Computes the rows.
    structures
        ``numbers`` (n_atoms,), ``positions`` (n_atoms, 3) in Å and total charge of each.
    dtype
        Of the stored rows; float32 halves the memory of a training set.
    """
    sizes = [len(numbers) for numbers, _, _ in structures]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.intp)])
    local = np.empty((starts[-1], descriptor.n_features), dtype=dtype)
    numbers = np.concatenate([np.asarray(n) for n, _, _ in structures])
    positions = np.concatenate([np.asarray(p, dtype=np.float64) for _, p, _ in structures])
    first = 0
    while first < len(structures):
        limit = starts[first] + _TOGETHER
        last = max(first + 1, int(np.searchsorted(starts, limit, side="right")) - 1)
        a, b = starts[first], starts[last]
        local[a:b] = descriptor.together(numbers[a:b], positions[a:b], starts[first : last + 1] - a)
        first = last
    return FeatureBatch(
        numbers.astype(np.intp),
        local,
        starts,
        np.asarray([charge for _, _, charge in structures], dtype=np.intp),
        descriptor.elements if descriptor.by_element else (),
    )


def summed_width(descriptor: Descriptor) -> int:
    """Length of a global descriptor."""
    return descriptor.n_features * (len(descriptor.elements) if descriptor.by_element else 1)


def of_atoms(
    slope: FloatArray, numbers: IntArray, elements: Sequence[int], width: int
) -> FloatArray:
    """Derivative by a structure's global descriptor as derivatives by its atoms' rows.

    Parameters
    ----------
    slope
        Shape (n,), n the width of a row or, where elements are kept apart, a multiple of it.
    numbers
        Of the atoms, shape (n_atoms,).
    elements
        Atomic numbers, ascending.
    width
        Length of a row.
    """
    if len(slope) == width:
        return np.broadcast_to(slope, (len(numbers), width))
    return np.asarray(slope.reshape(-1, width)[np.searchsorted(elements, numbers)])
