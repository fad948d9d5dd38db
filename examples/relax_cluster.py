"""Relax the monohydrate of sulfuric acid on the corrected surface; see how sure the answer is."""

from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS

from ase_knncalc import KNNCalculator


def sulfuric_acid() -> Atoms:
    """A rough geometry; the relaxation does the rest."""
    return Atoms(
        "SO2O2H2",
        positions=[
            [0.00, 0.00, 0.00],
            [0.76, 1.03, 0.63],
            [-0.76, -1.03, 0.63],
            [1.09, -0.72, -0.93],
            [-1.09, 0.72, -0.93],
            [1.71, -1.20, -0.35],
            [-1.71, 1.20, -0.35],
        ],
    )


def main() -> None:
    """Relax acid plus water and print energies and distances."""
    cluster = sulfuric_acid()
    water = molecule("H2O")
    water.rotate(180, "x")
    water.translate([2.8, -2.0, 0.7])  # its oxygen before a hydrogen of the acid
    cluster += water
    cluster.calc = KNNCalculator(warm_start=True)
    print(f"start      {cluster.get_potential_energy():.4f} eV")
    BFGS(cluster, logfile=None).run(fmax=0.01, steps=400)
    results = cluster.calc.results
    largest = (cluster.get_forces() ** 2).sum(axis=1).max() ** 0.5
    print(f"relaxed    {results['energy']:.4f} eV ± {results['energy_std']:.4f}")
    print(f"largest force {largest:.4f} eV/Å, novelty {results['novelty']:.2f}")
    print("nearest training structure:", results["neighbors"][0].name)
    hydrogen_bond = min(cluster.get_distances(7, [5, 6]))
    print(f"hydrogen bond {hydrogen_bond:.2f} Å")


if __name__ == "__main__":
    main()
