"""Structures and models that tests make for themselves."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from ase_knncalc import KNNModel, train

DIMER = Atoms("OH2OH2", [[0.992, 0.962, -0.109], [1.479, 0.892, -0.935], [0.640, 1.855, -0.076],
                         [-1.050, -1.016, 0.113], [-0.344, -0.352, 0.059],
                         [-0.854, -1.539, 0.892]])  # fmt: skip
"""Two water molecules, near a minimum."""


def pair_energy(atoms: Atoms) -> float:
    """A smooth, size-extensive energy with angles in it, eV: what a trend can learn."""
    distances = atoms.get_all_distances()[np.triu_indices(len(atoms), 1)]
    numbers = atoms.numbers
    product = (numbers[:, None] * numbers)[np.triu_indices(len(atoms), 1)]
    decay = np.exp(-((distances - 1.5) ** 2)) - 0.3 * np.exp(-((distances - 2.8) ** 2))
    return float(0.05 * np.sum(np.sqrt(product) * decay) - 20.0 * np.sum(numbers == 8))


def water_clusters(n: int, seed: int = 0, largest: int = 4) -> list[Atoms]:
    """Random packed, distorted water clusters, labelled with :func:`pair_energy`."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        size = 1 + i % largest
        atoms = Atoms()
        while len(atoms) < 3 * size:
            water = molecule("H2O")
            water.positions = Rotation.random(random_state=rng).apply(water.positions)
            water.positions += rng.normal(size=(3, 3)) * 0.04
            water.positions += rng.uniform(-1, 1, 3) * 1.6 * size ** (1 / 2)
            if len(atoms):
                gaps = np.linalg.norm(atoms.positions[:, None] - water.positions, axis=2)
                if gaps.min() < 1.6:
                    continue
            atoms += water
        atoms.info.update(name=f"{size}w-{i}", composition=f"{size}w", charge=0, multiplicity=1)
        atoms.info["reference_energy"] = pair_energy(atoms)
        frames.append(atoms)
    return frames


def rigid_waters(n: int, seed: int) -> list[Atoms]:
    """Clusters of two waters and more that do not differ in their bonds."""
    rng = np.random.default_rng(seed)
    found = []
    for atoms in water_clusters(n, seed):
        rigid = Atoms(info=atoms.info)
        for oxygen in atoms.positions[atoms.numbers == 8]:
            water = molecule("H2O")
            water.positions = oxygen + Rotation.random(random_state=rng).apply(water.positions)
            rigid += water
        if len(rigid) > 3:
            found.append(rigid)
    return found


def tiny(frames: list[Atoms], **options) -> KNNModel:
    """A small model without baseline."""
    defaults = {"trend": "linear", "n_components": 5, "metric_iterations": 20, "k": 5}
    return train(
        [a.copy() for a in frames],
        baseline="none",
        reference="pairs",
        n_jobs=1,
        **(defaults | options),
    )


def labelled_with_properties(frames: list[Atoms]) -> list[Atoms]:
    """Copies with made-up properties that depend smoothly on the structure."""
    found = []
    for atoms in frames:
        atoms = atoms.copy()
        local = pair_energy(atoms) + 20.0 * np.sum(atoms.numbers == 8)
        size = len(atoms) / 3
        modes = np.linspace(60.0, 3500.0, 3 * len(atoms) - 6)
        atoms.info["frequencies_cm1"] = modes * (1.0 + 0.05 * local / size)
        atoms.info["alpha"] = 1.4 * size + 0.2 * local
        atoms.info["cc_energy"] = atoms.info["reference_energy"] - 0.3 * size + 0.1 * local
        atoms.info["cc_set"] = "old" if size == 2 else "new"
        atoms.info["cc_energy"] += 0.05 * size * (size == 2)
        found.append(atoms)
    return found


def with_properties(model: KNNModel, frames: list[Atoms]) -> KNNModel:
    """The model with heads of all kinds that need no baseline."""
    from ase_knncalc.training import HeadSettings, add_properties

    return add_properties(
        model,
        labelled_with_properties(frames),
        ["thermochemistry", "polarizability=alpha", "level:cc=cc_energy@cc_set", "twice=alpha"],
        settings=HeadSettings(environments=30, variance_environments=15),
        n_jobs=1,
    )
