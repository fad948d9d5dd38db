"""Finding structures that are there twice, in whatever orientation and order of atoms."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from ase import Atoms

from ase_knncalc.structure import resolve_charge


@dataclass
class _Group:
    """Structures of one formula and state, ordered by their first invariant."""

    order: list[float] = field(default_factory=list)
    invariants: list[np.ndarray] = field(default_factory=list)
    members: list[int] = field(default_factory=list)


class DuplicateFinder:
    """Tells whether a structure has been there before.

    Two structures are the same if they have the same elements, charge and multiplicity, and if
    the sorted interatomic distances of each pair of elements agree. That does not depend on
    rotation, translation, mirroring or the order of the atoms, as energies do not.

    Each frame is compared with few others: the mean, weighted mean, root mean square, least and
    greatest distance cannot differ by more than the greatest difference of two sorted distances,
    so that these five numbers rule out nearly all others.

    Parameters
    ----------
    tolerance
        Shift of an atom, in Å, up to which structures are the same. Files round positions.
    """

    def __init__(self, tolerance: float = 1e-4) -> None:
        # Two atoms that move apart change their distance by two shifts.
        self._limit = 2.0 * tolerance
        self._groups: dict[tuple[bytes, int, int], _Group] = {}
        self._frames: list[Atoms] = []

    @classmethod
    def of(cls, frames: Iterable[Atoms]) -> DuplicateFinder:
        """One that remembers structures with charge and multiplicity of their own."""
        finder = cls()
        for atoms in frames:
            finder.add(atoms, *resolve_charge(atoms))
        return finder

    def find_or_add(self, atoms: Atoms, charge: int, multiplicity: int) -> int | None:
        """Number of the earlier structure that this one repeats; None if it is new.

        A new structure is remembered under the number of new ones before it.
        """
        for known in self._matches(atoms, charge, multiplicity):
            return known
        self.add(atoms, charge, multiplicity)
        return None

    def find_all(self, atoms: Atoms, charge: int, multiplicity: int) -> list[int]:
        """Numbers of all remembered structures that are the same as this one."""
        return list(self._matches(atoms, charge, multiplicity))

    def add(self, atoms: Atoms, charge: int, multiplicity: int) -> None:
        """Remember a structure, new or not, under the number of those before it."""
        group = self._groups.setdefault(_key(atoms, charge, multiplicity), _Group())
        invariants = _invariants(*_sorted_distances(atoms))
        place = bisect_left(group.order, invariants[0])
        group.order.insert(place, float(invariants[0]))
        group.invariants.insert(place, invariants)
        group.members.insert(place, len(self._frames))
        self._frames.append(atoms)

    def _matches(self, atoms: Atoms, charge: int, multiplicity: int) -> Iterator[int]:
        group = self._groups.get(_key(atoms, charge, multiplicity))
        if group is None:
            return
        distances, weights = _sorted_distances(atoms)
        invariants = _invariants(distances, weights)
        first = bisect_left(group.order, invariants[0] - self._limit)
        last = bisect_right(group.order, invariants[0] + self._limit)
        for i in range(first, last):
            if np.abs(group.invariants[i] - invariants).max() > self._limit:
                continue
            other, _ = _sorted_distances(self._frames[group.members[i]])
            if not distances.size or np.abs(other - distances).max() <= self._limit:
                yield group.members[i]


def _key(atoms: Atoms, charge: int, multiplicity: int) -> tuple[bytes, int, int]:
    return np.sort(atoms.numbers).tobytes(), charge, multiplicity


@lru_cache(maxsize=256)
def _pairs(n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n_atoms, 1)


def _sorted_distances(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Distances, sorted within each pair of elements, and the product of charges of each."""
    i, j = _pairs(len(atoms))
    positions = atoms.positions
    distances = np.linalg.norm(positions[i] - positions[j], axis=1)
    numbers = np.asarray(atoms.numbers)
    low = np.minimum(numbers[i], numbers[j])
    high = np.maximum(numbers[i], numbers[j])
    order = np.lexsort((distances, low, high))
    return distances[order], (low * high)[order].astype(float)


def _invariants(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if not distances.size:
        return np.zeros(5)
    return np.array(
        [
            distances.mean(),
            distances @ weights / weights.sum(),
            np.sqrt(np.mean(distances**2)),
            distances.min(),
            distances.max(),
        ]
    )
