"""Parameters of the baseline fitted anew."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from parameter_slopes import (
    Slopes,
    moved,
    parameters_of,
    slopes,
    starting_table,
)
from refit_baseline import refit
from scipy.optimize import minimize

from ase_knncalc.baselines.parameters import ParameterBaseline, as_text

TABLE = starting_table("HNO")
PARAMETERS = parameters_of(TABLE)
# What the labels below were made with, in units of change.
TRUE = {
    ("hamiltonian", "xtb", "kpair", "O-H"): 1.0,
    ("repulsion", "effective", "kexp"): -1.0,
    ("element", "H", "arep"): 1.0,
    ("element", "O", "levels", 1): -0.5,
    ("element", "N", "shpoly", 1): 1.0,
}


def pair(first: str, second: str) -> Atoms:
    atoms = molecule(first)
    other = molecule(second)
    other.positions += [0.3, 0.4, 3.2]
    return atoms + other


def shaken(atoms: Atoms, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.06, seed=seed)
    return atoms


def lowest(atoms: Atoms, baseline: ParameterBaseline) -> Atoms:
    """The minimum of a baseline."""
    atoms = atoms.copy()

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = baseline.energy_and_forces(Atoms(atoms.numbers, x.reshape(-1, 3)), 0, 1)
        return energy, -forces.ravel()

    found = minimize(value, atoms.positions.ravel(), jac=True, options={"gtol": 0.01})
    atoms.positions = found.x.reshape(-1, 3)
    return atoms


def at(baseline: ParameterBaseline, atoms: Atoms) -> np.ndarray:
    """Energy and forces, of a cycle that is converged well."""
    energy, forces = baseline.energy_and_forces(atoms, 0, 1)
    return np.append(energy, forces)


def test_slopes_are_those_of_energy_and_forces():
    waters = shaken(pair("H2O", "H2O"), 1)
    found = slopes(as_text(TABLE), PARAMETERS, waters.numbers, waters.positions, 0, 1)
    assert isinstance(found, Slopes)
    here = at(ParameterBaseline(parameters=as_text(TABLE), accuracy=0.01), waters)
    assert np.append(found.energy, found.forces) == pytest.approx(here, abs=1e-4)
    step = 0.05
    for i, parameter in enumerate(PARAMETERS):
        own = np.append(found.of_energy[i], found.of_forces[:, i])
        if "N" in parameter.symbols:
            assert not own.any()
            continue
        ahead, behind = (
            at(ParameterBaseline(parameters=as_text(table), accuracy=0.01), waters)
            for table in (moved(TABLE, [parameter], np.array([x])) for x in (step, -step))
        )
        slope = (ahead - behind) / (2 * step)
        # From one side and over a longer step: they have some of the curvature.
        assert own[0] == pytest.approx(slope[0], rel=0.06, abs=1e-4), parameter
        most = 0.06 * np.abs(slope[1:]).max() + 1e-4
        assert np.abs(own[1:] - slope[1:]).max() < most, parameter


def test_what_has_no_slopes_says_why():
    atoms = molecule("SH2")
    said = slopes(as_text(TABLE), PARAMETERS, atoms.numbers, atoms.positions, 0, 1)
    assert isinstance(said, str)
    assert "S" in said


def test_known_changes_are_found_again(tmp_path, capsys):
    changes = np.array([TRUE.get(p.path, 0.0) for p in PARAMETERS])
    assert np.count_nonzero(changes) == len(TRUE)
    true = ParameterBaseline(parameters=as_text(moved(TABLE, PARAMETERS, changes)))
    frames = []
    for name, atoms in {
        "1w": molecule("H2O"),
        "1am": molecule("NH3"),
        "1hp": molecule("H2O2"),
        "2w": pair("H2O", "H2O"),
        "1am1w": pair("NH3", "H2O"),
        "2am": pair("NH3", "NH3"),
    }.items():
        for i in (1, 2):
            frames.append(shaken(atoms, i))
            frames[-1].info.update(name=f"{name}-{i}", composition=name)
        if name in ("1w", "1am"):
            frames.append(lowest(atoms, true))
            frames[-1].info.update(name=f"{name}-min", composition=name)
    for atoms in frames:
        energy, forces = true.energy_and_forces(atoms, 0, 1)
        atoms.info.update(charge=0, multiplicity=1, reference_energy=energy - 50.0 * len(atoms))
        if not atoms.info["name"].endswith("-min"):
            atoms.arrays["reference_forces"] = forces
    cache = tmp_path / "cache"

    def alone() -> list[float]:
        """Errors of forces of the baseline by itself, as a refit prints them."""
        copies = [a.copy() for a in frames]
        refit(copies, environments=10, rho=0.1, ridge=1e-5, n_jobs=1, cache=cache)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [line["baseline_force_mae"] for line in lines if "baseline_force_mae" in line]

    first, second, third = alone()
    assert second < 0.3 * first
    assert third < 0.5 * second
    kept = sorted(cache.rglob("output.pkl"))
    assert len(kept) == 2 * len(frames)
    assert alone() == pytest.approx([first, second, third])
    assert sorted(cache.rglob("output.pkl")) == kept
