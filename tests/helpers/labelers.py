"""Structures and labelers for tests of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes

from ase_knncalc.labelers import PySCFLabeler


def water(seed: int = 1) -> Atoms:
    """Water off its minimum and out of all planes."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    atoms.euler_rotate(20, 30, 40)
    return atoms


def small(**options: Any) -> PySCFLabeler:
    """A PySCF labeler that takes fractions of a second."""
    pytest.importorskip("pyscf")
    return PySCFLabeler(**{"basis": "sto-3g", "grid_level": 1, "threads": 1, **options})


class Recorder(Calculator):
    """Calculator without forces that keeps what it was made with."""

    implemented_properties = ["energy"]  # noqa: RUF012
    default_parameters = {"charge": 0, "mult": 1, "energy": -1.0}  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        if self.parameters.energy is None:
            raise RuntimeError("ORCA exited with code 55")
        self.results["energy"] = self.parameters.energy


def labelled(seed: int, energy: float, name: str = "1w", charge: int = 0) -> Atoms:
    atoms = water(seed)
    atoms.info.update(name=name, reference_energy=energy, charge=charge)
    atoms.set_array("reference_forces", np.full((3, 3), energy))
    return atoms
