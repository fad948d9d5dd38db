"""Spin states: a model answers for those it was trained on, and for no others."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers.factories import tiny, water_clusters
from helpers.forging import edited

from ase_knncalc import (
    KNNCalculator,
    find_in_training,
    load_model,
    predict_frames,
    save_model,
    train,
)
from ase_knncalc.active.learning import covered
from ase_knncalc.errors import ChargeError, ModelFileError
from ase_knncalc.training import append

RADICAL = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"multiplicity": 2})

SAID = {
    "argument": lambda a: {"multiplicity": 3},
    "info": lambda a: a.info.update(multiplicity=3),
    "moments": lambda a: a.set_initial_magnetic_moments([2.0] + [0.0] * (len(a) - 1)),
}


@pytest.fixture(scope="module")
def baselines(water_frames):
    """A model of each kind of baseline that runs nothing, trained on singlets."""
    frames = [a.copy() for a in water_frames[:30]]
    for i, atoms in enumerate(frames):
        atoms.info["baseline_energy"] = -float(len(atoms)) + 0.01 * i
    given = train(frames, baseline="given", trend="linear", k=3, n_jobs=1)
    return {"none": tiny(water_frames[:30]), "given": given}


@pytest.fixture(scope="module")
def mixed_frames():
    """Water clusters of which every third one is a triplet."""
    frames = water_clusters(36)
    for atoms in frames[::3]:
        atoms.info["multiplicity"] = 3
    return frames


@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize("name", ["saw-wb97xd", "multibase-wb97xd", "none", "given"])
def test_another_multiplicity_is_an_error_however_it_is_said(baselines, name, how) -> None:
    # Its energy would be that of the singlet's correction, with the singlet's small error.
    model = baselines[name] if name in baselines else load_model(name)
    water = molecule("H2O")
    water.info.update(baseline_energy=-3.0)
    asked = SAID[how](water) or {}
    energy = {"baseline_energy": -3.0} if name == "given" else {}
    match = "multiplicity 3 at charge 0 is not covered.* 1$"
    with pytest.raises(ChargeError, match=match):
        model.predict(water, **energy, **asked)
    with pytest.raises(ChargeError, match=match):
        model.explain(water, **asked)
    if name != "given":
        with pytest.raises(ChargeError, match=match):
            KNNCalculator(model, on_novelty="ignore", **asked).get_property("energy", water)
    if not asked:
        with pytest.raises(ChargeError, match=match):
            predict_frames(model, [water], n_jobs=1)
        assert not covered(model, water)
        assert "multiplicity 3" in find_in_training(model, water).reason
        water.info["reference_energy"] = -2079.0
        with pytest.raises(ChargeError, match=f"{match[:-1]}.*train again"):
            append(model, [water])


def test_models_of_old_cover_the_lowest_multiplicity() -> None:
    """Their files do not tell what they saw."""
    model = load_model("multibase-wb97xd", baseline=None)
    assert model.info.states == [[-2, 1], [-1, 1], [0, 1], [1, 1]]
    model = replace(model, info=replace(model.info, states=[]))
    assert model.check(molecule("H2O"), multiplicity=1) == 0
    assert model.check(RADICAL) == 0
    with pytest.raises(ChargeError, match=r"multiplicity 4 .* lowest multiplicity alone, here 2$"):
        model.check(Atoms(RADICAL, info={}), multiplicity=4)


@pytest.mark.parametrize("baseline", ["none", "given"])
def test_training_keeps_the_states_that_it_saw(mixed_frames, tmp_path, baseline) -> None:
    frames = [a.copy() for a in mixed_frames]
    for atoms in frames:
        atoms.info["baseline_energy"] = 0.0
    model = train(frames, baseline=baseline, trend="linear", k=3, n_jobs=1, check_labels=False)
    assert model.info.states == [[0, 1], [0, 3]]
    save_model(model, tmp_path / "m.h5")
    loaded = load_model(tmp_path / "m.h5")
    assert loaded.info == model.info
    water = molecule("H2O")
    for multiplicity in (1, 3):
        energy = loaded.predict(water, multiplicity=multiplicity, baseline_energy=0.0).energy
        assert np.isfinite(energy)
    with pytest.raises(ChargeError, match=r"multiplicity 5 .* with multiplicity 1, 3$"):
        loaded.predict(water, multiplicity=5, baseline_energy=0.0)
    # A radical is not what singlets and triplets teach.
    with pytest.raises(ChargeError, match=r"multiplicity 2 .* with multiplicity 1, 3$"):
        loaded.check(RADICAL)
    more = water_clusters(3, seed=4)
    for atoms in more:
        atoms.info.update(multiplicity=3, baseline_energy=0.0)
    grown = append(loaded, more, check_labels=False)
    assert len(grown.added) == 3
    assert grown.model.info.states == [[0, 1], [0, 3]]


def with_states(content: bytes, *states) -> bytes:
    """The model file with other states, or without any."""

    def change(file: h5py.File) -> None:
        document = json.loads(file["metadata"][()].tobytes())
        del document["info"]["states"]
        if states:
            document["info"]["states"] = states[0]
        del file["metadata"]
        file["metadata"] = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)

    return edited(content, change)


def test_a_file_that_does_not_say_covers_the_lowest_multiplicity(mixed_frames, tmp_path) -> None:
    save_model(tiny(mixed_frames, check_labels=False), tmp_path / "m.h5")
    (tmp_path / "old.h5").write_bytes(with_states((tmp_path / "m.h5").read_bytes()))
    old = load_model(tmp_path / "old.h5")
    assert np.isfinite(old.predict(molecule("H2O")).energy)
    with pytest.raises(ChargeError, match="lowest multiplicity alone, here 1"):
        old.predict(molecule("H2O"), multiplicity=3)


@pytest.mark.parametrize(
    "states",
    [None, "x", {}, 1, [1], [[0]], [[0, 1, 2]], [[0, 0]], [[0, 1.5]], [["0", 1]], [[True, 1]],
     [[1, 2]], [[0, 1], [-1, 2]], [[0, 2**40]], [[0, float("nan")]]],
    ids=repr,
)  # fmt: skip
def test_states_that_make_no_sense_are_refused(tiny_model, tmp_path, states) -> None:
    save_model(tiny_model, tmp_path / "m.h5")
    forged = with_states((tmp_path / "m.h5").read_bytes(), states)
    (tmp_path / "forged.h5").write_bytes(forged)
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "forged.h5")
