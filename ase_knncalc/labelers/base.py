"""What a labeler is, and what it says of a structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms

FloatArray = np.ndarray


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
