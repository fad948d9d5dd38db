"""Statistical mechanics of what heads learn, against ASE's; and what lies between temperatures."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.data import iter_frames
from ase_knncalc.data.properties import add_columns
from ase_knncalc.errors import SettingsError
from ase_knncalc.heads.thermal import (
    NODES,
    OUTPUTS,
    node_weights,
    require_temperature,
    thermal_targets,
    thermal_values,
)
from ase_knncalc.heads.vibrations import TREATMENTS, rigid_body, vibrational_sums
from ase_knncalc.thermochemistry import Minimum

SOFT = np.array([12.0, 35.0, 80.0, 150.0, 420.0, 1100.0, 1650.0, 2900.0, 3700.0])


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize(
    ("name", "symmetry", "multiplicity"),
    [("CH3OH", 1, 1), ("CO2", 2, 1), ("O2", 2, 3), ("N", 1, 4)],
)
def test_parts_add_up_to_what_ase_says(treatment, name, symmetry, multiplicity) -> None:
    atoms = Atoms("N") if name == "N" else molecule(name)
    atoms.rotate(31.0, (1, 2, 3))
    n_modes = {"CH3OH": 12, "CO2": 4, "O2": 1, "N": 0}[name]
    modes = np.resize(SOFT, n_modes)
    whole = Minimum(atoms, 0.0, 0.0, np.sort(modes), symmetry, 0, multiplicity)
    for temperature, pressure in ((200.0, 101325.0), (298.15, 1e4), (400.0, 1e6)):
        asked = whole.at(temperature, pressure, treatment=treatment)
        sums = vibrational_sums(modes, np.array([temperature]), treatment)
        enthalpy, entropy = rigid_body(
            atoms.get_masses(), atoms.positions, temperature, pressure,
            symmetry=symmetry, multiplicity=multiplicity,
        )  # fmt: skip
        # ASE's constants are of other years in the sixth digit.
        assert sums.zero_point + sums.energy[0] + enthalpy == pytest.approx(
            asked.enthalpy, rel=1e-5, abs=1e-6
        )
        assert sums.entropy[0] + entropy == pytest.approx(asked.entropy, rel=1e-5)


def test_temperatures_between_nodes_are_as_right_as_nodes() -> None:
    """A polynomial through five temperatures, at all those between them."""
    modes = np.concatenate([np.resize(SOFT, 60), np.linspace(15.0, 3800.0, 90)])
    known = thermal_targets([modes])[0]
    none = np.zeros(len(OUTPUTS))
    for temperature in np.linspace(200.0, 400.0, 41):
        for treatment in TREATMENTS:
            sums = vibrational_sums(modes, np.array([temperature]), treatment)
            found = thermal_values(known, none, none, temperature, treatment, atoms=50)
            heat = temperature * sums.entropy[0]
            enthalpy = sums.zero_point + sums.energy[0]
            exact = {
                "zero_point": sums.zero_point,
                "enthalpy": enthalpy,
                "heat": heat,
                "gibbs": enthalpy - heat,
            }
            for name, value in exact.items():
                # A hundredth of what left-out structures are wrong by, for 150 modes.
                assert abs(found[name].value - value) * KCAL_PER_MOL < 2e-3


def test_nodes_give_themselves() -> None:
    for i, node in enumerate(NODES):
        assert node_weights(node).tolist() == np.eye(len(NODES))[i].tolist()
    assert node_weights(263.0).sum() == pytest.approx(1.0)


def test_an_atom_does_not_vibrate() -> None:
    ones = np.ones(len(OUTPUTS))
    found = thermal_values(ones, ones, ones, 300.0, "truhlar", atoms=1)
    assert {q.value for q in found.values()} == {0.0}
    enthalpy, _ = rigid_body(np.array([39.9]), np.zeros((1, 3)), 300.0)
    assert enthalpy == pytest.approx(2.5 * units.kB * 300.0)


@pytest.mark.parametrize("temperature", [199.0, 401.0])
def test_temperatures_that_nothing_was_learned_of(temperature) -> None:
    with pytest.raises(SettingsError, match="200 to 400 K"):
        require_temperature(temperature)


def test_published_thermochemistry_follows_from_its_frequencies(shared_data) -> None:
    """Enthalpies and Gibbs energies that Gaussian printed beside its modes."""
    frames = list(islice(iter_frames(shared_data / "multibase_equilibrium.extxyz.gz"), 800, 860))
    columns = ["frequencies_cm1", "enthalpy_correction", "gibbs_correction", "symmetry_number"]
    add_columns(frames, shared_data / "multibase_properties.csv.gz", columns)
    compared = 0
    for atoms in frames:
        modes = atoms.info.get("frequencies_cm1", np.array([-1.0]))
        if modes.min() < 0:
            continue
        sums = vibrational_sums(modes, np.array([298.15]), "harmonic")
        enthalpy, entropy = rigid_body(
            atoms.get_masses(), atoms.positions, 298.15,
            symmetry=int(atoms.info["symmetry_number"]), multiplicity=atoms.info["multiplicity"],
        )  # fmt: skip
        enthalpy += sums.zero_point + sums.energy[0]
        entropy += sums.entropy[0]
        assert enthalpy == pytest.approx(atoms.info["enthalpy_correction"], abs=2e-5)
        # Masses of isotopes there, of elements here.
        gibbs = enthalpy - 298.15 * entropy
        assert gibbs == pytest.approx(atoms.info["gibbs_correction"], abs=2e-4)
        compared += 1
    assert compared > 30
