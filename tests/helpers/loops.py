"""Loops to try: a folder with all that one needs, and an oracle that labels at once."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from helpers.factories import pair_energy, water_clusters

from ase_knncalc import KNNModel, save_model
from ase_knncalc.active.journal import structure_key
from ase_knncalc.data import write_frames
from ase_knncalc.errors import LabelerError
from ase_knncalc.labelers import Label

SETTINGS = """
[training.settings]
trend = "linear"
n_components = 5
metric = "pca"
folds = 2
k = 5
"""

CONFIG = """
[loop]
directory = "work"
iterations = {iterations}
batch = {batch}
strategy = "{strategy}"

[model]
{model}
baseline = "none"

[training]
data = ["known.extxyz"]
check_labels = false
{settings}
[pool]
files = ["pool.extxyz"]

[labeler]
kind = "lookup"
files = ["answers.extxyz"]

[test]
files = ["test.extxyz"]
"""


class Oracle:
    """Labels at once, and notes each structure that it was asked for."""

    method = "pairs"
    provides_forces = False
    in_process = True

    def __init__(self, calls: Path, failing: str = "") -> None:
        self.calls = calls
        self.failing = failing

    def label(self, atoms):
        with open(self.calls, "a") as handle:
            handle.write(structure_key(atoms) + "\n")
        if self.failing and atoms.info["name"] == self.failing:
            raise LabelerError("did not converge")
        return Label(pair_energy(atoms), None, 0.0, self.method)


def fill_folder(folder: Path, frames: list[Atoms], model: KNNModel) -> Path:
    """A configuration with its files: known structures, a pool without labels, answers."""
    write_frames(folder / "known.extxyz", frames)
    pool = water_clusters(30, seed=11)
    write_frames(folder / "answers.extxyz", pool)
    for atoms in pool:
        del atoms.info["reference_energy"]
    write_frames(folder / "pool.extxyz", pool)
    write_frames(folder / "test.extxyz", water_clusters(20, seed=12))
    save_model(model, folder / "first.h5")
    write_config(folder)
    return folder


def write_config(folder: Path, extra: str = "", **changes) -> Path:
    options = {
        "iterations": 3, "batch": 5, "strategy": "combined", "model": 'file = "first.h5"',
        "settings": SETTINGS, **changes,
    }  # fmt: skip
    path = folder / "config.toml"
    path.write_text(CONFIG.format(**options) + extra)
    return path


def read_labelled(work: Path) -> dict[str, float]:
    from ase.io import read

    frames = read(work / "labelled.extxyz", ":")
    return {a.info["name"]: a.info["reference_energy"] for a in frames}


TRUTH = {a.info["name"]: a.info["reference_energy"] for a in water_clusters(30, seed=11)}
