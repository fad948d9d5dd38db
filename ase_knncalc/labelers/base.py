"""What a labeler is, and what it says of a structure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import LabelerError
from ase_knncalc.structure import structure_label


@dataclass(frozen=True)
class Label:
    """What a labeler says of one structure.

    Attributes
    ----------
    energy : float
        Total energy in eV.
    forces : ndarray, shape (n_atoms, 3), or None
        eV/Å.
    seconds : float
        Wall time it took.
    method : str
        Level of theory, as the labeler names it.
    """

    energy: float
    forces: FloatArray | None
    seconds: float
    method: str


def finite_label(
    atoms: Atoms, energy: float, forces: FloatArray | None, start: float, method: str
) -> Label:
    """The label of a calculation that began at ``start`` (``time.perf_counter``) and ends now.

    Raises
    ------
    LabelerError
        If a number is NaN or infinite.
    """
    if not np.isfinite(energy) or (forces is not None and not np.isfinite(forces).all()):
        raise LabelerError(
            f"{method} returned NaN for {structure_label(atoms)}: look at its geometry"
        )
    return Label(energy, forces, time.perf_counter() - start, method)


@runtime_checkable
class Labeler(Protocol):
    """Protocol of reference methods.

    Attributes
    ----------
    method : str
        Level of theory; part of the provenance of every label.
    provides_forces : bool
        Whether labels carry forces.
    """

    method: str
    provides_forces: bool

    def label(self, atoms: Atoms) -> Label:
        """Compute the label; every failure is a :class:`LabelerError` or another KNNCalcError."""
        ...
