"""A force of OpenMM whose energy is that of a calculator."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.units import kJ, mol, nm

from ase_knncalc.errors import SettingsError


def openmm_force(atoms: Atoms, *, subset: list[int] | None = None) -> Any:
    """An ``openmm.PythonForce`` that gives the energy of the structure's calculator.

    Parameters
    ----------
    atoms
        With a calculator; its charge and multiplicity are those of the simulation. A copy is
        moved. What the calculator knows of the last step is in ``atoms.calc.results``, for
        reporters: ``energy_std`` and ``novelty`` too.
    subset
        Particles of the system that the structure stands for, in its order; by default the first
        ``len(atoms)``. The others feel nothing of this force.

    Returns
    -------
    openmm.PythonForce
        For ``system.addForce``. It cannot be written to a file with the system.

    Raises
    ------
    SettingsError
        If OpenMM is not installed or has no ``PythonForce``, the structure no calculator, or
        ``subset`` another length.
    """
    try:
        from openmm import PythonForce
    except ImportError as e:
        raise SettingsError(
            f"a force of OpenMM needs openmm 8.4 or later ({e}); run `pip install -U openmm`"
        ) from e
    if atoms.calc is None:
        raise SettingsError("the structure has no calculator: set atoms.calc")
    places = np.arange(len(atoms)) if subset is None else np.asarray(subset, dtype=int)
    if places.shape != (len(atoms),):
        raise SettingsError(f"subset has {places.size} particles for {len(atoms)} atoms")
    calculator, moved = atoms.calc, atoms.copy()

    def compute(state: Any) -> tuple[float, np.ndarray]:
        positions = state.getPositions(asNumpy=True)._value
        moved.positions = np.asarray(positions)[places] * nm
        found = np.asarray(calculator.get_property("forces", moved))
        energy = float(calculator.get_property("energy", moved))
        forces = np.zeros(np.shape(positions))
        forces[places] = found / (kJ / mol / nm)
        return energy / (kJ / mol), forces

    return PythonForce(compute)
