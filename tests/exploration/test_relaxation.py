"""Relaxation of many structures."""

from __future__ import annotations

import json
import sqlite3
from unittest import mock

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential
from ase.io import read, write
from helpers.commands import knncalc
from helpers.factories import tiny

from ase_knncalc.errors import SettingsError
from ase_knncalc.exploration import jobs, relax_frames
from ase_knncalc.exploration.relaxation import optimizer_of

MODEL = "model:saw-wb97xd-md"


def stretched(by: float = 0.02) -> Atoms:
    water = molecule("H2O")
    water.positions[1:] += by
    water.info.update(name=f"w{by}", composition="1w", dft_energy=-1.0, charge=0)
    return water


def test_a_molecule_comes_to_its_minimum_with_what_the_model_knows_of_it() -> None:
    start = stretched()
    before = start.positions.copy()
    (found,), omitted = relax_frames([start], MODEL, n_jobs=1, fmax=0.02)
    np.testing.assert_array_equal(start.positions, before)
    assert omitted == []
    assert found.get_distance(0, 1) == pytest.approx(0.965, abs=0.01)
    assert np.linalg.norm(found.get_forces(), axis=1).max() <= 0.02
    info = found.info
    assert (info["name"], info["composition"], info["charge"]) == ("w0.02", "1w", 0)
    assert "dft_energy" not in info, "that is an energy of another geometry"
    assert info["energy_predicted"] == found.get_potential_energy()
    assert info["energy_std"] > 0
    assert (info["converged"], info["fell_apart"], info["reacted"]) == (True, False, False)
    assert (info["protons_moved"], info["outside"]) == (0, info["novelty"] > 1)
    assert info["predicted_by"] == "saw-wb97xd-md"


def test_steps_that_do_not_suffice_are_told_and_any_optimiser_will_do() -> None:
    frames = [stretched()]
    (short,), _ = relax_frames(frames, "GFN1-xTB", steps=1, fmax=1e-3, n_jobs=1)
    assert (short.info["converged"], short.info["relax_steps"]) == (False, 1)
    assert short.info["largest_force"] > 1e-3
    (bfgs,), _ = relax_frames(frames, "GFN1-xTB", n_jobs=1)
    (fire,), _ = relax_frames(frames, "GFN1-xTB", optimizer="FIRE", n_jobs=1)
    assert fire.get_potential_energy() == pytest.approx(bfgs.get_potential_energy(), abs=1e-3)
    with pytest.raises(SettingsError, match="did you mean 'LBFGS'"):
        optimizer_of("LBFG")


def test_protons_and_molecules_that_leave_are_seen() -> None:
    """Hydroxide beside hydronium on a made-up surface that pulls all atoms together."""
    water, apart = molecule("H2O"), molecule("H2O")
    apart.positions += [0.0, 0.0, 12.0]
    far = water + apart
    (left,), _ = relax_frames([far], MorsePotential(), steps=1)
    assert left.info["fell_apart"]
    pair = water + apart
    pair.positions[3:] += [0.0, 0.0, -9.2]
    moved = pair.copy()
    moved.positions[4] = pair.positions[0] + [0.0, 0.0, 0.97]

    def jump(self, fmax, steps):  # type: ignore[no-untyped-def]
        self.optimizable.atoms.positions[:] = moved.positions

    with mock.patch("ase.optimize.BFGS.run", jump):
        (acid,), _ = relax_frames([pair], "GFN1-xTB", n_jobs=1)
    assert (acid.info["protons_moved"], acid.info["reacted"]) == (1, False)
    moved.positions[3] = pair.positions[0] + [0.0, 0.0, -1.4]
    with mock.patch("ase.optimize.BFGS.run", jump):
        (peroxide,), _ = relax_frames([pair], "GFN1-xTB", n_jobs=1)
    assert peroxide.info["reacted"]


def test_one_bad_structure_is_named_and_the_others_are_there() -> None:
    salt, ion = molecule("NaCl"), Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    (found,), omitted = relax_frames([salt, stretched(), ion], MODEL, n_jobs=1, steps=2)
    assert found.info["name"] == "w0.02"
    assert [(o.index, o.category) for o in omitted] == [(0, "failed"), (2, "not-covered")]
    assert "Na" in omitted[0].reason


def test_what_makes_no_sense_is_refused(water_frames) -> None:
    for options in ({"fmax": 0.0}, {"steps": 0}, {"optimizer": 3}, {"n_jobs": 0}):
        with pytest.raises(SettingsError, match=next(iter(options))):
            relax_frames([stretched()], "GFN1-xTB", **options)
    with pytest.raises(SettingsError, match="calculator object cannot be kept"):
        relax_frames([stretched()], MorsePotential(), kept="x.db")
    bare = tiny(water_frames, trend="none", weights="distance")
    from ase_knncalc import KNNCalculator

    with pytest.raises(SettingsError, match="has no forces"):
        relax_frames([stretched()], KNNCalculator(bare))
    with pytest.warns(UserWarning, match="energies alone"):
        relax_frames([], "model:saw-wb97xd")


def test_what_was_finished_is_not_done_again(tmp_path) -> None:
    """A kill between two structures: the first is kept, and is the same to the last bit."""
    frames = [stretched(by) for by in (0.02, 0.03)]
    whole, _ = relax_frames(frames, "GFN1-xTB", n_jobs=1, steps=3)
    kept = tmp_path / "kept.db"
    done = jobs._attempt

    def killed(*arguments):  # type: ignore[no-untyped-def]
        if arguments[1] == 1:
            raise KeyboardInterrupt
        return done(*arguments)

    with mock.patch.object(jobs, "_attempt", killed), pytest.raises(KeyboardInterrupt):
        relax_frames(frames, "GFN1-xTB", n_jobs=1, steps=3, kept=kept)
    asked = []

    def counted(*arguments):  # type: ignore[no-untyped-def]
        asked.append(arguments[1])
        return done(*arguments)

    with mock.patch.object(jobs, "_attempt", counted):
        again, _ = relax_frames(frames, "GFN1-xTB", n_jobs=1, steps=3, kept=kept)
        assert asked == [1]
        relax_frames(frames[:1], "GFN1-xTB", n_jobs=1, steps=4, kept=kept)
        assert asked == [1, 0], "other settings, another result"
    for a, b in zip(whole, again, strict=True):
        assert a.info == b.info
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.get_forces(), b.get_forces())


def test_the_command(tmp_path) -> None:
    write(tmp_path / "in.xyz", [stretched(), molecule("NaCl")])
    arguments = ("relax", "in.xyz", "-o", "out.extxyz", "-m", "saw-wb97xd-md", "--steps", 3, "-q")
    done = knncalc(*arguments, "-j", 1, "--json", "--csv", "out.csv", cwd=tmp_path)
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["relax_steps"], row["converged"]) == ("w0.02", 3, False)
    assert "Na" in done.stderr
    assert read(tmp_path / "out.extxyz").info["converged"] == False  # noqa: E712 - NumPy's
    assert (tmp_path / "out.csv").read_text().startswith("name,energy_eV,energy_std_eV,novelty")
    assert not list(tmp_path.glob("*.part.db"))
    assert "Na, Cl" in knncalc(*arguments, "--strict", cwd=tmp_path, code=1).stderr
    with sqlite3.connect(tmp_path / "out.extxyz.part.db") as kept:
        assert kept.execute("SELECT count(*) FROM results").fetchone() == (1,)
