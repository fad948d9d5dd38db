"""The calculator as ASE sees it."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, InputError, compare_atoms
from ase.calculators.lj import LennardJones
from helpers.factories import tiny, water_clusters

from ase_knncalc import KNNCalculator, load_model, save_model
from ase_knncalc.baselines import make_baseline
from ase_knncalc.errors import (
    BaselineError,
    ChargeError,
    NoveltyError,
    SettingsError,
    StructureError,
    UnknownElementError,
)
from ase_knncalc.training import append_to_file


@pytest.fixture
def calculator(tiny_model) -> KNNCalculator:
    return KNNCalculator(tiny_model, on_novelty="ignore")


@pytest.fixture
def trimer(water_frames):
    return water_frames[2].copy()


def test_energy_and_extras(calculator, trimer) -> None:
    trimer.calc = calculator
    energy = trimer.get_potential_energy()
    results = calculator.results
    assert energy == results["energy"]
    consistent = trimer.get_potential_energy(force_consistent=True)
    assert consistent == results["free_energy"] == pytest.approx(energy, rel=0, abs=1e-11)
    assert energy == pytest.approx(results["baseline_energy"] + results["delta"])
    assert results["energy_std"] > 0
    assert results["novelty"] >= 0
    assert len(results["neighbors"]) == 5
    assert results["neighbors"][0].distance <= results["neighbors"][1].distance
    assert calculator.get_property("energy_std", trimer) == results["energy_std"]
    assert energy == pytest.approx(trimer.info["reference_energy"], abs=0.5)


def test_interval_has_the_asked_coverage_and_order(tiny_model, trimer) -> None:
    widths = []
    for coverage in (0.5, 0.9, 0.99):
        trimer.calc = KNNCalculator(tiny_model, coverage=coverage, on_novelty="ignore")
        energy = trimer.get_potential_energy()
        low, high = trimer.calc.results["energy_interval"]
        assert low < energy < high
        widths.append(high - low)
    assert widths == sorted(widths)
    with pytest.raises(SettingsError, match=r"coverage must be at most 0\.99"):
        KNNCalculator(tiny_model, coverage=1.5)


def test_results_are_kept_until_something_changes(calculator, trimer, monkeypatch) -> None:
    calls = []
    predict = type(calculator.model).predict_one
    monkeypatch.setattr(
        type(calculator.model),
        "predict_one",
        lambda self, *a, **k: (calls.append(1), predict(self, *a, **k))[1],
    )
    trimer.calc = calculator
    first = trimer.get_potential_energy()
    trimer.get_potential_energy()
    assert len(calls) == 1
    trimer.positions[0, 0] += 0.01
    assert trimer.get_potential_energy() != first
    assert len(calls) == 2


def test_changed_charge_in_info_is_not_answered_with_the_old_energy(calculator, trimer) -> None:
    trimer.calc = calculator
    trimer.get_potential_energy()
    trimer.info["charge"] = 1
    trimer.info["multiplicity"] = 2
    assert not compare_atoms(calculator.atoms, trimer), "ASE alone would not notice"
    assert calculator.check_state(trimer) == ["info.charge", "info.multiplicity"]
    with pytest.raises(ChargeError, match=r"charge \+1 is not covered"):
        trimer.get_potential_energy()
    trimer.info["charge"] = 0
    trimer.info["multiplicity"] = 1
    trimer.info["comment"] = "not read, so no reason to compute again"
    trimer.get_potential_energy()
    assert calculator.check_state(trimer) == []


def test_set_drops_results_and_checks(calculator, trimer) -> None:
    trimer.calc = calculator
    trimer.get_potential_energy()
    assert calculator.set(novelty_threshold=2.0) == {"novelty_threshold": 2.0}
    assert calculator.results == {}
    with pytest.raises(SettingsError, match="unknown parameter 'colour'"):
        calculator.set(colour="red")
    with pytest.raises(SettingsError, match="on_novelty must be"):
        calculator.set(on_novelty="shrug")
    with pytest.raises(SettingsError, match="novelty_threshold must be above 0 or None"):
        calculator.set(novelty_threshold=0.0)


def test_set_to_a_model_without_forces_after_forces_were_asked_for(
    calculator, trimer, water_model
) -> None:
    trimer.calc = calculator
    trimer.get_forces()
    calculator.set(model=water_model(trend="none"))
    assert np.isfinite(trimer.get_potential_energy())
    assert "forces" not in calculator.results


def test_novelty_warns_once_raises_or_is_ignored(tiny_model, trimer) -> None:
    strange = trimer.copy()
    strange.positions *= 1.35
    quiet = KNNCalculator(tiny_model, on_novelty="ignore")
    strange.calc = quiet
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strange.get_potential_energy()
    assert quiet.results["novelty"] > 1
    strange.calc = KNNCalculator(tiny_model)
    with pytest.warns(UserWarning, match="far from the training data"):
        strange.get_potential_energy()
    strange.positions[0, 0] += 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strange.get_potential_energy()
    strange.calc = KNNCalculator(tiny_model, on_novelty="raise")
    with pytest.raises(NoveltyError, match="novelty"):
        strange.get_potential_energy()
    assert strange.calc.results == {}


def test_uncertainty_grows_away_from_the_data(calculator, trimer) -> None:
    trimer.calc = calculator
    trimer.get_potential_energy()
    near = dict(calculator.results)
    trimer.positions *= 1.3
    trimer.get_potential_energy()
    assert calculator.results["energy_std"] > 2 * near["energy_std"]
    assert calculator.results["novelty"] > near["novelty"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.positions.__setitem__((0, 0), np.nan), StructureError, "(?i)nan|finite"),
        (lambda a: a.positions.__setitem__(1, a.positions[0]), StructureError, "overlap|close"),
        (lambda a: a.set_pbc(True), StructureError, "periodic"),
        (lambda a: a.numbers.__setitem__(0, 9), UnknownElementError, "F not covered"),
        (lambda a: a.info.__setitem__("charge", 2), ChargeError, r"charge \+2 is not covered"),
        (lambda a: a.info.__setitem__("multiplicity", 2), ChargeError, "multiplicity"),
        (lambda a: a.__delitem__(slice(None)), StructureError, "no atoms"),
    ],
)
def test_what_the_model_does_not_cover_is_an_error(
    calculator, trimer, change, error, message
) -> None:
    change(trimer)
    trimer.calc = calculator
    with pytest.raises(error, match=message) as caught:
        trimer.get_potential_energy()
    assert isinstance(caught.value, InputError), "ASE's own workflows catch InputError"


def test_other_baseline_is_an_error_unless_allowed(tiny_model, trimer) -> None:
    with pytest.raises(BaselineError, match="corrects none, not GFN1-xTB"):
        KNNCalculator(tiny_model, baseline="tblite")
    calculator = KNNCalculator(
        tiny_model, baseline="tblite", allow_other_baseline=True, on_novelty="ignore"
    )
    trimer.calc = calculator
    trimer.get_potential_energy()
    assert calculator.results["baseline_energy"] < -100
    assert issubclass(BaselineError, CalculationFailed)


def test_copies_pickles_and_dict(calculator, trimer, tmp_path, tiny_model) -> None:
    trimer.calc = calculator
    energy = trimer.get_potential_energy()
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        other = trimer.copy()
        other.calc = twin
        assert other.get_potential_energy() == energy
    save_model(tiny_model, tmp_path / "m.h5")
    from_file = KNNCalculator(tmp_path / "m.h5", on_novelty="ignore", charge=0)
    again = KNNCalculator(**from_file.todict())
    assert again.todict() == from_file.todict()
    other = trimer.copy()
    other.calc = again
    assert other.get_potential_energy() == energy


def test_instances_do_not_share_state(tiny_model) -> None:
    first = KNNCalculator(tiny_model)
    first.implemented_properties.append("dipole")
    assert "dipole" not in KNNCalculator(tiny_model).implemented_properties
    assert "dipole" not in KNNCalculator.implemented_properties


def test_energies_are_the_same_alone_and_in_company(tiny_model) -> None:
    frames = water_clusters(12, seed=5)
    together = tiny_model.predict(frames)
    assert len(together) == 12
    for atoms, one in zip(frames, together, strict=True):
        alone = tiny_model.predict(atoms)
        assert alone.energy == one.energy
        assert alone.energy_std == one.energy_std
        assert alone.neighbors == one.neighbors
    with pytest.raises(TypeError, match="Prediction"):
        len(tiny_model.predict(frames[0]))


def test_invariances(tiny_model, trimer) -> None:
    energy = tiny_model.predict(trimer).energy
    moved = trimer.copy()
    moved.rotate(77, (1, 2, 3))
    moved.translate([3, -5, 9])
    assert tiny_model.predict(moved).energy == pytest.approx(energy, abs=1e-6)
    order = np.random.default_rng(0).permutation(len(trimer))
    assert tiny_model.predict(trimer[order]).energy == pytest.approx(energy, abs=1e-6)


def test_far_apart_clusters_add_up(tiny_model, water_frames) -> None:
    """The trend is exactly extensive; the k-NN term fades, to within what it adds itself."""
    first, second = water_frames[1].copy(), water_frames[2].copy()
    second.translate([50, 0, 0])
    both = tiny_model.predict(first + second)
    parts = [tiny_model.predict(a) for a in (first, second)]
    assert both.trend == pytest.approx(sum(p.trend for p in parts), abs=1e-8)
    slack = abs(both.knn) + sum(abs(p.knn) for p in parts)
    assert abs(both.energy - sum(p.energy for p in parts)) <= slack + 1e-8


def test_monte_carlo_loop(calculator) -> None:
    """Metropolis steps as a user writes them, without ase.optimize."""
    rng = np.random.default_rng(0)
    atoms = molecule("H2O")
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    accepted = 0
    for _ in range(30):
        trial = atoms.copy()
        trial.calc = calculator
        trial.rattle(0.02, rng=rng)
        new = trial.get_potential_energy()
        if new < energy or rng.random() < np.exp((energy - new) / 0.05):
            atoms, energy, accepted = trial, new, accepted + 1
    assert 0 < accepted <= 30
    assert atoms.get_potential_energy() == energy


def test_a_baseline_energy_that_is_given_stays_with_forces(cluster_frames) -> None:
    atoms = next(a for a in cluster_frames if a.info["composition"] == "2w")
    model = load_model("saw-wb97xd-md")
    found = model.predict(atoms, baseline_energy=-1.0, forces=True)
    assert found.baseline_energy == -1.0
    assert found.forces.shape == (len(atoms), 3)


def test_threads_that_share_a_calculator_get_their_own_energies(tiny_model) -> None:
    frames = water_clusters(8, seed=6)
    expected = [tiny_model.predict(a) for a in frames]
    calculator = KNNCalculator(tiny_model, on_novelty="ignore")

    def work(i: int) -> list[bool]:
        same = []
        for _ in range(60):
            energy = calculator.get_property("energy", frames[i])
            same.append(energy == expected[i].energy)
            delta = calculator.get_property("delta", frames[i])
            same.append(delta == expected[i].delta)
            found = calculator.calculate_properties(frames[i], ["energy", "forces"])
            same.append(found["energy"] == expected[i].energy)
            same.append(found["forces"].shape == (len(frames[i]), 3))
        return same

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(all(same) for same in pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)


def test_copies_do_not_wait_for_the_original(tiny_model, trimer) -> None:
    calculator = KNNCalculator(tiny_model, on_novelty="ignore")
    twins = [
        copy.copy(calculator),
        copy.deepcopy(calculator),
        pickle.loads(pickle.dumps(calculator)),
    ]
    with calculator._lock, ThreadPoolExecutor(1) as pool:
        for twin in twins:
            energy = pool.submit(twin.get_property, "energy", trimer).result(timeout=60)
            assert energy == tiny_model.predict(trimer).energy


# ------------------------------------------------------------------------------- set(model=…)


@pytest.mark.parametrize("name", ["same object", "equal text", "path"])
def test_a_model_that_is_given_again_is_read_again(tiny_model, trimer, tmp_path, name) -> None:
    file = str(tmp_path / "m.h5")
    save_model(tiny_model, file)
    calculator = KNNCalculator(file, on_novelty="ignore")
    calculator.get_property("energy", trimer)
    append_to_file(file, water_clusters(5, seed=9))
    given = {"same object": file, "equal text": str(tmp_path / "m.h5"), "path": tmp_path / "m.h5"}
    calculator.set(novelty_threshold=2.0)
    assert len(calculator.model) == len(tiny_model), "it was not asked to"
    assert "model" in calculator.set(model=given[name])
    assert calculator.results == {}
    assert len(calculator.model) == len(tiny_model) + 5
    assert calculator.parameters["model"] is given[name]
    assert calculator.todict()["model"] == file


def test_another_baseline_keeps_the_model_that_is_there(
    tiny_model, water_frames, trimer, tmp_path, monkeypatch
) -> None:
    (tmp_path / "other").mkdir()
    save_model(tiny_model, tmp_path / "m.h5")
    save_model(tiny(water_frames[:20]), tmp_path / "other" / "m.h5")
    monkeypatch.chdir(tmp_path)
    calculator = KNNCalculator("m.h5", on_novelty="ignore")
    energy = calculator.get_property("energy", trimer)
    monkeypatch.chdir(tmp_path / "other")
    calculator.set(baseline=LennardJones(), allow_other_baseline=True)
    assert len(calculator.model) == len(tiny_model)
    other = calculator.get_property("energy", trimer)
    assert other != energy
    assert calculator.get_property("delta", trimer) == tiny_model.predict(trimer).delta
    with pytest.raises(BaselineError, match="corrects none"):
        calculator.set(allow_other_baseline=False)
    assert calculator.get_property("energy", trimer) == other, "what failed changed nothing"
    (tmp_path / "m.h5").unlink()
    calculator.set(baseline="auto", allow_other_baseline=False)
    assert calculator.get_property("energy", trimer) == energy
    assert calculator.parameters["model"] == "m.h5"
    # A name that is given leads where it leads now.
    calculator.set(model="m.h5")
    assert len(calculator.model) == 20


def test_a_value_that_stays_is_no_change(calculator, trimer) -> None:
    calculator.set(novelty_threshold=2.5, on_novelty="ignore")
    calculator.get_property("energy", trimer)
    same = {"novelty_threshold": float("2.5"), "on_novelty": "".join(["ign", "ore"])}
    assert calculator.set(**same) == {}
    assert calculator.results
    assert calculator.set(baseline="auto", std_threshold=None) == {}


def test_a_baseline_given_with_the_model_comes_back(tiny_model, trimer) -> None:
    own = tiny_model.with_baseline(make_baseline(LennardJones()), allow_other=True)
    calculator = KNNCalculator(own, on_novelty="ignore")
    energy = calculator.get_property("energy", trimer)
    calculator.set(baseline="none")
    assert calculator.get_property("energy", trimer) != energy
    calculator.set(baseline="auto")
    assert calculator.get_property("energy", trimer) == energy
