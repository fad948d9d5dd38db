"""What a calculator passes on of its baseline, and its errors under the names of committees."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import warnings

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.checkpoint import CheckpointCalculator
from ase.calculators.lj import LennardJones
from ase.calculators.loggingcalc import LoggingCalculator
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.vibrations import Infrared, Vibrations
from helpers.factories import water_clusters

from ase_knncalc import KNNCalculator, load_model
from ase_knncalc.baselines import (
    ASEBaseline,
    Baseline,
    GivenBaseline,
    NoBaseline,
    SinglePoint,
    TBLiteBaseline,
    XTBBaseline,
)
from ase_knncalc.errors import BaselineError, SettingsError, StructureError
from ase_knncalc.prediction import OTHER_NAMES

QUIET = {"on_novelty": "ignore"}


@pytest.fixture(scope="module")
def smooth():
    """A model with forces and their errors, on GFN1-xTB: the shipped one."""
    return load_model("multibase-wb97xd")


@pytest.fixture
def water(smooth):
    atoms = molecule("H2O")
    atoms.rattle(0.02, seed=1)
    atoms.calc = KNNCalculator(smooth, **QUIET)
    return atoms


# ------------------------------------------------------------------------- charges and dipoles


@pytest.mark.parametrize("kind", [TBLiteBaseline, XTBBaseline])
@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_charges_and_dipole_are_those_of_tblites_own_calculator(kind, method) -> None:
    tblite = pytest.importorskip("tblite.ase")
    atoms = molecule("CH3OH")  # atoms in line with an axis: xtb is turned, and the dipole back
    atoms.calc = tblite.TBLite(method=method, verbosity=0)
    point = kind(method).single_point(atoms, 0, 1)
    np.testing.assert_allclose(point.charges, atoms.get_charges(), atol=2e-4)
    np.testing.assert_allclose(point.dipole, atoms.get_dipole_moment(), atol=5e-4)
    assert point.energy == kind(method).energy(atoms, 0, 1)


def test_every_baseline_has_a_single_point() -> None:
    atoms = molecule("H2O")
    for baseline in (NoBaseline(), ASEBaseline(LennardJones())):
        assert isinstance(baseline, Baseline)
        point = baseline.single_point(atoms, 0, 1, ("forces",))
        energy, forces = baseline.energy_and_forces(atoms, 0, 1)
        assert point.energy == energy
        np.testing.assert_array_equal(point.forces, forces)
        assert (point.charges, point.dipole, baseline.properties) == (None, None, ())
    with pytest.raises(BaselineError, match="given"):
        GivenBaseline().single_point(atoms, 0, 1)
    assert SinglePoint(1.0).forces is None


def test_of_an_ase_calculator_what_is_wanted(water) -> None:
    tblite = pytest.importorskip("tblite.ase")
    baseline = ASEBaseline(tblite.TBLite(method="GFN1-xTB", verbosity=0))
    assert set(baseline.properties) == {"charges", "dipole"}
    point = baseline.single_point(water, 0, 1)
    assert (point.forces, point.charges, point.dipole) == (None, None, None)
    point = baseline.single_point(water, 0, 1, ("dipole", "charges"))
    expected = TBLiteBaseline().single_point(water, 0, 1)
    np.testing.assert_allclose(point.dipole, expected.dipole, atol=1e-6)
    np.testing.assert_allclose(point.charges, expected.charges, atol=1e-6)


def test_wrong_shapes_of_a_calculator_are_told() -> None:
    class Flat(LennardJones):
        implemented_properties = (*LennardJones.implemented_properties, "dipole")

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["dipole"] = np.zeros(2)

    with pytest.raises(BaselineError, match=r"dipole of shape \(2,\) .*expected \(3,\)"):
        ASEBaseline(Flat()).single_point(molecule("H2O"), 0, 1, ("dipole",))


def test_calculator_passes_them_on_with_one_calculation(water, monkeypatch) -> None:
    water.calc = KNNCalculator(water.calc.model, dipole="baseline", **QUIET)
    calls = []
    kind = type(water.calc.model.baseline)
    run = kind.single_point
    monkeypatch.setattr(
        kind, "single_point", lambda self, *a: (calls.append(a[-1]), run(self, *a))[1]
    )
    assert {"charges", "dipole"} <= set(water.calc.implemented_properties)
    dipole, charges = water.get_dipole_moment(), water.get_charges()
    water.get_potential_energy()
    expected = run(water.calc.model.baseline, water, 0, 1)
    np.testing.assert_array_equal(dipole, expected.dipole)
    np.testing.assert_array_equal(charges, expected.charges)
    assert charges.sum() == pytest.approx(0.0, abs=1e-6)
    assert len(calls) == 1
    water.get_forces()
    water.rattle(0.01)
    del calls[:]
    water.get_potential_energy()
    water.get_forces()
    water.get_dipole_moment()
    assert len(calls) == 1, "who asked once is expected to ask again"


def test_errors_of_forces_are_of_the_steps_own_calculation(water, monkeypatch) -> None:
    points, corrections = [], []
    model = water.calc.model
    kind, run, correct = (
        type(model.baseline),
        type(model.baseline).single_point,
        type(model).correct,
    )
    monkeypatch.setattr(kind, "single_point", lambda *a: (points.append(1), run(*a))[1])
    monkeypatch.setattr(
        type(model), "correct", lambda *a, **k: (corrections.append(k), correct(*a, **k))[1]
    )
    forces = water.get_forces()
    std = water.calc.get_property("forces_std", water)
    assert len(points) == 1, "the structure is the same, and so is its baseline"
    np.testing.assert_array_equal(water.get_forces(), forces)
    water.rattle(0.01, seed=2)
    del points[:], corrections[:]
    water.get_forces()
    assert np.any(water.calc.get_property("forces_std", water) != std)
    assert (len(points), len(corrections)) == (1, 1), "who asked for it is expected to ask again"
    for asked in (True, False):
        water.rattle(0.01, seed=3)
        water.get_forces()
        assert ("forces_std" in water.calc.results) is asked, "and not for ever"
    water.calc.set(charge=0)
    del points[:]
    water.get_forces()
    assert len(points) == 1


def test_none_of_a_model_without_such_a_baseline(tiny_model, water) -> None:
    calculator = KNNCalculator(tiny_model, **QUIET)
    assert not {"charges", "dipole"} & set(calculator.implemented_properties)
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("dipole", water)
    assert tiny_model.predict(molecule("H2O")).dipole is None


def test_infrared_works_as_on_the_baseline(smooth, tmp_path) -> None:
    tblite = pytest.importorskip("tblite.ase")
    spectra = []
    for name, calculator in (
        ("model", KNNCalculator(smooth, dipole="baseline", **QUIET)),
        ("tblite", tblite.TBLite(method="GFN1-xTB", verbosity=0, accuracy=0.1)),
    ):
        atoms = molecule("H2O")
        atoms.calc = calculator
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=50)
        infrared = Infrared(atoms, name=str(tmp_path / name))
        infrared.run()
        infrared.read()
        spectra.append((infrared.get_frequencies().real[-3:], infrared.intensities[-3:]))
    (waves, intensities), (base, base_intensities) = spectra
    np.testing.assert_allclose(waves, base, rtol=0.2)
    # The dipoles are the baseline's, taken at another minimum and along other modes.
    np.testing.assert_allclose(intensities, base_intensities, rtol=0.5, atol=0.2)


# ------------------------------------------------------------------- errors under other names


def test_errors_under_the_names_of_committees(water) -> None:
    calculator = water.calc
    std = calculator.get_property("energy_std", water)
    assert calculator.get_property("energy_uncertainty", water) == std
    assert calculator.results["energy_var"] == pytest.approx(std**2)
    of_forces = calculator.get_property("forces_uncertainty", water)
    assert of_forces.shape == (3, 3)
    np.testing.assert_array_equal(of_forces[:, 1], calculator.results["forces_std"])
    np.testing.assert_array_equal(calculator.results["stds"], of_forces)
    np.testing.assert_allclose(calculator.get_property("forces_var", water), of_forces**2)
    assert not set(calculator.results) & set(OTHER_NAMES), "each number is listed once"
    json.dumps({k: v for k, v in calculator.results.items() if np.ndim(v) == 0})
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert twin.results["energy_uncertainty"] == std
    with pytest.raises(KeyError, match="colour"):
        calculator.results["colour"]
    water.rattle(0.02)
    assert calculator.get_property("energy_var", water, allow_calculation=False) is None
    assert calculator.get_property("stds", water, allow_calculation=False) is None


def test_no_error_of_forces_without_forces_in_the_training(tiny_model, water) -> None:
    calculator = KNNCalculator(tiny_model, **QUIET)
    assert calculator.get_property("energy_var", water) > 0
    for name in ("forces_std", "forces_var", "stds"):
        with pytest.raises(PropertyNotImplementedError, match="without forces"):
            calculator.get_property(name, water)
    with pytest.raises(KeyError):
        calculator.results["forces_var"]


# ------------------------------------------------------------------------------------- Hessian


def test_hessian_has_the_frequencies_of_ase(water, tmp_path) -> None:
    BFGS(water, logfile=None).run(fmax=0.005, steps=50)
    before = water.get_potential_energy()
    hessian = water.calc.get_hessian(atoms=water)
    assert hessian.shape == (9, 3, 3)
    np.testing.assert_array_equal(hessian.reshape(9, 9), hessian.reshape(9, 9).T)
    assert water.get_potential_energy() == before
    np.testing.assert_array_equal(water.calc.get_hessian(), hessian)
    vibrations = Vibrations(water, name=str(tmp_path / "vib"), delta=0.01)
    vibrations.run()
    expected = vibrations.get_vibrations().get_hessian_2d()
    np.testing.assert_allclose(hessian.reshape(9, 9), expected, atol=0.05)


def test_hessian_needs_a_structure_and_forces(smooth, water_model, water) -> None:
    with pytest.raises(StructureError, match="no structure"):
        KNNCalculator(smooth, **QUIET).get_hessian()
    with pytest.raises(SettingsError, match="no forces"):
        KNNCalculator(water_model(weights="distance"), **QUIET).get_hessian(water)


# ------------------------------------------------------------------------- what wraps calculators


def test_checkpoint_and_logger(tiny_model, tmp_path) -> None:
    trimer = water_clusters(3)[2]
    calculator = KNNCalculator(tiny_model, **QUIET)
    expected = calculator.get_property("energy", trimer)
    database = str(tmp_path / "checkpoints.db")
    for _ in range(2):  # computed, then read
        trimer.calc = CheckpointCalculator(KNNCalculator(tiny_model, **QUIET), db=database)
        assert trimer.get_potential_energy() == expected
        assert trimer.get_forces().shape == (9, 3)
    trimer.calc = LoggingCalculator(calculator)
    assert trimer.get_potential_energy() == expected
    BFGS(trimer, logfile=None).run(fmax=0.5, steps=3)


def test_neb_with_one_calculator_for_all_images(tiny_model) -> None:
    start = water_clusters(3)[2]
    end = start.copy()
    end.positions[-3:] += [0.1, 0.2, 0.1]
    separate, shared = [], []
    for images, share in ((separate, False), (shared, True)):
        images += [start.copy() for _ in range(3)] + [end.copy()]
        band = NEB(images, allow_shared_calculator=share, method="improvedtangent")
        band.interpolate()
        one = KNNCalculator(tiny_model, **QUIET)
        for image in images:
            image.calc = one if share else KNNCalculator(tiny_model, **QUIET)
        FIRE(band, logfile=None).run(fmax=0.01, steps=3)
    for a, b in zip(separate, shared, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-10)


def test_socket_client_gives_the_server_the_same_numbers(tiny_model) -> None:
    trimer = water_clusters(3)[2]
    twin = trimer.copy()
    twin.calc = KNNCalculator(tiny_model, **QUIET)
    expected = twin.get_forces()
    name = f"knncalc-test-{threading.get_ident()}"
    with SocketIOCalculator(unixsocket=name, timeout=60) as server:
        client = threading.Thread(
            target=lambda: SocketClient(unixsocket=name, timeout=60).run(twin, use_stress=False)
        )
        client.start()
        trimer.calc = server
        np.testing.assert_allclose(trimer.get_forces(), expected, atol=1e-8)
        trimer.positions[0, 0] += 0.01
        energy = trimer.get_potential_energy()
    client.join(60)
    assert not client.is_alive()
    assert energy == pytest.approx(twin.calc.get_property("energy", trimer))


def test_sum_with_a_force_field_has_no_error(tiny_model) -> None:
    from ase.calculators.mixing import SumCalculator

    trimer = water_clusters(3)[2]
    trimer.calc = SumCalculator([KNNCalculator(tiny_model, **QUIET), LennardJones()])
    trimer.get_forces()
    assert "energy_std" not in trimer.calc.results


def test_interface_of_ase_4(smooth) -> None:
    """What ASE moves to: calculators with ``evaluate``, made of today's by an adaptor."""
    new = pytest.importorskip("ase._4.calculators.calculator")

    class Adapted(new.Version4Adaptor):
        wrapped_class = KNNCalculator

    calculator = Adapted(smooth, **QUIET)
    atoms = molecule("H2O")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Property .* not one of the standard properties")
        found = calculator.evaluate(atoms, properties=["free_energy", "forces", "dipole"])
    atoms.calc = KNNCalculator(smooth, **QUIET)
    assert found.properties["energy"] == atoms.get_potential_energy()
    np.testing.assert_array_equal(found.properties["forces"], atoms.get_forces())
    np.testing.assert_array_equal(found.properties["dipole"], atoms.get_dipole_moment())
