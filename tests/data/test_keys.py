"""Names of labels in a frame, and their units."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr, Hartree, kcal, mol

from ase_knncalc.data import KeyMap
from ase_knncalc.data.keys import find_label
from ase_knncalc.errors import SettingsError


def test_matching_names_of_forces() -> None:
    assert KeyMap().forces_key("reference") == "reference_forces"
    assert KeyMap(reference_energy="wb97xd_energy").forces_key("reference") == "wb97xd_forces"
    assert KeyMap(baseline_energy="gfn1_energy").forces_key("baseline") == "gfn1_forces"
    assert KeyMap(reference_energy="energy").forces_key("reference") == "forces"
    assert KeyMap(reference_energy="hof_high").forces_key("reference") is None
    keys = KeyMap(reference_energy="hof_high", reference_forces="f")
    assert keys.forces_key("reference") == "f"


def test_forces_of_another_method_are_not_taken() -> None:
    atoms = molecule("H2O")
    atoms.info["dlpno_energy"] = -2000.0
    atoms.new_array("reference_forces", np.ones((3, 3)))
    assert KeyMap(reference_energy="dlpno_energy").forces(atoms, "reference") is None


@pytest.mark.parametrize(
    ("unit", "factor"), [("eV", 1.0), ("Hartree", Hartree), ("kcal/mol", kcal / mol)]
)
def test_energy_units(unit: str, factor: float) -> None:
    atoms = Atoms("H", info={"reference_energy": -0.5})
    assert KeyMap(energy_unit=unit).energy(atoms, "reference") == pytest.approx(-0.5 * factor)


def test_force_units() -> None:
    atoms = Atoms("H")
    atoms.new_array("reference_forces", np.array([[0.0, 0.0, 2.0]]))
    keys = KeyMap(energy_unit="Hartree", force_unit="Hartree/Bohr")
    forces = keys.forces(atoms, "reference")
    assert forces is not None
    assert forces[0, 2] == pytest.approx(2.0 * Hartree / Bohr)
    with pytest.raises(SettingsError, match=r"unit of the forces 'reference_forces'.*force_unit"):
        KeyMap(energy_unit="Hartree").forces(atoms, "reference")
    with pytest.raises(SettingsError, match=r"energy_unit must be one of eV, Hartree.*'Ry'"):
        KeyMap(energy_unit="Ry")
    with pytest.raises(SettingsError, match=r"force_unit='N'.*Hartree/Bohr"):
        KeyMap(force_unit="N")
    with pytest.raises(SettingsError, match="name must be a text that is not empty"):
        KeyMap(name="")


def test_results_of_another_geometry_are_not_labels() -> None:
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5)
    assert find_label(atoms, "energy") == -3.5
    atoms.positions[0, 0] += 0.1
    assert find_label(atoms, "energy") is None
    # A calculator that could compute is not asked to.
    atoms.calc = LennardJones()
    assert find_label(atoms, "energy") is None
