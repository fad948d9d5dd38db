"""Gibbs energies: modes, rotors, and known numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.morse import MorsePotential
from ase.optimize import BFGS

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
    gibbs, std = binding_gibbs_energy(one, [one])
    assert gibbs == 0.0
    assert std == pytest.approx(math.sqrt(2) * one.energy_std)
    _, twice = binding_gibbs_energy(one, [one, one])
    assert twice == pytest.approx(math.sqrt(5) * one.energy_std)
    with pytest.raises(SettingsError, match="different"):
        binding_gibbs_energy(one, [gibbs_energy(water, temperature=250.0)])


def test_errors() -> None:
    with pytest.raises(SettingsError, match="no calculator"):
        gibbs_energy(molecule("H2O"))
    saddle = Atoms("N3", [[0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    # Pressed between the ends: they would rather bend out than be this near.
    saddle.calc = MorsePotential(epsilon=2.0, rho0=2.0, r0=1.1, rcut1=20, rcut2=30)
    with pytest.raises(StructureError, match=r"no minimum.*i cm"):
        gibbs_energy(saddle)
    for options in ({"temperature": 0.0}, {"symmetry": 0}, {"lowest": -1.0}, {"pressure": -1}):
        with pytest.raises(SettingsError):
            gibbs_energy(saddle, **options)
