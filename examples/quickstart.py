"""First energy: a hydrated sulfuric acid molecule at ωB97X-D level for the price of GFN1-xTB."""

from ase import Atoms

from ase_knncalc import KNNCalculator

cluster = Atoms(
    "SO2O2H2OH2",
    positions=[
        [0.000, 0.000, 0.000],
        [1.221, 0.302, 0.674],
        [-1.075, 0.898, 0.310],
        [-0.440, -1.398, 0.554],
        [0.237, -0.154, -1.560],
        [-1.368, -1.357, 0.846],
        [0.752, 0.591, -1.909],
        [-3.010, -0.620, 1.260],
        [-3.560, -0.900, 2.010],
        [-2.820, 0.330, 1.170],
    ],
)
cluster.calc = KNNCalculator("saw-wb97xd", on_novelty="ignore")

energy = cluster.get_potential_energy()
results = cluster.calc.results
print(f"energy     {energy:14.4f} eV  ± {results['energy_std']:.4f}")
print(f"GFN1-xTB   {results['baseline_energy']:14.4f} eV")
print(f"novelty    {results['novelty']:14.2f}     (1: 99th percentile of held-out training data)")
print("nearest training structures:")
for neighbor in results["neighbors"][:3]:
    print(f"  {neighbor.name:12s} at {neighbor.distance:.2f}, residual {neighbor.residual:+.4f} eV")
