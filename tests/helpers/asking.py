"""What tests ask of models, here and in other processes.

Other processes find functions by the name of their module. This folder is on the path they inherit;
the test files are not modules that could be imported.
"""

from __future__ import annotations

from ase import Atoms
from ase.build import molecule

from ase_knncalc import KNNCalculator, KNNModel, load_model


def bits(model: KNNModel, frames: list[Atoms], **options) -> list:
    """Everything that a model says, as it is."""
    told = []
    for a in frames:
        p = model.predict(a, **options)
        told.append([p.delta, p.trend, p.knn, p.energy_std, p.novelty, p.baseline_energy])
        told[-1] += [n.distance for n in p.neighbors]
        if p.delta_forces is not None:
            told[-1] += [p.delta_forces.tobytes().hex(), p.baseline_forces.tobytes().hex()]
    return told


def bits_of_file(name: str, frames: list[Atoms]) -> list:
    """:func:`bits` of a model that is opened for it."""
    return bits(load_model(name), frames)


def water_energy(calculator: KNNCalculator) -> float:
    water = molecule("H2O")
    water.calc = calculator
    return float(water.get_potential_energy())
