"""Vibrations and thermochemistry: Gibbs energy of binding of the water dimer."""

import tempfile

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations

from ase_knncalc import KNNCalculator

KCAL_PER_MOL = 23.060547830619026
TEMPERATURE, PRESSURE = 298.15, 101325.0  # K, Pa
LOWEST = 100.0  # cm⁻¹: softer modes count as this (quasi-harmonic approximation)


def gibbs_energy(atoms: Atoms, symmetry: int) -> tuple[float, float, float]:
    """Electronic and Gibbs energy (eV) of the relaxed structure, and the energy's std (eV)."""
    atoms.calc = KNNCalculator("saw-wb97xd-md", on_novelty="ignore")
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
    energy, std = atoms.get_potential_energy(), atoms.calc.results["energy_std"]
    with tempfile.TemporaryDirectory() as folder:
        vibrations = Vibrations(atoms, name=f"{folder}/vib")
        vibrations.run()
        wavenumbers = vibrations.get_frequencies()
    modes = np.sort(np.real(wavenumbers))[6:]
    print(f"{atoms.get_chemical_formula():8s} modes (cm⁻¹):", np.round(modes).astype(int))
    thermo = IdealGasThermo(
        vib_energies=np.maximum(modes, LOWEST) * 1.239842e-4,
        geometry="nonlinear",
        potentialenergy=energy,
        atoms=atoms,
        symmetrynumber=symmetry,
        spin=0,
    )
    return energy, thermo.get_gibbs_energy(TEMPERATURE, PRESSURE, verbose=False), std


def main() -> None:
    """Print binding energy and Gibbs energy of binding."""
    dimer = molecule("H2O")
    other = molecule("H2O")
    other.rotate(110, "x")
    other.translate([0.2, 1.4, 2.5])
    dimer += other
    cluster, water = gibbs_energy(dimer, 1), gibbs_energy(molecule("H2O"), 2)
    binding = KCAL_PER_MOL * (cluster[0] - 2 * water[0])
    gibbs = KCAL_PER_MOL * (cluster[1] - 2 * water[1])
    error = KCAL_PER_MOL * (cluster[2] ** 2 + (2 * water[2]) ** 2) ** 0.5
    print(f"binding energy {binding:.2f} ± {error:.2f} kcal/mol")
    print(f"Gibbs energy of binding at {TEMPERATURE} K and 1 atm {gibbs:.2f} kcal/mol")


if __name__ == "__main__":
    main()
