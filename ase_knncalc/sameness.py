"""Whether two structures are the same. All who ask that ask here.

From the strictest to the loosest: the same bits (:func:`exact_bytes`; :func:`changes` says what
differs), the same atoms in the same order but for a translation (:func:`largest_shift`), in
whatever orientation and order (:class:`DuplicateFinder`; :func:`matching_order` and :func:`turned`
say how the one becomes the other), and nearly so, as relaxations end (:func:`fitted_rmsd`;
:func:`symmetry_number` of a structure with itself). Where positions were not kept, places of
descriptors tell (:func:`near_pairs`), and the shift of atoms that such a distance stands for is
compared with :data:`SAME_IN_METRIC`. What has another :func:`species` is never the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes, compare_atoms

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.charges import stated
from ase_knncalc.structure import resolve_charge

# Shifts of an atom, in Å, up to which structures are the same: in one set of data (files round
# positions), in files of two programs or of two levels, for an oracle that is asked for structures
# of its own, and for a model, that knows them by its metric alone (root mean square, of which the
# metric tells the order of magnitude: shifts of 0.02 Å have been taken for 0.002).
SAME_IN_DATA = 1e-4
SAME_IN_PAIRS = 5e-4
SAME_IN_LOOKUP = 1e-3
SAME_IN_METRIC = 1e-3
# Share of their usual length by which descriptors of nearly the same structure differ at most.
_NEAR = 0.003


Species = tuple[bytes, int, int]
"""Elements, charge and multiplicity."""


def species(atoms: Atoms, charge: int, multiplicity: int) -> Species:
    """What structures share that can be the same in any order of their atoms."""
    return np.sort(atoms.numbers).tobytes(), charge, multiplicity


def exact_bytes(atoms: Atoms, charge: int, multiplicity: int) -> bytes:
    """What is equal for structures of the same bits, atom by atom."""
    return (
        np.array([charge, multiplicity], dtype="<i8").tobytes()
        + np.asarray(atoms.numbers, dtype="<i8").tobytes()
        + np.ascontiguousarray(atoms.positions, dtype="<f8").tobytes()
    )


def changes(
    before: Atoms | None, after: Atoms, tol: float, ignored: Collection[str] = ()
) -> list[str]:
    """What ASE compares of two structures, and what is stated of charge and spin, where it differs.

    Parameters
    ----------
    before, after
        The structures; None differs in everything.
    tol
        Largest difference that is none, as in ASE.
    ignored
        Properties, as ASE names them, that do not count.
    """
    if before is None:
        return list(all_changes)
    excluded = {
        name for name in all_changes if _equal(_compared(before, name), _compared(after, name))
    }
    found: list[str] = []
    if len(excluded) < len(all_changes):
        # With a tolerance, which takes longer than it takes to see that nothing has moved.
        found += compare_atoms(before, after, tol=tol, excluded_properties=excluded | set(ignored))
    # ASE's own comparison does not look at them.
    old, new = stated(before), stated(after)
    return found + [key for key in {**old, **new} if not _equal(old.get(key), new.get(key))]


def _compared(atoms: Atoms, name: str) -> Any:
    if name == "cell":
        return atoms.cell.array
    return atoms.pbc if name == "pbc" else atoms.arrays.get(name)


def _equal(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(np.array_equal(a, b))
    except (TypeError, ValueError):
        return False


def centred(atoms: Atoms) -> FloatArray:
    """Positions about their mean in Å, shape (n_atoms, 3)."""
    return np.asarray(atoms.positions - atoms.positions.mean(axis=0))


def largest_shift(positions: FloatArray, others: FloatArray) -> FloatArray:
    """Largest shift of a coordinate from each of several centred positions, in Å.

    Parameters
    ----------
    positions
        :func:`centred`, shape (n_atoms, 3).
    others
        The same of other structures with these atoms in this order, shape (…, n_atoms, 3).

    Returns
    -------
    ndarray, shape (…,)
    """
    return np.asarray(np.abs(others - positions).max(axis=(-2, -1)))


def matching_order(there: Atoms, here: Atoms, tolerance: float) -> IntArray | None:
    """Atoms of ``there`` in the order of ``here``, where all distances then agree.

    Parameters
    ----------
    there, here
        Structures of as many atoms.
    tolerance
        Shift of an atom in Å.

    Returns
    -------
    ndarray of int, shape (n_atoms,), or None
        None if no such order could be found.
    """
    wanted, given = here.get_all_distances(), there.get_all_distances()

    def fits(order: IntArray) -> bool:
        if not np.array_equal(there.numbers[order], here.numbers):
            return False
        return bool(np.abs(given[np.ix_(order, order)] - wanted).max() <= 2.0 * tolerance)

    identity = np.arange(len(here))
    if fits(identity):
        return identity
    from scipy.optimize import linear_sum_assignment

    # Atoms correspond if their element and sorted distances to each element do.
    views = _views(there), _views(here)
    cost = np.abs(views[0][None, :, :] - views[1][:, None, :]).max(axis=2)
    cost[here.numbers[:, None] != there.numbers[None, :]] = 1e6
    _, order = linear_sum_assignment(cost)
    return order if fits(order) else None


def turned(vectors: FloatArray, there: Atoms, here: Atoms, tolerance: float) -> FloatArray | None:
    """Vectors of the atoms of ``there`` for ``here``, which is it turned, mirrored, reordered.

    Parameters
    ----------
    vectors
        Such as forces, shape (n_atoms, 3).
    there, here
        Structures of as many atoms.
    tolerance
        Shift of an atom in Å.

    Returns
    -------
    ndarray, shape (n_atoms, 3), or None
        None if no order of the atoms could be found that makes all distances agree.
    """
    order = matching_order(there, here, tolerance)
    if order is None:
        return None
    old, new = centred(there)[order], centred(here)
    if largest_shift(old, new) <= 2.0 * tolerance:
        return np.asarray(vectors[order])
    # Mirror images have the same energy, hence mirrored forces: any orthogonal matrix will do.
    from scipy.linalg import orthogonal_procrustes

    rotation, _ = orthogonal_procrustes(old, new)
    return np.asarray(vectors[order] @ rotation)


def _views(atoms: Atoms) -> FloatArray:
    """Distances of each atom to the atoms of each element, sorted, shape (n_atoms, n_atoms)."""
    distances = atoms.get_all_distances()
    columns = [np.sort(distances[:, atoms.numbers == z], axis=1) for z in np.unique(atoms.numbers)]
    return np.concatenate(columns, axis=1)


def fitted_rmsd(there: Atoms, here: Atoms, tolerance: float) -> float:
    """Root mean square shift of the atoms of two structures turned, mirrored, reordered to fit.

    Two atoms of ``here``, with the centre, are laid on each pair of ``there`` that may be they; the
    others are given to the nearest of their element and all are fitted, in turn, until nothing
    changes.

    Parameters
    ----------
    there, here
        Structures of the same elements.
    tolerance
        What is to be found, in Å: pairs are passed over whose distances to all atoms differ by
        much more.

    Returns
    -------
    float
        In Å: the first that is within the tolerance, else the smallest; inf where no pair may be
        they, as is so of structures that are far from the tolerance.
    """
    p, q = centred(there), centred(here)
    best = np.inf
    for start in _superpositions(there, here, 4.0 * tolerance, mirrored=True):
        order, last = _nearest_of_kind(p @ start, q, there, here), None
        for _ in range(20):
            if last is not None and np.array_equal(order, last):
                break
            matrix, last = _fit(p[order], q), order
            order = _nearest_of_kind(p @ matrix, q, there, here)
        best = min(best, float(np.sqrt(np.mean(np.sum((p[order] @ matrix - q) ** 2, axis=1)))))
        if best <= tolerance:
            break
    return best


def symmetry_number(atoms: Atoms, tolerance: float = 0.05) -> int:
    """In how many ways a structure can be turned onto itself.

    Parameters
    ----------
    atoms
        At a minimum.
    tolerance
        Largest shift of an atom, in Å.

    Examples
    --------
    >>> from ase.build import molecule
    >>> [symmetry_number(molecule(name)) for name in ("H2O", "NH3", "CH4", "CO2", "HCN")]
    [2, 3, 12, 2, 1]
    """
    q = centred(atoms)
    count = 0
    for start in _superpositions(atoms, atoms, 4.0 * tolerance, mirrored=False):
        order = _nearest_of_kind(q @ start, q, atoms, atoms)
        turned = q[order] @ _fit(q[order], q, mirrored=False)
        count += bool(np.linalg.norm(turned - q, axis=1).max() <= tolerance)
    return max(count, 1)


def _fit(p: FloatArray, q: FloatArray, *, mirrored: bool = True) -> FloatArray:
    """Orthogonal matrix that turns centred positions p (n, 3) onto q; mirrors, if it may."""
    left, _, right = np.linalg.svd(p.T @ q)
    if not mirrored and np.linalg.det(left @ right) < 0:
        left[:, -1] *= -1.0
    return np.asarray(left @ right)


def _nearest_of_kind(moved: FloatArray, q: FloatArray, there: Atoms, here: Atoms) -> IntArray:
    """Atoms of ``there``, moved onto ``here``, in the order of it."""
    from scipy.optimize import linear_sum_assignment

    cost = np.sum((q[:, None] - moved) ** 2, axis=2)
    cost[here.numbers[:, None] != there.numbers] = 1e6
    return np.asarray(linear_sum_assignment(cost)[1])


def _superpositions(
    there: Atoms, here: Atoms, limit: float, *, mirrored: bool
) -> Iterator[FloatArray]:
    """Orthogonal matrices (3, 3) that lay two atoms of ``there`` on two of ``here``."""
    p, q = centred(there), centred(here)
    views = _views(there), _views(here)
    likely = np.sqrt(np.mean((views[0] - views[1][:, None]) ** 2, axis=2)) <= limit
    likely &= here.numbers[:, None] == there.numbers
    counts, reach = likely.sum(axis=1), np.linalg.norm(q, axis=1)
    # Few to try, and far out: these fix directions.
    first = np.lexsort((-reach, counts + len(q) * (reach < 0.3)))[0]
    if not counts.all() or reach[first] < 0.3:
        if len(q) == 1 and there.numbers[0] == here.numbers[0]:
            yield np.eye(3)
        return
    across = np.linalg.norm(np.cross(q[first] / reach[first], q), axis=1)
    second = np.lexsort((-across, counts + len(q) * (across < 0.3)))[0]
    for a in np.flatnonzero(likely[first]):
        if abs(np.linalg.norm(p[a]) - reach[first]) > 2.0 * limit:
            continue
        if across[second] < 0.3:  # a line
            yield _frame(p[a]).T @ _frame(q[first])
            continue
        for b in np.flatnonzero(likely[second]):
            apart = np.linalg.norm(p[a] - p[b]) - np.linalg.norm(q[first] - q[second])
            if a == b or abs(apart) > 2.0 * limit:
                continue
            old, new = _frame(p[a], p[b]), _frame(q[first], q[second])
            yield old.T @ new
            if mirrored:
                yield (old * [[1.0], [1.0], [-1.0]]).T @ new


def _frame(first: FloatArray, second: FloatArray | None = None) -> FloatArray:
    """Orthonormal rows: along the first vector, to the side of the second, and across both."""
    along = first / np.linalg.norm(first)
    if second is None or np.linalg.norm(np.cross(along, second)) < 1e-6:
        second = np.eye(3)[np.abs(along).argmin()]
    side = second - along * (along @ second)
    side /= np.linalg.norm(side)
    return np.array([along, side, np.cross(along, side)])


def near_pairs(x: FloatArray, block: int = 1000) -> Iterator[tuple[int, int]]:
    """Pairs of rows (a < b) that differ by a small share of their length, ascending by a.

    Parameters
    ----------
    x
        Descriptors of structures of one composition and charge, shape (n, n_features).
    block
        Rows that are compared with all others at once.
    """
    squares = np.einsum("ij,ij->i", x, x)
    limit = _NEAR**2 * squares.mean()
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        distances = squares[rows, None] + squares - 2.0 * x[rows] @ x.T
        for a, b in zip(*np.nonzero(np.triu(distances < limit, start + 1)), strict=True):
            yield int(a) + start, int(b)


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
        Shift of an atom, in Å, up to which structures are the same.
    """

    def __init__(self, tolerance: float = SAME_IN_DATA) -> None:
        # Two atoms that move apart change their distance by two shifts.
        self._limit = 2.0 * tolerance
        self._groups: dict[Species, _Group] = {}
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
        group = self._groups.setdefault(species(atoms, charge, multiplicity), _Group())
        invariants = _invariants(*sorted_distances(atoms))
        place = bisect_left(group.order, invariants[0])
        group.order.insert(place, float(invariants[0]))
        group.invariants.insert(place, invariants)
        group.members.insert(place, len(self._frames))
        self._frames.append(atoms)

    def _matches(self, atoms: Atoms, charge: int, multiplicity: int) -> Iterator[int]:
        group = self._groups.get(species(atoms, charge, multiplicity))
        if group is None:
            return
        distances, weights = sorted_distances(atoms)
        invariants = _invariants(distances, weights)
        first = bisect_left(group.order, invariants[0] - self._limit)
        last = bisect_right(group.order, invariants[0] + self._limit)
        for i in range(first, last):
            if np.abs(group.invariants[i] - invariants).max() > self._limit:
                continue
            other, _ = sorted_distances(self._frames[group.members[i]])
            if not distances.size or np.abs(other - distances).max() <= self._limit:
                yield group.members[i]


@lru_cache(maxsize=256)
def _pairs(n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n_atoms, 1)


def sorted_distances(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Distances, sorted within each pair of elements, and the product of charges of each.

    Returns
    -------
    distances, weights : ndarray, shape (n_pairs,)
        Å; products of atomic numbers.
    """
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
