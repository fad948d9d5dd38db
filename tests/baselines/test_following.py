"""A baseline that follows a trajectory starts each SCF where the last one ended."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from ase import Atoms
from helpers.factories import water_clusters

from ase_knncalc import KNNCalculator
from ase_knncalc.baselines import TBLiteBaseline, make_baseline
from ase_knncalc.errors import BaselineError, SettingsError

pytest.importorskip("tblite.interface")


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Sizes of the structures that a calculation was begun for anew."""
    sizes: list[int] = []
    original = TBLiteBaseline._calculator

    def counted(self, numbers, *rest):
        sizes.append(len(numbers))
        return original(self, numbers, *rest)

    monkeypatch.setattr(TBLiteBaseline, "_calculator", counted)
    return sizes


@pytest.fixture
def walk() -> list[Atoms]:
    start = water_clusters(2, seed=8)[1]
    frames = []
    for step in range(6):
        atoms = Atoms(start.numbers, start.positions)
        atoms.rattle(0.01 * step, seed=step)
        frames.append(atoms)
    return frames


def test_energies_are_those_of_new_calculations(made, walk) -> None:
    cold = make_baseline("gfn1")
    expected = [cold.energy_and_forces(a, 0, 1) for a in walk]
    made.clear()
    warm = cold.following()
    assert warm.spec() == cold.spec()
    for atoms, (energy, forces) in zip(walk, expected, strict=True):
        found = warm.energy_and_forces(atoms, 0, 1)
        assert found[0] == pytest.approx(energy, abs=1e-4)
        np.testing.assert_allclose(found[1], forces, atol=2e-3)
    assert len(made) == 1


def test_a_dipole_is_read_where_it_is_wanted(walk) -> None:
    warm = make_baseline("gfn1").following()
    assert warm.single_point(walk[0], 0, 1, ("forces",)).dipole is None
    cold = make_baseline("gfn1").single_point(walk[0], 0, 1)
    dipole = warm.single_point(walk[0], 0, 1, ("dipole",)).dipole
    np.testing.assert_allclose(dipole, cold.dipole, atol=1e-4)


def test_what_is_not_near_starts_anew(made, walk) -> None:
    cold = make_baseline("gfn1")
    warm = cold.following()
    warm.energy(walk[0], 0, 1)
    far = walk[0].copy()
    far.positions[3:] += [0.0, 0.0, 0.35]
    other = walk[0][:3]
    for atoms, charge, multiplicity in [(far, 0, 1), (other, 0, 1), (other, 1, 2), (other, 0, 1)]:
        # To the last bit, as nothing was taken over.
        fresh = cold.energy(atoms, charge, multiplicity)
        assert warm.energy(atoms, charge, multiplicity) == fresh
    assert len(made) == 1 + 2 * 4


def test_copies_start_anew(made, walk) -> None:
    warm = make_baseline("gfn1").following()
    warm.energy(walk[0], 0, 1)
    for other in (copy.deepcopy(warm), pickle.loads(pickle.dumps(warm))):
        other.energy(walk[1], 0, 1)
    assert len(made) == 3
    warm.energy(walk[1], 0, 1)
    assert len(made) == 3


def test_nothing_is_taken_over_from_what_failed(made, walk) -> None:
    warm = TBLiteBaseline(max_iterations=3).following()
    for _ in range(2):
        with pytest.raises(BaselineError):
            warm.energy(walk[0], 0, 1)
    assert len(made) == 2


def test_calculator_follows_where_it_is_told_to(made, walk, tiny_model) -> None:
    model = tiny_model.with_baseline(make_baseline("gfn1"), allow_other=True)
    energies = {}
    for warm in (False, True):
        made.clear()
        calculator = KNNCalculator(
            model, allow_other_baseline=True, warm_start=warm, on_novelty="ignore"
        )
        energies[warm] = [calculator.get_potential_energy(a) for a in walk]
        assert len(made) == (1 if warm else len(walk))
    np.testing.assert_allclose(energies[True], energies[False], atol=1e-4)
    assert energies[False] == [model.predict(a).energy for a in walk]
    with pytest.raises(SettingsError, match="warm_start"):
        KNNCalculator(model, warm_start="yes")
