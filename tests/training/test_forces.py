"""Forces: the negative gradient of the energy, continuous, and learnable."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.optimize.basin import BasinHopping
from ase.vibrations import Vibrations
from helpers.factories import pair_energy, water_clusters
from scipy.stats import spearmanr

from ase_knncalc import KNNCalculator, load_model, save_model, train
from ase_knncalc.errors import SettingsError
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.knn.weights import KNNSettings
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.trend.sparse import SparseSettings


def numeric_forces(function, atoms, step: float = 1e-3) -> np.ndarray:
    """Central differences of a function of Atoms."""
    forces = np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for c in range(3):
            values = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, c] += sign * step
                values.append(function(moved))
            forces[i, c] = -(values[0] - values[1]) / (2 * step)
    return forces


@pytest.fixture(scope="module")
def force_frames():
    frames = water_clusters(16, seed=3, largest=3)
    for atoms in frames[::2]:
        atoms.arrays["reference_forces"] = numeric_forces(pair_energy, atoms, 1e-4)
    return frames


@pytest.fixture(scope="module", params=["linear", "sparse"])
def smooth_model(request, water_model):
    """With a k-NN term wide enough to reach every structure: its gradient is part of the test."""
    model = water_model(trend=request.param)
    spread = float(np.ptp(model.knn.index.points, axis=0).max())
    settings = KNNSettings(5, "kernel", bandwidth=3 * spread, nugget=0.05)
    # Residuals as large as the trend's own range, or the term would be lost beside it.
    residuals = np.random.default_rng(0).normal(size=len(model)) * 0.1
    return replace(model, knn=KNNTerm(model.knn.index, residuals, settings))


def test_forces_are_the_derivative_of_the_energy(smooth_model) -> None:
    assert smooth_model.smooth
    for atoms in water_clusters(6, seed=11):
        found = smooth_model.predict(atoms, forces=True)
        assert abs(found.knn) > 1e-9, "the k-NN term must take part"
        numeric = numeric_forces(lambda a: smooth_model.predict(a).energy, atoms, 2e-4)
        np.testing.assert_allclose(found.forces, numeric, atol=1e-4)
        np.testing.assert_allclose(found.forces.sum(axis=0), 0, atol=1e-8)
        torque = np.cross(atoms.positions - atoms.positions.mean(axis=0), found.forces)
        np.testing.assert_allclose(torque.sum(axis=0), 0, atol=1e-8)


def test_energy_is_the_same_with_and_without_forces(smooth_model, water_frames) -> None:
    atoms = water_frames[3]
    assert smooth_model.predict(atoms, forces=True).energy == smooth_model.predict(atoms).energy


def test_forces_are_continuous_along_paths_that_change_neighbours(smooth_model) -> None:
    """A water leaves a dimer through the cutoff, and two equivalent hydrogens swap places."""
    dimer = water_clusters(2, seed=2)[1]
    leave = []
    for shift in np.linspace(0, 8, 400):
        moved = dimer.copy()
        moved.positions[3:] += [0, 0, shift]
        leave.append(smooth_model.predict(moved, forces=True))
    swap = []
    middle = dimer.positions[1:3].mean(axis=0)
    for angle in np.linspace(0, 180, 200):
        moved = dimer.copy()
        turned = moved[1:3]
        turned.rotate(angle, dimer.positions[0] - middle, center=middle)
        moved.positions[1:3] = turned.positions
        swap.append(smooth_model.predict(moved, forces=True))
    assert len({p.neighbors[0].index for p in leave}) > 1, "the path must change neighbours"
    for path in (leave, swap):
        forces = np.array([p.forces for p in path])
        jumps = np.abs(np.diff(forces, axis=0)).max(axis=(1, 2))
        # A jump would stand out from the steps around it.
        around = np.maximum(np.roll(jumps, 1), np.roll(jumps, -1))[1:-1]
        assert np.all(jumps[1:-1] <= 3 * around + 1e-3)
    assert swap[-1].energy == pytest.approx(swap[0].energy, abs=1e-3)


def test_terms_that_jump_have_no_forces(water_frames, water_model) -> None:
    model = water_model(trend="none")
    assert not model.smooth
    with pytest.raises(SettingsError, match="weights='kernel'"):
        model.predict(water_frames[0], forces=True)
    atoms = water_frames[0].copy()
    atoms.calc = KNNCalculator(model, on_novelty="ignore")
    atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_forces()


def test_training_on_forces_lowers_force_errors(force_frames) -> None:
    sparse = SparseSettings(environments=120, variance_environments=40)
    settings = TrainingSettings(n_components=5, metric_iterations=10, k=5, sparse=sparse)
    with_forces = train(force_frames, baseline="none", settings=settings, n_jobs=1)
    bare = [a.copy() for a in force_frames]
    for a in bare:
        a.arrays.pop("reference_forces", None)
    without = train(bare, baseline="none", settings=settings, n_jobs=1)
    details = with_forces.info.provenance.trend
    assert details["force_frames"] == 8
    errors = {}
    for name, model in (("with", with_forces), ("without", without)):
        found = [
            np.abs(model.predict(a, forces=True).forces - numeric_forces(pair_energy, a)).mean()
            for a in water_clusters(9, seed=77, largest=3)
        ]
        errors[name] = float(np.mean(found))
    assert errors["with"] < 0.7 * errors["without"]
    assert 0.3 < details["force_mae"] / errors["with"] < 3, "the stated error must be about right"


@pytest.fixture(scope="module")
def cluster_model(cluster_frames):
    """Trained on real energies and forces."""
    return train(cluster_frames, n_components=5, metric_iterations=10, k=5, n_jobs=1)


@pytest.fixture
def dimer(cluster_model):
    """A hydrogen-bonded water dimer."""
    atoms = molecule("H2O")
    other = molecule("H2O")
    other.rotate(110, "x")
    other.translate([0.2, 1.4, 2.5])
    atoms += other
    atoms.calc = KNNCalculator(cluster_model, on_novelty="ignore")
    return atoms


def test_forces_of_a_model_that_saw_none_come_with_a_warning(smooth_model, cluster_model) -> None:
    assert not smooth_model.trained_on_forces
    atoms = water_clusters(1, seed=4)[0]
    atoms.calc = KNNCalculator(smooth_model, novelty_threshold=1e9)
    with pytest.warns(UserWarning, match="trained on energies alone"):
        atoms.get_forces()
    assert cluster_model.trained_on_forces
    atoms.calc = KNNCalculator(cluster_model, novelty_threshold=1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of ASE, with numpy 2.5
        atoms.get_forces()


class TestForcesStd:
    def test_it_tells_of_the_errors_of_frames_never_seen(self, cluster_frames) -> None:
        """Coverage by factors of two, and rank: an atom said to be worse is worse."""
        known = [a for i, a in enumerate(cluster_frames) if i % 3]
        asked = [a for i, a in enumerate(cluster_frames) if not i % 3]
        model = train(known, n_components=5, metric_iterations=10, k=5, n_jobs=1)
        errors, stds = [], []
        for atoms in asked:
            found = model.predict(atoms, forces_std=True)
            assert found.forces_std.shape == (len(atoms),)
            errors.append(np.abs(found.forces - atoms.arrays["reference_forces"]))
            stds.append(np.repeat(found.forces_std[:, None], 3, axis=1))
        error, std = np.concatenate(errors).ravel(), np.concatenate(stds).ravel()
        assert 0.5 < np.mean(error < std) < 0.95, "about 0.68"
        assert 0.85 < np.mean(error < 2 * std) <= 1.0, "about 0.95"
        assert spearmanr(error, std).statistic > 0.25

    def test_it_turns_and_moves_with_the_structure(self, cluster_model, cluster_frames) -> None:
        atoms = cluster_frames[-1]
        found = cluster_model.predict(atoms, forces_std=True)
        np.testing.assert_array_equal(
            found.forces, cluster_model.predict(atoms, forces=True).forces
        )
        moved = atoms.copy()
        moved.rotate(40, (1, 2, 3))
        moved.translate([3.0, -2.0, 1.0])
        order = np.random.default_rng(0).permutation(len(atoms))
        again = cluster_model.predict(moved[order], forces_std=True)
        # In single precision.
        np.testing.assert_allclose(again.forces_std, found.forces_std[order], rtol=5e-3)

    def test_it_is_larger_where_a_bond_is_torn(self, cluster_model) -> None:
        water = molecule("H2O")
        usual = cluster_model.predict(water, forces_std=True).forces_std
        water.set_distance(0, 1, 1.5, fix=0)
        assert cluster_model.predict(water, forces_std=True).forces_std[1] > 3 * usual[1]

    def test_the_calculator_gives_it_when_asked(self, dimer, cluster_model) -> None:
        std = dimer.calc.get_property("forces_std", dimer)
        np.testing.assert_array_equal(std, cluster_model.predict(dimer, forces_std=True).forces_std)
        assert "forces" in dimer.calc.results, "one calculation for both"

    def test_a_model_trained_on_energies_alone_has_none(self, smooth_model, water_frames) -> None:
        with pytest.raises(SettingsError, match="energies alone"):
            smooth_model.predict(water_frames[0], forces_std=True)
        calculator = KNNCalculator(smooth_model, on_novelty="ignore")
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property("forces_std", water_frames[0])

    def test_it_survives_the_file(self, cluster_model, cluster_frames, tmp_path) -> None:
        path = tmp_path / "m.h5"
        save_model(cluster_model, path)
        for atoms in cluster_frames[::40]:
            np.testing.assert_array_equal(
                load_model(path).predict(atoms, forces_std=True).forces_std,
                cluster_model.predict(atoms, forces_std=True).forces_std,
            )


class TestInAse:
    @pytest.mark.parametrize("optimizer", [BFGS, FIRE])
    def test_relaxation(self, dimer, optimizer) -> None:
        before = dimer.get_potential_energy()
        optimizer(dimer, logfile=None).run(fmax=0.01, steps=600)
        assert np.linalg.norm(dimer.get_forces(), axis=1).max() <= 0.01
        assert dimer.get_potential_energy() < before
        assert 2.7 < dimer.get_distance(0, 3) < 3.2, "an O–O distance of a hydrogen bond"

    def test_energy_conservation(self, dimer) -> None:
        BFGS(dimer, logfile=None).run(fmax=0.02, steps=200)
        rng = np.random.default_rng(0)
        MaxwellBoltzmannDistribution(dimer, temperature_K=150, rng=rng)
        Stationary(dimer)
        total = []
        dynamics = VelocityVerlet(dimer, timestep=0.25 * units.fs)
        dynamics.attach(lambda: total.append(dimer.get_total_energy()))
        dynamics.run(200)
        # Velocity Verlet's own fluctuation; a jump of the force would show as drift.
        assert abs(np.mean(total[-50:]) - np.mean(total[:50])) < 1e-3
        assert np.ptp(total) < 5e-3

    def test_vibrations(self, cluster_model, tmp_path) -> None:
        water = molecule("H2O")
        water.calc = KNNCalculator(cluster_model, on_novelty="ignore")
        BFGS(water, logfile=None).run(fmax=0.001, steps=200)
        vibrations = Vibrations(water, name=str(tmp_path / "vib"))
        vibrations.run()
        wavenumbers = np.sort(np.real(vibrations.get_frequencies()))
        bend, symmetric, asymmetric = wavenumbers[-3:]
        # ωB97X-D/6-31++G(d,p) has about 1610, 3890 and 4010 cm⁻¹.
        assert 1450 < bend < 1800
        assert 3600 < symmetric < asymmetric < 4300
        assert np.abs(wavenumbers[:6]).max() < 100

    def test_nudged_elastic_band(self, dimer) -> None:
        """A donor's two hydrogens change places: the path goes over a barrier and comes back."""
        BFGS(dimer, logfile=None).run(fmax=0.03, steps=200)
        final = dimer.copy()
        final.positions[[1, 2]] = final.positions[[2, 1]]
        images = [dimer.copy(), dimer.copy(), dimer.copy(), dimer.copy(), final]
        middle = dimer.positions[[1, 2]].mean(axis=0)
        axis = dimer.positions[0] - middle
        for n, image in enumerate(images[1:4], start=1):
            part = image[[1, 2]]
            part.rotate(45 * n, axis, center=middle)
            image.positions[[1, 2]] = part.positions
        for image in images:
            image.calc = KNNCalculator(dimer.calc.model, on_novelty="ignore")
        band = NEB(images, climb=False)
        FIRE(band, logfile=None).run(fmax=0.3, steps=30)
        energies = [image.get_potential_energy() for image in images]
        assert max(energies) > energies[0] + 0.005
        assert energies[-1] == pytest.approx(energies[0], abs=1e-4)

    def test_basin_hopping(self, dimer, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)  # it writes its minima to a file
        hopping = BasinHopping(
            dimer,
            temperature=100 * units.kB,
            dr=0.1,
            optimizer=BFGS,
            fmax=0.1,
            logfile=None,
            trajectory=None,
            optimizer_logfile=None,
        )
        np.random.seed(0)  # noqa: NPY002 - BasinHopping draws from the global state
        before = dimer.get_potential_energy()
        hopping.run(2)
        assert hopping.get_minimum()[0] <= before

    def test_baseline_runs_once_a_step(self, smooth_model, monkeypatch) -> None:
        calls = []
        kind = type(smooth_model.baseline)
        both = kind.energy_and_forces
        monkeypatch.setattr(
            kind, "energy_and_forces", lambda self, *a: (calls.append("f"), both(self, *a))[1]
        )
        only = kind.energy
        monkeypatch.setattr(kind, "energy", lambda self, *a: (calls.append("e"), only(self, *a))[1])
        atoms = water_clusters(1, seed=4)[0]
        atoms.calc = KNNCalculator(smooth_model, on_novelty="ignore")
        atoms.get_forces()
        atoms.rattle(0.01)
        atoms.get_potential_energy()
        atoms.get_forces()
        assert calls == ["f", "f"]
