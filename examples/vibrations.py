"""Vibrations and thermochemistry: Gibbs energy of binding of the water dimer."""

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.optimize import BFGS

from ase_knncalc import KNNCalculator
from ase_knncalc.thermochemistry import Thermochemistry, binding_gibbs_energy, gibbs_energy

KCAL_PER_MOL = units.mol / units.kcal


def relaxed(atoms: Atoms, symmetry: int, lowest: float | None) -> Thermochemistry:
    """Relax, then 298.15 K and 1 atm."""
    atoms.calc = KNNCalculator("saw-wb97xd-md", on_novelty="ignore")
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
    return gibbs_energy(atoms, symmetry=symmetry, lowest=lowest)


def main() -> None:
    """Print binding energy and Gibbs energy of binding, harmonic and quasi-harmonic."""
    dimer = molecule("H2O")
    other = molecule("H2O")
    other.rotate(110, "x")
    other.translate([0.2, 1.4, 2.5])
    dimer += other
    water = molecule("H2O")
    for lowest, text in ((None, "harmonic"), (100.0, "modes below 100 cm⁻¹ raised")):
        cluster, one = relaxed(dimer, 1, lowest), relaxed(water, 2, lowest)
        gibbs, std = binding_gibbs_energy(cluster, [one, one])
        energy = cluster.energy - 2 * one.energy
        if lowest is None:
            print("modes of the dimer (cm⁻¹):", np.round(cluster.wavenumbers).astype(int))
            print(f"binding energy {KCAL_PER_MOL * energy:.2f} ± {KCAL_PER_MOL * std:.2f} kcal/mol")
        print(f"Gibbs energy of binding, {text}: {KCAL_PER_MOL * gibbs:.2f} kcal/mol")


if __name__ == "__main__":
    main()
