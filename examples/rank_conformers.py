"""Rank conformers: a short Monte-Carlo walk of the water trimer, then a table by energy."""

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.units import kB

from ase_knncalc import KNNCalculator, load_model, predict_frames

KCAL_PER_MOL = units.mol / units.kcal

rng = np.random.default_rng(7)
model = load_model("saw-wb97xd")

trimer = Atoms()
for angle in (0.0, 2.1, 4.2):
    water = molecule("H2O")
    water.rotate(np.degrees(angle), "y")
    water.translate([1.65 * np.cos(angle), 1.65 * np.sin(angle), 0.0])
    trimer += water
trimer.calc = KNNCalculator(model, on_novelty="ignore")

# Rigid-body Metropolis steps at 400 K.
energy = trimer.get_potential_energy()
visited = []
for step in range(60):
    trial = trimer.copy()
    trial.calc = trimer.calc
    molecule_atoms = slice(3 * (step % 3), 3 * (step % 3) + 3)
    part = trial[molecule_atoms]
    part.rotate(rng.normal() * 20, rng.normal(size=3), center="COM")
    part.translate(rng.normal(size=3) * 0.12)
    trial.positions[molecule_atoms] = part.positions
    if np.min(trial.get_all_distances() + 9 * np.eye(9)) < 0.8:
        continue
    new = trial.get_potential_energy()
    if trial.calc.results["novelty"] > 4:
        continue  # so far from the data that the energy means little: do not walk there
    if new < energy or rng.random() < np.exp((energy - new) / (kB * 400)):
        trimer, energy = trial, new
        visited.append(trial.copy())

ranking = predict_frames(model, visited)
order = np.argsort(ranking.energy)
print("conformer  ΔE kcal/mol   ±     novelty  nearest")
for i in order[:8]:
    relative = KCAL_PER_MOL * (ranking.energy[i] - ranking.energy[order[0]])
    print(
        f"{i:9d}  {relative:11.2f}  {KCAL_PER_MOL * ranking.energy_std[i]:5.2f}"
        f"  {ranking.novelty[i]:7.2f}  {ranking.neighbors[i][0].name}"
    )
