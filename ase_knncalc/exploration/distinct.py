"""Which of many structures are one: in any orientation and order of atoms, mirrored or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import Positive, checked, instance
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.charges import stated_copy
from ase_knncalc.data import Omission
from ase_knncalc.errors import KNNCalcError
from ase_knncalc.exploration.relaxation import energy_of
from ase_knncalc.sameness import Species, fitted_rmsd, sorted_distances, species
from ase_knncalc.structure import check_structure, resolve_charge, structure_label

COLUMNS = ("name", "energy_eV", "copies", "copies_of_it")
"""Of :func:`group_row`."""


def distinct_groups(
    frames: Iterable[Atoms],
    *,
    energy_tolerance: float = 0.005,
    rmsd_tolerance: float = 0.3,
    charge: int | None = None,
) -> tuple[list[list[int]], list[Omission]]:
    """Sort structures into groups of which each is one structure.

    Two are one if elements, charge and multiplicity agree, their energies where both bring one
    (:func:`~ase_knncalc.exploration.relaxation.energy_of`), and their atoms once they are turned,
    mirrored and reordered to fit (:func:`~ase_knncalc.sameness.fitted_rmsd`).

    Parameters
    ----------
    frames
        Structures.
    energy_tolerance, rmsd_tolerance
        Largest difference of energies, eV, and largest root mean square shift of the atoms, Å, from
        the lowest of a group.
    charge
        Total charge of every structure; by default each structure's own.

    Returns
    -------
    groups : list of list of int
        Places in ``frames``; of each group the lowest first, groups in the order of these.
    omitted : list of Omission
        Structures that are none, or have no charge.

    Raises
    ------
    SettingsError
        If a tolerance is not positive.
    """
    checked("energy_tolerance", energy_tolerance, Positive)
    checked("rmsd_tolerance", rmsd_tolerance, Positive)
    frames = list(instance("frames", frames, Iterable))
    energies = [energy_of(atoms) for atoms in frames]
    # Those without energy last: there is no lower one to come.
    order = sorted(range(len(frames)), key=lambda i: (energies[i] is None, energies[i] or 0.0, i))
    known: dict[Species, _Known] = {}
    omitted: list[Omission] = []
    for i in order:
        atoms = frames[i]
        try:
            check_structure(atoms)
            kind = species(atoms, *resolve_charge(atoms, charge))
        except KNNCalcError as e:
            source = str(atoms.info.get("source", f"#{i}"))
            omitted.append(Omission(i, structure_label(atoms), source, str(e), "not-covered"))
            continue
        group = known.setdefault(kind, _Known(frames, energies))
        group.add(i, energy_tolerance, rmsd_tolerance)
    groups = [group for each in known.values() for group in each.groups]
    return sorted(groups), sorted(omitted, key=lambda o: o.index)


@dataclass
class _Known:
    """Groups of one species, with the sorted distances of the lowest of each."""

    frames: Sequence[Atoms]
    energies: Sequence[float | None]
    groups: list[list[int]] = field(default_factory=list)
    distances: list[FloatArray] = field(default_factory=list)

    def add(self, i: int, energy_tolerance: float, rmsd_tolerance: float) -> None:
        own = sorted_distances(self.frames[i])[0]
        for place in self._near(own, rmsd_tolerance):
            first = self.groups[place][0]
            a, b = self.energies[i], self.energies[first]
            if a is not None and b is not None and abs(a - b) > energy_tolerance:
                continue
            if fitted_rmsd(self.frames[i], self.frames[first], rmsd_tolerance) <= rmsd_tolerance:
                self.groups[place].append(i)
                return
        self.groups.append([i])
        self.distances.append(own)

    def _near(self, own: FloatArray, rmsd_tolerance: float) -> list[int]:
        """Groups that may be it.

        Distances change by two shifts at most, and all of them by twice the shift of all atoms,
        root mean square: sorted, they differ by no more.
        """
        if not self.groups or not own.size:
            return list(range(len(self.groups)))
        change = np.sqrt(np.mean((np.array(self.distances) - own) ** 2, axis=1))
        near = np.flatnonzero(change <= 2.0 * rmsd_tolerance)
        return [int(place) for place in near[np.argsort(change[near], kind="stable")]]


def unique_frames(
    frames: Iterable[Atoms],
    *,
    energy_tolerance: float = 0.005,
    rmsd_tolerance: float = 0.3,
    charge: int | None = None,
) -> list[Atoms]:
    """Each structure once: the lowest of each of :func:`distinct_groups`, with its arguments.

    Returns
    -------
    list of Atoms
        Copies, with their number in ``info["copies"]``.
    """
    frames = list(instance("frames", frames, Iterable))
    groups, _ = distinct_groups(
        frames, energy_tolerance=energy_tolerance, rmsd_tolerance=rmsd_tolerance, charge=charge
    )
    return representatives(frames, groups)


def representatives(frames: Sequence[Atoms], groups: Iterable[Sequence[int]]) -> list[Atoms]:
    """Copies of the first of each group, with the number of all in ``info["copies"]``."""
    found = []
    for group in groups:
        atoms = stated_copy(frames[group[0]])
        atoms.calc = frames[group[0]].calc
        atoms.info["copies"] = len(group)
        found.append(atoms)
    return found


def group_row(frames: Sequence[Atoms], group: Sequence[int]) -> dict[str, Any]:
    """A group in a table, by :data:`COLUMNS`."""
    first, *others = (structure_label(frames[i]) for i in group)
    energy = energy_of(frames[group[0]])
    return dict(zip(COLUMNS, (first, energy, len(group), " ".join(others)), strict=True))
