"""Models whose baseline energies come with the data: where each call takes them from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import units
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from ase_knncalc import (
    KeyMap,
    KNNCalculator,
    binding_energy,
    predict_frames,
    save_model,
    train,
)
from ase_knncalc.analysis.binding import read_monomers
from ase_knncalc.cli.app import app
from ase_knncalc.data import write_frames
from ase_knncalc.errors import BaselineError, DataError
from ase_knncalc.sampling import select_frames


@pytest.fixture(scope="module")
def given_model(water_frames):
    """A model whose baseline nothing computes, and its frames."""
    frames = [a.copy() for a in water_frames[:20]]
    for i, atoms in enumerate(frames):
        atoms.info["baseline_energy"] = 3.0 * len(atoms) + 0.01 * i
    return train(frames, baseline="given", trend="linear", k=3, n_jobs=1), frames


def test_given_energies_come_from_the_frames(given_model) -> None:
    model, frames = given_model
    energies = [a.info["baseline_energy"] for a in frames]
    truth = model.predict(frames, baseline_energy=energies).energy
    found = predict_frames(model, frames, n_jobs=1)
    np.testing.assert_array_equal(found.baseline_energy, energies)
    np.testing.assert_allclose(found.energy, truth, atol=1e-8)
    # Under a name of their own, in another unit; among the results of a reader; as an argument.
    renamed = [a.copy() for a in frames]
    for a in renamed:
        a.info["low"] = a.info.pop("baseline_energy") / units.Hartree
    keys = KeyMap(baseline_energy="low", energy_unit="Hartree")
    np.testing.assert_allclose(
        predict_frames(model, renamed, keys=keys, n_jobs=1).energy, truth, atol=1e-8
    )
    read = [a.copy() for a in renamed]
    for a, energy in zip(read, energies, strict=True):
        a.calc = SinglePointCalculator(a, energy=energy)
    keys = KeyMap(baseline_energy="energy")
    np.testing.assert_allclose(
        predict_frames(model, read, keys=keys, n_jobs=1).energy, truth, atol=1e-8
    )
    for some in (energies, np.array(energies)):
        found = predict_frames(model, iter(renamed), baseline_energy=some, n_jobs=1)
        np.testing.assert_allclose(found.energy, truth, atol=1e-8)
    with pytest.warns(UserWarning, match="20 are in the model's training data"):
        _, pool = select_frames(model, frames, 5, energy_window=10.0, n_jobs=1)
    np.testing.assert_allclose(pool.energies, truth, atol=1e-8)
    renamed[7].info["name"] = "seventh"
    with pytest.raises(BaselineError, match=r"has no baseline energy under 'baseline_energy'.*key"):
        predict_frames(model, renamed, n_jobs=1)
    frames = [a.copy() for a in frames]
    for value in (np.nan, "low", [1.0, 2.0]):
        frames[7].info.update(baseline_energy=value, name="seventh")
        with pytest.raises(DataError, match=r"^seventh: .*baseline_energy"):
            predict_frames(model, frames, n_jobs=1)


def test_given_energies_of_binding_are_those_of_the_call(given_model, tmp_path) -> None:
    model, frames = given_model
    water, pair = frames[0], frames[1]
    water.info["name"] = "w"
    bare = water.copy()
    del bare.info["reference_energy"]
    monomers = read_monomers(bare, model=model)
    expected = model.predict(water, baseline_energy=water.info["baseline_energy"])
    assert monomers["w"]["reference_energy"] == expected.energy
    found = binding_energy(model, pair, monomers=monomers, baseline_energy=6.0)
    assert found.energy == model.predict(pair, baseline_energy=6.0).energy
    with pytest.raises(BaselineError, match="binding_energy need baseline_energy=…"):
        binding_energy(model, pair, monomers=monomers)
    del bare.info["baseline_energy"]
    with pytest.raises(BaselineError, match="w has no baseline energy"):
        read_monomers(bare, model=model)


def test_a_calculator_refuses_given_energies_which_would_be_stale(given_model, tmp_path) -> None:
    model, frames = given_model
    save_model(model, tmp_path / "m.h5")
    for ask in (
        lambda **o: KNNCalculator(model, **o),
        lambda **o: KNNCalculator(tmp_path / "m.h5", **o),
        lambda **o: KNNCalculator("saw-wb97xd").set(model=model, **o),
    ):
        with pytest.raises(BaselineError, match=r"predict_frames; or name an ASE calculator"):
            ask()
        # What the message proposes.
        ask(baseline=LennardJones(), allow_other_baseline=True)
    with pytest.raises(BaselineError, match=r"model\.correct\(numbers"):
        model.predict(frames[0], baseline_energy=1.0, forces=True)


def test_commands_take_given_energies_from_the_file(given_model, tmp_path) -> None:
    model, frames = given_model
    save_model(model, tmp_path / "m.h5")
    asked = [a.copy() for a in frames[:8] if len(a) == 6]
    for a in asked:
        a.rattle(0.01, seed=1)  # what the model knows is not selected
        a.info["low"] = a.info.pop("baseline_energy")
    write_frames(tmp_path / "f.extxyz", asked)
    write_frames(tmp_path / "w.extxyz", [frames[0]])
    keys = KeyMap(baseline_energy="low")
    truth = sorted(predict_frames(model, asked, keys=keys, n_jobs=1).energy)
    options = {
        "predict": "-q -j 1", "rank": "-q -j 1", "select": "-q -j 1 -n 2 --energy-window 99",
        "binding": f"--monomers {tmp_path / 'w.extxyz'}",
    }  # fmt: skip
    for command, more in options.items():
        arguments = f"{command} {tmp_path / 'f.extxyz'} -m {tmp_path / 'm.h5'} --json {more}"
        said = CliRunner().invoke(app, [*arguments.split(), "--baseline-key", "low"])
        assert said.exit_code == 0, said.output
        rows = json.loads(said.stdout)
        assert len(rows) == len(asked) == 2
        if command in ("predict", "rank"):
            assert sorted(row["energy_eV"] for row in rows) == pytest.approx(truth)
        said = CliRunner().invoke(app, arguments.split())
        assert isinstance(said.exception, BaselineError | DataError)
        assert "--baseline-key" in str(said.exception)
