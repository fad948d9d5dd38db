"""Is my compound in the training set?"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write
from helpers.commands import knncalc
from scipy.spatial.transform import Rotation

from ase_knncalc import find_in_training, load_model, save_model
from ase_knncalc.errors import ChargeError, StructureError


def test_every_training_structure_is_found(tiny_model, water_frames) -> None:
    for atoms in water_frames:
        found = find_in_training(tiny_model, atoms)
        assert found.structure == atoms.info["name"]
        assert found.answer == f"yes: it is {atoms.info['name']}"


def test_in_any_orientation_and_order_and_rounded(tiny_model, water_frames) -> None:
    rng = np.random.default_rng(1)
    for atoms in water_frames[1:9]:
        other = atoms.copy()
        other.info = {}
        other.positions = Rotation.random(random_state=rng).apply(other.positions).round(4) + 3.0
        other.positions[:, 1] *= -1
        other = other[rng.permutation(len(other))]
        assert find_in_training(tiny_model, other).structure == atoms.info["name"]


@pytest.mark.parametrize("shift", [0.02, 0.1])
def test_another_structure_of_a_known_composition(tiny_model, water_frames, shift) -> None:
    rng = np.random.default_rng(2)
    estimates = []
    for atoms in water_frames[3:23]:
        other = atoms.copy()
        other.positions += rng.normal(scale=shift / np.sqrt(3), size=other.positions.shape)
        found = find_in_training(tiny_model, other)
        assert found.structure is None
        assert found.same_composition == 15
        assert "not itself, but 15 of its composition; the nearest is" in found.answer
        # No shift leads to another composition.
        assert (found.displacement is None) == (
            found.nearest.composition != atoms.info["composition"]
        )
        if found.displacement is not None:
            estimates.append(found.displacement)
    assert len(estimates) > 15
    # Half of them or so are nearest to the structure that they were made from.
    assert 0.2 * shift < np.median(estimates) < 2 * shift


def test_new_composition_and_what_is_not_covered(tiny_model, water_frames) -> None:
    five = water_frames[3] + water_frames[0]
    five.positions[-3:] += 8.0
    five.info = {}
    found = find_in_training(tiny_model, five)
    assert (found.composition, found.same_composition) == ("H10O5", 0)
    assert found.answer.startswith("no, nor any of its composition; the nearest is 4w")
    assert found.displacement is None, "no shift leads to another composition"
    for atoms, charge, why in ((molecule("NH3"), 0, "N not covered"), (molecule("H2O"), 2, r"\+2")):
        found = find_in_training(tiny_model, atoms, charge=charge)
        assert not found.covered
        assert found.answer.startswith("no: ")
        assert why.strip("\\") in found.answer
        assert found.nearest is None
        json.dumps(found.to_dict())


def test_what_is_no_structure_is_an_error(tiny_model, water_frames) -> None:
    atoms = water_frames[1].copy()
    atoms.info["charge"] = 1
    with pytest.raises(ChargeError, match="contradict"):
        find_in_training(tiny_model, atoms, charge=0)
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(StructureError, match="overlap"):
        find_in_training(tiny_model, atoms)


def test_files_that_keep_no_counts_answer_by_label(tiny_model, water_frames) -> None:
    model = dataclasses.replace(tiny_model, held_out=None)
    atoms = water_frames[2].copy()
    atoms.positions[0, 0] += 0.1
    assert find_in_training(model, atoms).same_composition == 15
    atoms.info = {}
    found = find_in_training(model, atoms)
    assert found.same_composition is None
    assert found.answer.startswith("not itself; the nearest is")


def test_shipped_model_with_single_atoms_and_water() -> None:
    model = load_model("saw-wb97xd", baseline=None)
    water = molecule("H2O")
    water.info["composition"] = "1w"
    found = find_in_training(model, water)
    assert found.nearest is not None
    assert found.nearest.composition == "1w"
    assert found.structure is None
    assert found.displacement is not None
    assert 0.002 < found.displacement < 0.05
    assert find_in_training(model, molecule("NH3")).answer.startswith("no: ")


def test_command(tiny_model, water_frames, tmp_path) -> None:
    save_model(tiny_model, tmp_path / "m.h5")
    frames = [water_frames[5].copy(), molecule("NH3")]
    frames[1].info["name"] = "ammonia"
    write(tmp_path / "two.extxyz", [frames[0], frames[1]])
    arguments = ("known", "two.extxyz", "-m", "m.h5")
    rows = json.loads(knncalc(*arguments, "--json", cwd=tmp_path).stdout)
    assert [r["covered"] for r in rows] == [True, False]
    assert rows[0]["structure"] == water_frames[5].info["name"]
    assert rows[0]["nearest"]["distance"] == pytest.approx(0.0, abs=1e-4)
    assert "yes: it is" in knncalc(*arguments, cwd=tmp_path).stdout
    knncalc("known", "two.extxyz", "-m", "nothing", cwd=tmp_path, code=1)
