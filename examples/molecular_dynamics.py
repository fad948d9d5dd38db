"""Langevin dynamics that watches where it goes: novelty past a threshold stops the run."""

import numpy as np
from ase import units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from ase_knncalc import KNNCalculator
from ase_knncalc.errors import NoveltyError

THRESHOLD = 8.0  # 1 would be the edge of what the training data hold at rest

rng = np.random.default_rng(1)
atoms = molecule("H2O")
for shift, angle in (([0.2, 1.4, 2.5], 110), ([0.2, -1.6, 2.4], -110)):
    water = molecule("H2O")
    water.rotate(angle, "x")
    water.translate(shift)
    atoms += water
atoms.calc = KNNCalculator("saw-wb97xd-md", on_novelty="raise", novelty_threshold=1e6)
BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
atoms.calc.set(novelty_threshold=THRESHOLD)

MaxwellBoltzmannDistribution(atoms, temperature_K=200, rng=rng)
dynamics = Langevin(
    atoms, timestep=0.5 * units.fs, temperature_K=200, friction=0.01 / units.fs, rng=rng
)
print("    fs   potential eV     ±   novelty      T")


def report() -> None:
    """One line of the trajectory."""
    results = atoms.calc.results
    print(
        f"{dynamics.nsteps * 0.5:6.0f} {results['energy']:14.4f} {results['energy_std']:6.3f} "
        f"{results['novelty']:8.2f} {atoms.get_temperature():7.0f}"
    )


dynamics.attach(report, interval=50)
try:
    dynamics.run(400)
except NoveltyError as error:
    print("stopped:", error)
