"""What ASE expects of a calculator, and what its users have stumbled over in others."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_properties,
)
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import LinearCombinationCalculator, MixedCalculator, SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import Trajectory, read, write
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from helpers.asking import water_energy

from ase_knncalc import KNNCalculator, snapshot
from ase_knncalc.data import iter_frames, write_frames
from ase_knncalc.errors import NoveltyError, SettingsError, StructureError

QUIET = {"on_novelty": "ignore"}


@pytest.fixture
def calculator(tiny_model) -> KNNCalculator:
    return KNNCalculator(tiny_model, coverage=0.9, **QUIET)


@pytest.fixture
def trimer(water_frames) -> Atoms:
    return water_frames[2].copy()


# --------------------------------------------------------------------------------- conformance


def test_properties(calculator, trimer) -> None:
    trimer.calc = calculator
    assert calculator.calculation_required(trimer, ["energy"])
    energy = trimer.get_potential_energy()
    assert isinstance(energy, float)
    assert not calculator.calculation_required(trimer, ["energy"])
    for name in ("stress", "dipole", "magmom", "charges"):
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property(name, trimer)
    with pytest.raises(PropertyNotImplementedError):
        trimer.get_stress()
    typed = calculator.calculate_properties(trimer, ["energy", "forces"])
    assert typed["energy"] == energy
    assert typed["forces"].shape == (len(trimer), 3)
    assert typed["natoms"] == len(trimer)


def test_extras_by_name(calculator, trimer, tiny_model) -> None:
    assert calculator.get_property("energy_std", trimer, allow_calculation=False) is None
    assert calculator.get_property("novelty", trimer, allow_calculation=False) is None
    for name in ("novelty", "energy_std", "baseline_energy", "delta", "energy_interval"):
        assert np.all(np.isfinite(calculator.get_property(name, trimer)))
    assert calculator.get_property("neighbors", trimer)[0].composition == "3w"
    before = calculator.get_property("novelty", trimer)
    trimer.positions *= 1.2
    assert calculator.get_property("novelty", trimer) > before
    with pytest.raises(PropertyNotImplementedError, match="coverage"):
        KNNCalculator(tiny_model, **QUIET).get_property("energy_interval", trimer)


def test_export_properties_holds_what_ase_knows(calculator, trimer) -> None:
    trimer.calc = calculator
    trimer.get_forces()
    exported = calculator.export_properties()
    assert set(exported) == {"energy", "free_energy", "forces", "natoms"}
    SinglePointCalculator(trimer, **{k: exported[k] for k in exported if k in all_properties})


def test_forces_are_the_gradient_and_results_are_copies(calculator, trimer) -> None:
    trimer.calc = calculator
    forces = trimer.get_forces()
    numerical = calculate_numerical_forces(trimer, eps=1e-4, iatoms=[0, 4])
    np.testing.assert_allclose(forces[[0, 4]], numerical, atol=1e-4)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-8)
    trimer.get_forces()[:] = 99.0
    calculator.get_property("forces", trimer)[:] = 99.0
    np.testing.assert_array_equal(trimer.get_forces(), calculator.results["forces"])
    assert np.abs(trimer.get_forces()).max() < 99.0
    trimer.set_constraint(FixAtoms([0]))
    assert not trimer.get_forces()[0].any()
    assert trimer.get_forces(apply_constraint=False)[0].any()


def test_name_and_parameters_can_be_written(calculator, trimer) -> None:
    assert calculator.name == "knncalc"
    parameters = KNNCalculator(coverage=0.9, std_threshold=0.1).todict()
    assert json.loads(json.dumps(parameters)) == {"coverage": 0.9, "std_threshold": 0.1}
    assert KNNCalculator("saw-wb97xd").todict() == {"model": "saw-wb97xd"}
    json.dumps(calculator.todict())
    with pytest.raises(TypeError):
        KNNCalculator("saw-wb97xd", "xtb")


def test_sum_and_mixture(tiny_model, trimer) -> None:
    first, second = KNNCalculator(tiny_model, **QUIET), KNNCalculator(tiny_model, **QUIET)
    alone = first.get_property("energy", trimer)
    std = first.get_property("energy_std", trimer)
    trimer.calc = SumCalculator([first, second])
    assert trimer.get_potential_energy() == pytest.approx(2 * alone)
    assert trimer.get_forces().shape == (9, 3)
    trimer.calc = MixedCalculator(first, second, 0.25, 0.75)
    assert trimer.get_potential_energy() == pytest.approx(alone)
    assert first.get_property("energy_std", trimer) == std
    # Neither errors nor novelties add up, and weights may be negative: ASE must not add them.
    trimer.calc = LinearCombinationCalculator([first, second], [1.0, -1.0])
    assert trimer.get_potential_energy() == pytest.approx(0.0, abs=1e-9)
    for name in ("energy_std", "energy_var", "novelty"):
        with pytest.raises(PropertyNotImplementedError):
            trimer.calc.get_property(name, trimer)
    assert not {"energy_std", "energy_var", "novelty"} & set(trimer.calc.results)


# ------------------------------------------------------------------------------ files, snapshots


def test_plain_writers_still_work(calculator, trimer, tmp_path) -> None:
    """Nothing of ours breaks what ASE does with a calculator by itself."""
    trimer.calc = calculator
    energy = trimer.get_potential_energy()
    write(tmp_path / "plain.extxyz", trimer)
    assert read(tmp_path / "plain.extxyz").get_potential_energy() == pytest.approx(energy)
    with Trajectory(tmp_path / "plain.traj", "w", trimer) as trajectory:
        trajectory.write()
    again = read(tmp_path / "plain.traj")
    assert again.get_potential_energy() == energy
    assert again.calc.name == "knncalc"
    with connect(tmp_path / "plain.db") as database:
        database.write(trimer)
        assert database.get(1).energy == pytest.approx(energy)
        assert database.get(1).calculator == "knncalc"


@pytest.mark.parametrize("suffix", ["extxyz", "xyz.gz", "traj", "db", "json"])
def test_snapshot_keeps_the_extras_in_every_format(calculator, trimer, tmp_path, suffix) -> None:
    trimer.calc = calculator
    energy, forces = trimer.get_potential_energy(), trimer.get_forces()
    kept = snapshot(trimer)
    path = tmp_path / f"kept.{suffix}"
    if suffix in ("db", "json"):
        with connect(path) as database:
            database.write(kept, energy_std=kept.info["energy_std"], data=kept.info)
            assert len(list(database.select("energy_std>0"))) == 1
            row = database.get(1)
        again = row.toatoms()
        again.info.update(row.data)
    else:
        write(path, kept, format="extxyz" if suffix == "xyz.gz" else None)
        again = read(path, format="extxyz" if suffix == "xyz.gz" else None)
    assert again.get_potential_energy() == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(again.get_forces(), forces, atol=1e-7)
    for key in ("energy_std", "novelty", "baseline_energy", "delta"):
        assert again.info[key] == pytest.approx(calculator.results[key])
    assert again.info["energy_low"] < energy < again.info["energy_high"]
    assert again.info["nearest"].split(", ")[0] == calculator.results["neighbors"][0].name
    assert "energy_std" not in trimer.info, "the structure itself is not touched"


def test_snapshots_of_dynamics_are_of_their_own_step(calculator, trimer, tmp_path) -> None:
    trimer.calc = calculator
    steps: list[float] = []
    with Trajectory(tmp_path / "md.traj", "w") as trajectory:
        dynamics = VelocityVerlet(trimer, 0.5 * fs)
        dynamics.attach(lambda: trajectory.write(snapshot(trimer)))
        dynamics.attach(lambda: steps.append(calculator.results["energy_std"]))
        dynamics.run(4)
    frames = read(tmp_path / "md.traj", ":")
    assert [a.info["energy_std"] for a in frames] == steps
    assert len(set(steps)) == 5


def test_snapshot_of_moved_atoms_is_computed_anew(calculator, trimer) -> None:
    trimer.calc = calculator
    before = snapshot(trimer)
    trimer.positions[0, 0] += 0.05
    after = snapshot(trimer)
    assert after.get_potential_energy() != before.get_potential_energy()
    assert after.get_potential_energy() == trimer.get_potential_energy()
    with pytest.raises(SettingsError, match="no calculator"):
        snapshot(molecule("H2O"))


@pytest.mark.parametrize("suffix", ["traj", "db", "extxyz.gz"])
def test_write_frames_keeps_forces_std(trimer, tmp_path, suffix) -> None:
    trimer.info.update(energy_std=0.1, name="w3", text="4", charge=-1)
    trimer.arrays["forces_std"] = np.arange(len(trimer)) / 7
    trimer.arrays["reference_forces"] = np.ones((len(trimer), 3)) / 3
    path = tmp_path / f"out.{suffix}"
    for _ in range(2):  # a second time over the first
        write_frames(path, [trimer, trimer])
    one, two = iter_frames(path)
    for atoms in (one, two):
        assert {k: atoms.info[k] for k in ("energy_std", "name", "charge")} == {
            "energy_std": 0.1, "name": "w3", "charge": -1,
        }  # fmt: skip
        np.testing.assert_allclose(atoms.arrays["forces_std"], trimer.arrays["forces_std"])
        np.testing.assert_allclose(
            atoms.arrays["reference_forces"], trimer.arrays["reference_forces"], atol=1e-8
        )


def test_calculations_that_fail_leave_no_results(calculator, trimer) -> None:
    calculator.calculate(trimer, ["energy"])
    overlapping = trimer.copy()
    overlapping.positions[1] = overlapping.positions[0]
    for _ in range(2):
        with pytest.raises(StructureError, match="overlap"):
            calculator.calculate(overlapping, ["energy", "forces"])
        assert calculator.results == {}
        assert calculator.get_property("energy", overlapping, allow_calculation=False) is None
        with pytest.raises(StructureError, match="overlap"):
            calculator.get_property("energy", overlapping)
        with pytest.raises(StructureError, match="overlap"):
            snapshot(_with(overlapping, calculator))
    assert np.isfinite(calculator.get_property("energy", trimer))


def _with(atoms: Atoms, calculator: Calculator) -> Atoms:
    atoms.calc = calculator
    return atoms


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.positions.__setitem__((0, 0), a.positions[0, 0] + 1e-9),
        lambda a: a.set_atomic_numbers([8, 1, 1] * 2 + [1, 8, 1]),
        lambda a: a.set_cell([30, 30, 30]),
        lambda a: a.set_pbc(True),
        lambda a: a.pop(),
    ],
    ids=["positions", "numbers", "cell", "pbc", "atoms"],
)
def test_any_change_of_the_structure_asks_for_a_calculation(calculator, trimer, change) -> None:
    trimer.calc = calculator
    trimer.get_potential_energy()
    assert calculator.check_state(trimer) == []
    change(trimer)
    assert calculator.check_state(trimer)
    assert calculator.calculation_required(trimer, ["energy"])
    assert calculator.get_property("energy_std", trimer, allow_calculation=False) is None


def test_names_masses_and_velocities_do_not(calculator, trimer) -> None:
    trimer.calc = calculator
    trimer.get_potential_energy()
    trimer.info["comment"] = "x"
    trimer.set_velocities(np.ones((len(trimer), 3)))
    trimer.set_masses(np.ones(len(trimer)))
    trimer.set_constraint(FixAtoms([0]))
    assert not calculator.calculation_required(trimer, ["energy", "energy_std"])


def test_neighbors_are_a_list_of_ones_own(calculator, trimer) -> None:
    calculator.get_property("neighbors", trimer).clear()
    assert len(calculator.get_property("neighbors", trimer)) == 5


def test_weighted_sums(tiny_model, trimer) -> None:
    first, second = KNNCalculator(tiny_model, **QUIET), LennardJones()
    parts = [c.get_property("energy", trimer) for c in (first, second)]
    forces = [c.get_property("forces", trimer) for c in (first, second)]
    trimer.calc = LinearCombinationCalculator([first, second], [2.0, -0.5])
    assert trimer.get_potential_energy() == pytest.approx(2 * parts[0] - 0.5 * parts[1])
    np.testing.assert_allclose(trimer.get_forces(), 2 * forces[0] - 0.5 * forces[1])
    assert "energy_std" not in trimer.calc.results, "the other has none"


def test_copies_share_the_model_but_not_the_baseline(tiny_model, trimer) -> None:
    calculator = KNNCalculator(
        tiny_model, baseline=LennardJones(), allow_other_baseline=True, **QUIET
    )
    energy = calculator.get_property("energy", trimer)
    twin = copy.deepcopy(calculator)
    assert twin.model.knn is calculator.model.knn
    assert twin.model.baseline is not calculator.model.baseline
    twin.model.baseline.calculator.set(epsilon=2.0)
    twin.reset()
    assert twin.get_property("energy", trimer) != energy
    calculator.reset()
    assert calculator.get_property("energy", trimer) == energy


# ---------------------------------------------------------------- stale results, charge and spin


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.info.update(charge=1, multiplicity=2),
        lambda a: a.set_initial_charges([1.0] + [0.0] * (len(a) - 1)),
        lambda a: a.set_initial_magnetic_moments([2.0] + [0.0] * (len(a) - 1)),
        lambda a: a.info.update(multiplicity=3),
        lambda a: a.calc.set(charge=1),
        lambda a: a.calc.set(multiplicity=3),
        lambda a: a.info.update(spin=7),
    ],
    ids=["info", "initial charges", "magmoms", "multiplicity", "set charge", "set spin", "spin"],
)
def test_no_stale_result_after_charge_or_spin_has_changed(calculator, trimer, change) -> None:
    trimer.info = {}
    trimer.calc = calculator
    trimer.get_potential_energy()
    change(trimer)
    assert calculator.calculation_required(trimer, ["energy"])
    assert calculator.get_property("energy", trimer, allow_calculation=False) is None


def test_ion_differs_from_the_neutral_molecule_however_it_is_said() -> None:
    """One convention: argument, info and initial charges give the same energy."""
    model = "multibase-wb97xd"
    ammonium = molecule("NH3")
    ammonium.append("H")
    ammonium.positions = 0.6 * np.array(
        [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    )
    said: list[Atoms] = []
    for how in ("argument", "info", "initial charges"):
        atoms = ammonium.copy()
        atoms.calc = KNNCalculator(model, charge=1 if how == "argument" else None, **QUIET)
        if how == "info":
            atoms.info["charge"] = 1
        elif how == "initial charges":
            atoms.set_initial_charges([1.0, 0, 0, 0, 0])
        said.append(atoms)
    energies = [a.get_potential_energy() for a in said]
    assert energies[0] == energies[1] == energies[2]
    said[1].info["charge"] = -1
    assert abs(said[1].get_potential_energy() - energies[1]) > 1.0


# ------------------------------------------------------------------------------------ thresholds


def test_thresholds_can_be_set_and_switched_off(tiny_model, trimer) -> None:
    trimer.positions *= 1.35

    def run(**options) -> float:
        calculator = KNNCalculator(tiny_model, **options)
        return calculator.get_property("energy", trimer)

    with pytest.raises(NoveltyError, match="novelty"):
        run(on_novelty="raise")
    with pytest.raises(NoveltyError, match=r"energy_std .* exceeds std_threshold 0.0001 eV"):
        run(on_novelty="raise", novelty_threshold=None, std_threshold=1e-4)
    with pytest.warns(UserWarning, match="std_threshold"):
        run(novelty_threshold=None, std_threshold=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of ASE, with numpy 2.5
        run(on_novelty="raise", novelty_threshold=None)
        run(std_threshold=1e-4, **QUIET)
    with pytest.raises(SettingsError, match="std_threshold must be above 0 or None"):
        run(std_threshold=-1.0)


@pytest.mark.filterwarnings("ignore:this model was trained on energies alone")
def test_threshold_ends_dynamics_with_the_last_good_step(tiny_model, trimer) -> None:
    start = tiny_model.predict(trimer).novelty
    trimer.calc = KNNCalculator(tiny_model, on_novelty="raise", novelty_threshold=2 * start)
    trimer.set_velocities(0.1 * (trimer.positions - trimer.get_center_of_mass()))
    dynamics = VelocityVerlet(trimer, 1.0 * fs)
    with pytest.raises(NoveltyError, match="exceeds"):
        dynamics.run(200)
    assert 0 < dynamics.nsteps < 200


# ------------------------------------------------------------------ processes, threads and OpenMP


@pytest.fixture(scope="module")
def shipped() -> tuple[KNNCalculator, float]:
    calculator = KNNCalculator("saw-wb97xd", **QUIET)
    return calculator, water_energy(calculator)


def test_deepcopy_and_pickle_with_a_baseline(shipped) -> None:
    calculator, energy = shipped
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert water_energy(twin) == energy
        twin.set(coverage=0.5)
        assert calculator.parameters["coverage"] is None
        assert twin.implemented_properties is not calculator.implemented_properties
    atoms = molecule("H2O")
    atoms.calc = calculator
    twin = copy.deepcopy(atoms)
    assert twin.calc is not calculator
    assert twin.get_potential_energy() == energy


@pytest.mark.skipif(os.name != "posix", reason="fork is of POSIX systems")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(shipped, method) -> None:
    """Forked after OpenMP has run in the parent: a child that waits for its threads would hang."""
    calculator, energy = shipped
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = pool.map(water_energy, [calculator] * 4, timeout=100)
        assert list(found) == [energy] * 4


def test_threads_with_a_calculator_each(shipped) -> None:
    calculator, energy = shipped
    calculators = [KNNCalculator(calculator.model, **QUIET) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(water_energy, calculators)) == [energy] * 8


def test_libraries_with_an_openmp_of_their_own_in_any_order() -> None:
    """Same bits whether scikit-learn's (or torch's) OpenMP was loaded before or after, and used."""
    script = (
        "import sys\n"
        "def other():\n"
        "    import numpy as np\n"
        "    try:\n"
        "        import torch; torch.mm(torch.ones(300, 300), torch.ones(300, 300))\n"
        "    except ImportError: pass\n"
        "    from sklearn.cluster import KMeans\n"
        "    KMeans(3, n_init=1).fit(np.random.default_rng(0).normal(size=(500, 4)))\n"
        "if sys.argv[1] == 'first': other()\n"
        "from ase.build import molecule\n"
        "from ase_knncalc import KNNCalculator\n"
        "a = molecule('H2O'); a.calc = KNNCalculator('saw-wb97xd')\n"
        "e = a.get_potential_energy()\n"
        "other(); a.rattle(0); a.calc.reset(); assert a.get_potential_energy() == e\n"
        "print(e.hex())\n"
    )
    found = set()
    for order in ("first", "last"):
        done = subprocess.run(
            [sys.executable, "-c", script, order],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert len(found) == 1


# --------------------------------------------------------------------------------- local models


def test_local_model_path(tiny_model, tmp_path, trimer, monkeypatch) -> None:
    from ase_knncalc import save_model

    save_model(tiny_model, tmp_path / "mine.h5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    energies = {
        KNNCalculator(path, **QUIET).get_property("energy", trimer)
        for path in ("mine.h5", "./mine.h5", tmp_path / "mine.h5", "~/mine.h5")
    }
    assert len(energies) == 1
