"""What is read of an output of a quantum-chemical program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from ase_knncalc.errors import DataError


class NoLabelError(DataError):
    """An output has no energy that could be a label."""


@dataclass
class Calculation:
    """One energy with what belongs to it, in the units of the output.

    Attributes
    ----------
    numbers : ndarray, shape (n_atoms,)
    positions : ndarray, shape (n_atoms, 3)
        Å.
    energy : float
        Hartree.
    forces : ndarray, shape (n_atoms, 3), or None
        Hartree/Bohr.
    charge, multiplicity : int or None
        Of the whole.
    complete : bool
        Whether the energy has what correlated methods add to that of the SCF.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray | None = None
    charge: int | None = None
    multiplicity: int | None = None
    complete: bool = False

    def atoms(self) -> Atoms:
        """The structure with its results, in eV and eV/Å."""
        if not len(self.numbers) or np.any(self.numbers <= 0):
            raise NoLabelError("its geometry is missing, or holds ghost atoms")
        atoms = Atoms(self.numbers, self.positions)
        results = {"energy": self.energy * units.Hartree}
        if self.forces is not None:
            results["forces"] = self.forces * (units.Hartree / units.Bohr)
        atoms.calc = SinglePointCalculator(atoms, **results)
        said = {"charge": self.charge, "multiplicity": self.multiplicity}
        atoms.info.update({key: value for key, value in said.items() if value is not None})
        return atoms
