"""First energy: a hydrated sulfuric acid molecule at ωB97X-D level for the price of GFN1-xTB."""

from pathlib import Path

from ase.io import read

from ase_knncalc import KNNCalculator

atoms = read(Path(__file__).with_name("hydrate.xyz"))
atoms.calc = KNNCalculator(coverage=0.9)
print(f"{atoms.get_potential_energy():.3f} ± {atoms.calc.results['energy_std']:.3f} eV")
print("90 %: {:.3f} to {:.3f} eV".format(*atoms.calc.results["energy_interval"]))
print(f"novelty {atoms.calc.results['novelty']:.2f}")
print([n.name for n in atoms.calc.results["neighbors"][:3]])
