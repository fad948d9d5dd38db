"""Whose energies are these? What this package predicted is no label.

A model that learns its own predictions grows sure of its own mistakes. They are known by the name
of the calculator, which trajectories and databases keep, by the marks that
:func:`ase_knncalc.snapshot` and ``knncalc predict -o`` leave in ``info``, and by the last digits of
``free_energy``, which ASE's extended XYZ keeps of the calculator itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeGuard

from ase import Atoms

from ase_knncalc.structure import marked_free_energy

PREDICTED = "energy_predicted"
"""Key in ``info`` of a predicted energy, eV."""

CALCULATOR = "knncalc"
"""Name of the calculator of this package."""

# eV; less than any label differs from a prediction but by chance, more than any format rounds.
_SAME = 2e-6


def own_prediction(atoms: Atoms, key: str, energy: float) -> str:
    """Why an energy is taken for a prediction of this package; empty where it is not.

    Parameters
    ----------
    atoms
        As read.
    key
        Where the energy stands: in ``info``, or among the results of its calculator.
    energy
        In eV.
    """
    if key == PREDICTED:
        return f"{key!r} is what a model of this package predicted"
    if key in ("energy", "free_energy"):
        if key not in atoms.info and getattr(atoms.calc, "name", None) == CALCULATOR:
            return f"{key!r} was computed with the calculator of this package"
        found = {**getattr(atoms.calc, "results", {}), **atoms.info}
        one, other = found.get("energy"), found.get("free_energy")
        if _is_number(one) and _is_number(other) and other == marked_free_energy(float(one)):
            return f"{key!r} has the mark of an energy that the calculator of this package computed"
        if any(math.isclose(mark, energy, rel_tol=0, abs_tol=_SAME) for mark in _marks(atoms)):
            return f"{key!r} is the energy that a model of this package predicted for it"
    return ""


def _marks(atoms: Atoms) -> Iterator[float]:
    """Energies that were predicted for the structure, eV."""
    info = atoms.info
    if _is_number(info.get(PREDICTED)):
        yield float(info[PREDICTED])
    parts = [info.get(key) for key in ("baseline_energy", "delta", "energy_std", "novelty")]
    if all(map(_is_number, parts)):  # a snapshot of an earlier version
        yield float(parts[0]) + float(parts[1])


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
