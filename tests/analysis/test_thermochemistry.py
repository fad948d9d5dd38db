"""Gibbs energies: modes, rotors, and known numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from helpers.factories import tiny

from ase_knncalc import KNNCalculator
from ase_knncalc.errors import SettingsError, StructureError
from ase_knncalc.thermochemistry import (
    binding_gibbs_energy,
    gibbs_energy,
    rotor,
    wavenumbers,
)


@pytest.fixture(scope="module")
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.calc = KNNCalculator("saw-wb97xd-md", on_novelty="ignore")
    BFGS(atoms, logfile=None).run(fmax=0.002, steps=200)
    return atoms


def test_rotors() -> None:
    assert rotor(Atoms("O")) == "monatomic"
    assert rotor(molecule("CO2")) == "linear"
    assert rotor(molecule("H2O")) == "nonlinear"


def test_diatomic_against_its_force_constant() -> None:
    """A Morse oscillator: k = 2 ε (ρ0/r0)²."""
    epsilon, rho0, r0 = 2.0, 4.0, 1.1
    atoms = Atoms("N2", [[0, 0, 0], [0.3, r0 * 0.8, -0.2]])
    atoms.set_distance(0, 1, r0)
    atoms.calc = MorsePotential(epsilon=epsilon, rho0=rho0, r0=r0, rcut1=20, rcut2=30)
    (found,) = wavenumbers(atoms, delta=0.001)
    mass = 14.007 / 2
    k = 2 * epsilon * (rho0 / r0) ** 2
    omega = math.sqrt(k * units._e / 1e-20 / (mass * units._amu))
    assert found == pytest.approx(omega / (2 * math.pi * 2.99792458e10), rel=2e-3)
    thermo = gibbs_energy(atoms, symmetry=2, lowest=None)
    assert thermo.zero_point == pytest.approx(found * units.invcm / 2, rel=2e-3)
    assert thermo.gibbs == pytest.approx(thermo.enthalpy - 298.15 * thermo.entropy)
    assert math.isnan(thermo.energy_std)


def test_atom_is_a_gas_of_atoms() -> None:
    """Sackur–Tetrode: S(Ar, 298.15 K, 1 bar) = 154.8 J/(mol K)."""
    atoms = Atoms("Ar")
    atoms.calc = MorsePotential()
    thermo = gibbs_energy(atoms, pressure=1e5)
    assert len(thermo.wavenumbers) == 0
    assert thermo.entropy / units.kJ * units.mol * 1000 == pytest.approx(154.85, abs=0.1)


def test_water(water) -> None:
    """Modes near experiment, S° = 188.8 J/(mol K) at 1 bar."""
    before = water.positions.copy()
    thermo = gibbs_energy(water, symmetry=2, pressure=1e5)
    np.testing.assert_array_equal(water.positions, before)
    assert thermo.wavenumbers == pytest.approx([1595, 3657, 3756], rel=0.08)
    assert thermo.entropy / units.kJ * units.mol * 1000 == pytest.approx(188.8, abs=1.0)
    assert thermo.energy_std > 0
    assert thermo.gibbs < thermo.enthalpy
    colder = gibbs_energy(water, symmetry=2, temperature=200.0)
    assert colder.gibbs > thermo.gibbs


def test_modes_do_not_depend_on_orientation(water) -> None:
    turned = water.copy()
    turned.rotate(63, (1, -2, 0.5))
    turned.translate([4, -7, 1])
    turned.calc = water.calc
    assert wavenumbers(turned) == pytest.approx(wavenumbers(water), abs=3.0)


def test_soft_modes_are_raised(water) -> None:
    stiff = gibbs_energy(water, lowest=2000.0)
    assert stiff.zero_point > gibbs_energy(water, lowest=None).zero_point
    assert stiff.wavenumbers == pytest.approx(gibbs_energy(water).wavenumbers)


def test_two_apart_do_not_bind_in_energy_but_lose_entropy(water) -> None:
    one = gibbs_energy(water, symmetry=2)
    pair = replace(one, gibbs=2 * one.gibbs, numbers=(1, 1, 1, 1, 8, 8))
    gibbs, std = binding_gibbs_energy(pair, [one, one])
    assert gibbs == 0.0
    assert std == pytest.approx(math.sqrt(5) * one.energy_std)
    _, std = binding_gibbs_energy(pair, iter([one, replace(one)]))
    assert std == pytest.approx(math.sqrt(3) * one.energy_std), "errors of two kinds"
    with pytest.raises(SettingsError, match="different"):
        binding_gibbs_energy(pair, [one, replace(one, temperature=250.0)])


def test_molecules_that_do_not_add_up_to_the_cluster_are_refused(water) -> None:
    one = gibbs_energy(water, symmetry=2)
    pair = replace(one, gibbs=2 * one.gibbs, numbers=(1, 1, 1, 1, 8, 8))
    for molecules in ([], [one]):
        with pytest.raises(SettingsError, match=f"at least two molecules, got {len(molecules)}"):
            binding_gibbs_energy(one, molecules)
    with pytest.raises(SettingsError, match=r"are H6O3 .* together, but the cluster is H4O2"):
        binding_gibbs_energy(pair, [one] * 3)
    with pytest.raises(SettingsError, match=r"charge \+1 together, but .* charge \+0"):
        binding_gibbs_energy(pair, [one, replace(one, charge=1)])
    for molecules in (one, "water", [one, "water"], None, [one, None]):
        with pytest.raises(SettingsError, match="molecules must be"):
            binding_gibbs_energy(pair, molecules)
    with pytest.raises(SettingsError, match="cluster must be of type Thermochemistry"):
        binding_gibbs_energy("dimer", [one, one])
    # Who makes them without atoms has to know.
    binding_gibbs_energy(replace(pair, numbers=()), [one] * 3)


def test_what_is_not_relaxed_is_refused_with_its_force(water) -> None:
    stretched = water.copy()
    stretched.set_distance(0, 1, 1.05)
    stretched.calc = water.calc
    with pytest.raises(StructureError, match=r"not relaxed: .* force on an atom is [1-9]\S* eV/Å"):
        gibbs_energy(stretched)
    # Constraints hide no force: all atoms vibrate.
    stretched.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(StructureError, match="not relaxed"):
        gibbs_energy(stretched)
    assert math.isfinite(gibbs_energy(stretched, fmax=None).gibbs)
    assert math.isfinite(gibbs_energy(stretched, fmax=50.0).gibbs)
    with pytest.raises(StructureError, match="not relaxed"):
        gibbs_energy(water, fmax=1e-6)


def test_calculators_without_forces_are_told(water_frames) -> None:
    atoms = water_frames[0].copy()
    atoms.calc = KNNCalculator(tiny(water_frames, trend="none", weights="distance"))
    for ask in (gibbs_energy, wavenumbers):
        with pytest.raises(SettingsError, match="KNNCalculator has no forces"):
            ask(atoms)
        with pytest.raises(SettingsError, match="no calculator"):
            ask(molecule("H2O"))
        with pytest.raises(StructureError, match=r"expected one ase\.Atoms"):
            ask("water")


def test_errors() -> None:
    saddle = Atoms("N3", [[0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    # Pressed between the ends: they would rather bend out than be this near.
    saddle.calc = MorsePotential(epsilon=2.0, rho0=2.0, r0=1.1, rcut1=20, rcut2=30)
    saddle.info["multiplicity"] = 2
    with pytest.raises(StructureError, match=r"no minimum.*i cm"):
        gibbs_energy(saddle, fmax=None)
    for name in ("temperature", "pressure", "lowest", "symmetry", "delta", "fmax"):
        for wrong in (0, -1.0, "298", math.nan, [300.0], True):
            with pytest.raises(SettingsError, match=f"{name} must be"):
                gibbs_energy(saddle, **{name: wrong})
