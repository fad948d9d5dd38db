"""``knncalc convert``: no energy is dropped without a word."""

from __future__ import annotations

import json

import pytest
from ase.build import molecule
from ase.io import read, write
from ase.units import Hartree
from helpers.commands import knncalc


def water(shift: float, **info):
    atoms = molecule("H2O")
    atoms.positions[1, 1] += shift
    atoms.info.update(info)
    return atoms


def test_what_was_taken_is_said(tmp_path) -> None:
    write(tmp_path / "a.extxyz", [water(0.0, E_hartree=-76.4), water(0.1, name="bare")])
    done = knncalc("convert", "a.extxyz", "-o", "b.extxyz", cwd=tmp_path)
    assert "energies from 'E_hartree' in Hartree: a.extxyz" in done.stdout
    assert "1 of them have no reference energy: bare" in done.stdout
    found = read(tmp_path / "b.extxyz", 0).info["reference_energy"]
    assert found == pytest.approx(-76.4 * Hartree)
    about = json.loads(
        knncalc("convert", "a.extxyz", "-o", "b.extxyz", "--json", cwd=tmp_path).stdout
    )
    assert about["energies_from"] == {"a.extxyz": "'E_hartree' in Hartree"}
    assert (about["n_frames"], about["n_reference"]) == (2, 1)
    done = knncalc("convert", "a.extxyz", "-o", "c.extxyz", "--strict", cwd=tmp_path, code=1)
    assert "1 of 2 structures have no reference energy" in done.stderr
    assert not (tmp_path / "c.extxyz").exists()


def test_nothing_found_is_said_and_an_error(tmp_path) -> None:
    write(tmp_path / "a.extxyz", water(0.0, xtb_energy=-138.0))
    for key in ((), ("-r", "dft_energy")):
        done = knncalc("convert", "a.extxyz", *key, "-o", "b.extxyz", cwd=tmp_path, code=1)
        assert "1 of 1 structures have no reference energy" in done.stderr
        assert "xtb_energy" in done.stderr
        assert not (tmp_path / "b.extxyz").exists()
    knncalc("convert", "a.extxyz", "--structures-only", "-o", "b.extxyz", cwd=tmp_path)
    assert "reference_energy" not in read(tmp_path / "b.extxyz").info


def test_a_unit_that_was_given_is_used_and_a_wrong_one_noticed(tmp_path) -> None:
    write(tmp_path / "a.extxyz", [water(0.01 * i, my_energy=-76.4 - i / 1e3) for i in range(3)])
    write(tmp_path / "b.extxyz", molecule("CH4", info={"my_energy": -40.5}))
    files = ("a.extxyz", "b.extxyz")
    done = knncalc("convert", *files, "-o", "c.extxyz", cwd=tmp_path, code=1)
    assert "look like total energies in Hartree" in done.stderr
    knncalc("convert", *files, "-o", "c.extxyz", "--energy-unit", "Hartree", cwd=tmp_path)
    assert read(tmp_path / "c.extxyz").info["reference_energy"] == pytest.approx(-40.5 * Hartree)
