"""Dipoles: they turn with the molecule, keep its charge, and follow from magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers.factories import rigid_waters, water_clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc import KNNCalculator, load_model, save_model
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.analysis.learned import LearnedMinimum
from ase_knncalc.analysis.ranking import predict_usable
from ase_knncalc.baselines import NoBaseline, SinglePoint, make_baseline
from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.exploration import Conditions, GibbsTable
from ase_knncalc.exploration.acdc import acdc_dipoles_text
from ase_knncalc.heads import Gas
from ase_knncalc.heads.dipole import DEBYE, arms, baseline_dipole
from ase_knncalc.thermochemistry import Minimum
from ase_knncalc.training import HeadSettings, add_properties
from ase_knncalc.trend import environments

CHARGES = {1: 0.35, 8: -0.7}


def true_dipole(atoms: Atoms) -> np.ndarray:
    """Of charges that depend a little on what is near, e Å."""
    gaps = atoms.get_all_distances() + 10.0 * np.eye(len(atoms))
    charges = np.array([CHARGES[z] for z in atoms.numbers])
    charges *= 1.0 + 0.3 * np.exp(-((gaps.min(axis=1) - 0.95) ** 2) / 0.02)
    return np.asarray((charges - charges.mean()) @ atoms.positions)


class Rough(NoBaseline):
    """A baseline that knows the size of dipoles badly, and their direction roughly."""

    properties = ("dipole",)

    def single_point(self, atoms, charge, multiplicity, wanted=()) -> SinglePoint:
        return SinglePoint(0.0, np.zeros((len(atoms), 3)), None, self.dipole(atoms))

    def dipole(self, atoms) -> np.ndarray:
        return 0.5 * np.array([CHARGES[z] for z in atoms.numbers]) @ atoms.positions


@pytest.fixture(scope="module")
def dipole_model(headed_model):
    frames = water_clusters(80, seed=3, largest=3)
    for atoms in frames:
        atoms.info["mu"] = np.linalg.norm(true_dipole(atoms)) / DEBYE
    small = HeadSettings(environments=30, variance_environments=15)
    rough = headed_model.with_baseline(Rough())
    return add_properties(rough, frames, ["dipole=mu"], settings=small, n_jobs=1)


def bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions)


def test_magnitudes_teach_vectors(dipole_model) -> None:
    (head,) = (h for h in dipole_model.heads if h.kind == "dipole")
    errors = head.details["errors"]["dipole"]
    frames = water_clusters(80, seed=3, largest=3)
    base = [np.linalg.norm(Rough().dipole(a)) - np.linalg.norm(true_dipole(a)) for a in frames]
    assert errors["mae"] < 0.4 * np.abs(base).mean()
    assert 0.8 <= errors["inside_90"] <= 1.0


@given(seed=st.integers(0, 2**31), which=st.integers(0, 11))
@settings(max_examples=15, deadline=None)
def test_a_dipole_turns_with_the_molecule(dipole_model, seed, which) -> None:
    rng = np.random.default_rng(seed)
    atoms = bare(water_clusters(12, seed=8, largest=3)[which])
    turn = Rotation.random(random_state=rng)
    order = rng.permutation(len(atoms))
    moved = Atoms(atoms.numbers[order], (turn.apply(atoms.positions) + rng.normal(size=3))[order])
    model = dipole_model
    here, there = model.predict_dipole(atoms), model.predict_dipole(moved)
    np.testing.assert_allclose(there.value, turn.apply(here.value), atol=1e-6)
    assert there.std == pytest.approx(here.std, rel=1e-5)
    mirrored = model.predict_dipole(Atoms(atoms.numbers, -atoms.positions))
    np.testing.assert_allclose(mirrored.value, -here.value, atol=1e-6)


def test_arms_vanish_alone_and_are_smooth() -> None:
    assert np.all(arms(np.zeros((1, 3))) == 0.0)
    far = np.array([[0.0, 0, 0], [4.4999, 0, 0]])
    assert np.abs(arms(far)).max() < 1e-6
    assert np.abs(arms(far * 1.01)).max() == 0.0


def test_calculators_give_dipoles(dipole_model, tmp_path) -> None:
    save_model(dipole_model, tmp_path / "m.h5")
    atoms = bare(water_clusters(2, seed=9)[1])
    loaded = load_model(tmp_path / "m.h5", baseline=None).with_baseline(Rough())
    atoms.calc = KNNCalculator(loaded, on_novelty="ignore")
    dipole = atoms.get_dipole_moment()
    said = dipole_model.predict_dipole(atoms)
    assert dipole.tolist() == said.value.tolist()
    assert atoms.calc.results["dipole_std"] == said.std > 0
    assert "energy" in atoms.calc.results


@pytest.fixture
def counted(dipole_model, monkeypatch) -> dict[str, int]:
    """How often structures are described, and kernels and the baseline computed."""
    counts = {"descriptor": 0, "kernels": 0, "baseline": 0}

    def count(where, function: str, name: str) -> None:
        original = getattr(where, function)

        def call(*arguments, **options):
            counts[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(where, function, call)

    count(type(dipole_model.descriptor), "local", "descriptor")
    count(environments, "kernel_blocks", "kernels")
    count(Rough, "single_point", "baseline")
    return counts


def test_a_step_with_all_that_was_learned_is_one_description(dipole_model, counted) -> None:
    atoms = bare(water_clusters(2, seed=9)[1])
    calculator = KNNCalculator(dipole_model, level="cc", on_novelty="ignore")
    calculator.calculate(atoms, ["energy", "forces", "dipole"])
    assert set(counted.values()) == {1}, counted
    found = dict(calculator.results)
    said = dipole_model.predict_dipole(atoms)
    np.testing.assert_allclose(found["dipole"], said.value, atol=1e-9)
    step = dipole_model.predict_properties(atoms).levels["cc"]
    assert found["level_correction"].energy == pytest.approx(step.value, abs=1e-9)
    plain = dipole_model.predict(atoms, forces=True)
    assert found["energy"] == pytest.approx(plain.energy + step.value, abs=1e-9)
    np.testing.assert_allclose(
        found["forces"], plain.forces + found["level_correction"].forces, atol=1e-9
    )


def test_properties_of_many_are_of_one_description(dipole_model, counted) -> None:
    frames = [bare(a) for a in water_clusters(5, seed=8, largest=3)]
    frames.insert(2, Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]))  # not covered
    found, places, omitted = predict_usable(dipole_model, frames, gas=Gas(300.0), n_jobs=1)
    assert counted == {"descriptor": 5, "kernels": 1, "baseline": 5}
    assert (places, [o.index for o in omitted]) == ([0, 1, 3, 4, 5], [2])
    for place, one in zip(places, found, strict=True):
        alone = dipole_model.predict_properties(frames[place], temperature=300.0)
        assert one.properties.polarizability.value == pytest.approx(alone.polarizability.value)
        gibbs = alone.thermochemistry.gibbs_correction
        assert one.properties.thermochemistry.gibbs_correction.std == pytest.approx(gibbs.std)
        dipole = dipole_model.predict_dipole(frames[place])
        np.testing.assert_allclose(one.properties.dipole.value, dipole.value, atol=1e-9)
        assert one.properties.dipole.std == pytest.approx(dipole.std)
    blind = dipole_model.with_baseline(NoBaseline())
    with pytest.raises(BaselineError, match="knows no dipoles"):
        predict_usable(blind, frames, gas=Gas(300.0), n_jobs=1)


def test_models_without_dipoles_say_so(headed_model, water_frames) -> None:
    with pytest.raises(SettingsError, match="has not learned dipoles"):
        headed_model.predict_dipole(water_frames[0])
    calculator = KNNCalculator(headed_model.with_baseline(Rough()), on_novelty="ignore")
    passed_on = calculator.get_dipole_moment(water_frames[0])
    assert passed_on.tolist() == Rough().dipole(water_frames[0]).tolist()
    assert "dipole_std" not in calculator.results


@pytest.mark.parametrize("library", ["tblite", "xtb"])
def test_dipoles_of_the_baseline(library) -> None:
    """Water of GFN1-xTB; an ion's about its nuclei does not depend on where it is."""
    pytest.importorskip(f"{library}.interface")
    baseline = make_baseline(f"{library}:GFN1-xTB")
    water = molecule("H2O")
    found = baseline_dipole(baseline, water, 0, 1)
    assert 1.8 < np.linalg.norm(found) / DEBYE < 3.2
    ion = molecule("OH")
    moved = ion.copy()
    moved.positions += [3.0, -1.0, 2.0]
    np.testing.assert_allclose(
        baseline_dipole(baseline, moved, -1, 1), baseline_dipole(baseline, ion, -1, 1), atol=1e-4
    )


def test_baselines_without_dipoles(water_frames) -> None:
    for baseline in (None, NoBaseline(), make_baseline("given")):
        with pytest.raises(BaselineError, match="knows no dipoles"):
            baseline_dipole(baseline, water_frames[0], 0, 1)


def test_files_for_cluster_dynamics(dipole_model) -> None:
    """Dipoles and polarizabilities of molecules and clusters, and errors of binding."""
    water, _, _ = water_clusters(3, seed=9)
    dimer = water_clusters(2, seed=9)[1]
    states = {
        name: LearnedMinimum(bare(a), 0.0, 0.01, np.zeros(0), 1, 0, 1, model=dipole_model)
        for name, a in (("1w", water), ("2w", dimer))
    }
    table = GibbsTable([states["2w"]], Conditions(), [{"1w": 2}], {"1w": states["1w"]}, [])
    lines = acdc_dipoles_text(table, dipole_model, names={"w": "W"}).splitlines()
    assert lines[:2] == ["0", "0"]
    assert [line.split()[0] for line in lines[2:]] == ["1W", "2W"]
    for line, atoms in zip(lines[2:], (water, dimer), strict=True):
        dipole, alpha = (float(x) for x in line.split()[1:])
        said = dipole_model.predict_dipole(bare(atoms))
        assert dipole == pytest.approx(said.magnitude / DEBYE, abs=1e-4)
        found = dipole_model.predict_properties(bare(atoms)).polarizability
        assert alpha == pytest.approx(found.value, abs=1e-4)
    (row,) = table.rows()
    cluster, molecule_ = states["2w"].at(), states["1w"].at()
    variance = cluster.enthalpy_std**2 + (2 * molecule_.enthalpy_std) ** 2
    assert row["binding_enthalpy_std_kcal_mol"] == pytest.approx(KCAL_PER_MOL * variance**0.5)
    assert row["binding_entropy_std_cal_mol_K"] > 0
    assert row["gibbs_std_eV"] > 0.01, "more than the energy's"
    with pytest.raises(SettingsError, match="soft modes below 100"):
        states["2w"].at(lowest=50.0)


def test_slopes_are_those_of_charges_that_stay(headed_model) -> None:
    """Bonds of rigid waters do not differ: what fits their dipoles must not depend on bonds."""
    frames = rigid_waters(60, seed=4)
    for atoms in frames:
        oxygens = atoms.positions[atoms.numbers == 8]
        mu = np.zeros(3)
        for place, oxygen in enumerate(oxygens):
            gaps = np.linalg.norm(np.delete(oxygens, place, axis=0) - oxygen, axis=1)
            induced = 1.0 + 0.5 * np.exp(-((gaps - 2.0) ** 2)).sum()
            water = atoms[3 * place : 3 * place + 3]
            mu += induced * np.array([CHARGES[z] for z in water.numbers]) @ water.positions
        atoms.info["mu"] = np.linalg.norm(mu) / DEBYE
    water, stretched = molecule("H2O"), molecule("H2O")
    stretched.set_distance(0, 1, 1.01, fix=0)
    truth = 0.35 * (stretched.positions[1] - water.positions[1])

    def error(slopes: float) -> float:
        small = HeadSettings(environments=30, variance_environments=25, slopes=slopes)
        rough = headed_model.with_baseline(Rough())
        model = add_properties(rough, frames, ["dipole=mu"], settings=small, n_jobs=1)
        gained = model.predict_dipole(stretched).value - model.predict_dipole(water).value
        return float(np.linalg.norm(gained - truth) / np.linalg.norm(truth))

    assert error(0.05) < min(0.5 * error(0.0), 0.4)


def test_a_hessian_has_no_error_of_its_entropy(water_frames) -> None:
    modes = np.linspace(100.0, 3500.0, 3)
    state = Minimum(bare(water_frames[0]), 0.0, 0.02, modes, 1, 0, 1).at()
    assert (state.gibbs_std, state.entropy_std) == (0.02, 0.0)
