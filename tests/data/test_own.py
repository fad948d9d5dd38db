"""Energies that this package predicted are no labels; charges and models travel with snapshots."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from ase.io.jsonio import decode, encode
from helpers.factories import water_clusters

from ase_knncalc import KNNCalculator, save_model, snapshot
from ase_knncalc.data import KeyMap, iter_frames, read_dataset, write_frames
from ase_knncalc.errors import ChargeError, DataError, PredictedLabelError, StructureError
from ase_knncalc.prediction import Prediction
from ase_knncalc.structure import resolve_charge
from ase_knncalc.training import append

ENERGY = KeyMap(reference_energy="energy")
INSIST = KeyMap(reference_energy="energy", own_predictions=True)


@pytest.fixture(scope="module")
def predicted(tiny_model):
    """Structures with the calculator that has just computed them."""
    frames = water_clusters(4, seed=7)
    for atoms in frames:
        atoms.info = {}
        atoms.calc = KNNCalculator(tiny_model, on_novelty="ignore")
        atoms.get_potential_energy()
    return frames


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "json"])
def test_own_predictions_are_refused_in_every_format(predicted, tmp_path, suffix) -> None:
    path = tmp_path / f"own.{suffix}"
    write(path, [snapshot(a) for a in predicted])
    with pytest.raises(DataError, match=r"(?s)own-prediction: 4.*no label"):
        read_dataset(path, keys=ENERGY)
    assert len(read_dataset(path, keys=INSIST)) == 4
    write(tmp_path / f"live.{suffix}", predicted)
    with pytest.raises(DataError, match="own-prediction: 4"):
        read_dataset(tmp_path / f"live.{suffix}", keys=ENERGY)


def test_extended_xyz_of_a_live_calculator_is_known_by_its_last_digits(predicted, tmp_path) -> None:
    """ASE writes energy and free energy of the calculator there, and nothing of whose they are."""
    for atoms in predicted:
        atoms.get_forces()
    write(tmp_path / "live.extxyz", predicted)
    assert not {"energy_predicted", "predicted_by"} & read(tmp_path / "live.extxyz").info.keys()
    for key in ("energy", "free_energy"):
        with pytest.raises(DataError, match="own-prediction: 4"):
            read_dataset(tmp_path / "live.extxyz", keys=KeyMap(reference_energy=key))
    assert len(read_dataset(tmp_path / "live.extxyz", keys=INSIST)) == 4
    # Others have the same number twice, or two that differ by what a free energy is.
    for gap in (0.0, -0.01, 1e-9):
        frames = read(tmp_path / "live.extxyz", ":")
        for atoms in frames:
            atoms.calc.results["free_energy"] = atoms.calc.results["energy"] + gap
        write(tmp_path / "labelled.extxyz", frames)
        assert len(read_dataset(tmp_path / "labelled.extxyz", keys=ENERGY)) == 4


def test_what_other_programs_computed_is_no_prediction(predicted, tmp_path) -> None:
    frames = [snapshot(a) for a in predicted]
    for i, atoms in enumerate(frames):
        energy = atoms.get_potential_energy() + 0.01 * (i + 1)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    write(tmp_path / "labelled.extxyz", frames)
    assert len(read_dataset(tmp_path / "labelled.extxyz", keys=ENERGY)) == 4
    # A training structure is predicted as its own label; that does not make it less of a label.
    atoms = predicted[0].copy()
    atoms.info.update(reference_energy=-5.0, energy_predicted=-5.0)
    assert len(read_dataset(atoms)) == 1
    with pytest.raises(DataError, match="predicted"):
        read_dataset(atoms, keys=KeyMap(reference_energy="energy_predicted"))


def test_a_model_knows_its_predictions_without_any_mark(tiny_model, predicted) -> None:
    frames = []
    for atoms in predicted:
        same = atoms.copy()
        same.calc = SinglePointCalculator(same, energy=atoms.get_potential_energy())
        frames.append(same)
    with pytest.raises(PredictedLabelError, match=r"4 of 4 structures .* what the model itself"):
        append(tiny_model, frames, keys=ENERGY)
    assert len(append(tiny_model, frames, keys=INSIST).model) == len(tiny_model) + 4
    for i, atoms in enumerate(frames):
        atoms.calc.results["energy"] += 0.01 * (-1) ** i
    assert len(append(tiny_model, frames, keys=ENERGY).model) == len(tiny_model) + 4


class Charged:
    """Stands for a model that covers ions."""

    def __init__(self, model) -> None:
        self.model = model

    def __call__(self, atoms, charge=None, multiplicity=None, **_):
        found = self.model.correct(atoms.numbers, atoms.positions, 0)
        return Prediction(**{**vars(found), "baseline_energy": 0.0})


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "json"])
@pytest.mark.parametrize("state", [(-2, 1), (-1, 2), (0, 3)])
def test_the_state_given_to_a_calculator_survives(
    tiny_model, tmp_path, monkeypatch, suffix, state
) -> None:
    save_model(tiny_model, tmp_path / "my.h5")
    calculator = KNNCalculator(
        tmp_path / "my.h5", charge=state[0], multiplicity=state[1], on_novelty="ignore"
    )
    monkeypatch.setattr(type(calculator.model), "predict_one", Charged(tiny_model), raising=True)
    atoms = molecule("H2O")
    atoms.calc = calculator
    path = tmp_path / f"kept.{suffix}"
    write(path, snapshot(atoms))
    again = read(path)
    again.calc = None
    assert resolve_charge(again) == state
    assert read(path).get_potential_energy() == atoms.get_potential_energy()
    (ours,) = iter_frames(path)
    assert resolve_charge(ours) == state
    said = {**(getattr(ours.calc, "parameters", None) or {}), **ours.info}
    assert str(tmp_path / "my.h5") in (said.get("predicted_by"), said.get("model"))
    assert len(said["model_checksum"]) == 64
    assert said["model_checksum"].encode() in (tmp_path / "my.h5").read_bytes()[:200]
    assert "charge" not in atoms.info, "the structure itself is not touched"


def test_a_charge_beside_info_is_written_and_read(tmp_path) -> None:
    atoms = molecule("H2O")
    atoms.charge, atoms.spin_multiplicity = -1, 2
    atoms.info["reference_energy"] = -2079.0
    for name in ("a.extxyz", "a.traj", "a.db"):
        write_frames(tmp_path / name, [atoms])
        dataset = read_dataset(tmp_path / name)
        assert (dataset.charges.tolist(), dataset.frames[0].info["multiplicity"]) == ([-1], 2)
    assert read_dataset(atoms).charges.tolist() == [-1]
    # The parameters that a database keeps of a calculation say the charge, too.
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.calc.parameters = {"charge": -1, "multiplicity": 2}
    with connect(tmp_path / "b.db") as database:
        database.write(atoms)
    (found,) = read_dataset(tmp_path / "b.db", keys=ENERGY).frames
    assert (found.info["charge"], found.info["multiplicity"]) == (-1, 2)
    atoms.info["charge"] = 0
    with pytest.raises(DataError, match=r"contradict .*atoms\.charge = -1"):
        read_dataset(atoms, keys=ENERGY)


def test_attributes_change_what_is_computed(tiny_model) -> None:
    atoms = molecule("H2O")
    calculator = KNNCalculator(tiny_model, on_novelty="ignore")
    energy = calculator.get_property("energy", atoms)
    assert calculator.check_state(atoms) == []
    atoms.charge = 0
    assert calculator.check_state(atoms) == ["atoms.charge"]
    assert np.isclose(calculator.get_property("energy", atoms), energy)
    assert calculator.check_state(atoms) == []
    atoms.charge = -2
    with pytest.raises(ChargeError, match="charge -2 is not covered"):
        calculator.get_property("energy", atoms)


def test_copies_share_no_parameters_and_results_are_json(tiny_model) -> None:
    atoms = molecule("H2O")
    calculator = KNNCalculator(tiny_model, on_novelty="ignore")
    with pytest.raises(StructureError, match="the calculator has no structure"):
        calculator.get_potential_energy()
    calculator.get_property("energy", atoms)
    other = copy.copy(calculator)
    other.set(charge=-2)
    assert calculator.parameters["charge"] is None
    assert calculator.check_state(atoms) == []
    assert calculator.model is other.model
    plain = json.loads(json.dumps(calculator.results))
    assert plain["energy"] == calculator.results["energy"]
    assert plain["neighbors"][0][0] == calculator.results["neighbors"][0].name
    calculator.get_property("forces", atoms)
    again = decode(encode(calculator.results))
    np.testing.assert_array_equal(again["forces"], calculator.results["forces"])
