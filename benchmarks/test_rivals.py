"""Rivals: who is asked about which structure, and where a row goes in the table."""

from __future__ import annotations

import numpy as np
import pytest
import typer
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from rival_methods import Rival, rivals
from rivals import again, fingerprint, judged, placed

NEUTRAL = Rival("EMT", EMT, None, "LGPL", "H O", charged=False)


def labelled(name: str, charge: int = 0) -> Atoms:
    atoms = molecule(name)
    atoms.info |= {"charge": charge, "reference_energy": 1.5, "composition": name}
    atoms.arrays["reference_forces"] = np.zeros((len(atoms), 3))
    return atoms


def test_what_a_rival_does_not_cover_is_counted_and_not_judged():
    frames = [labelled("H2O"), labelled("OH", charge=-1), labelled("SH2"), labelled("H2O2")]
    said = judged(NEUTRAL, frames)
    assert said.groups == ["H2O", "H2O2"]
    assert said.row()["left_out"] == 2
    assert said.failed == 0
    water = frames[0].copy()
    water.calc = EMT()
    assert said.predicted[0] == pytest.approx(water.get_potential_energy())
    assert said.force[0] == pytest.approx(np.abs(water.get_forces()).mean())


def test_what_a_rival_covers_is_said():
    assert NEUTRAL.coverage == "H O, neutral"
    everything = Rival("xTB", EMT, None, "LGPL")
    assert everything.coverage == "H to Rn"
    assert everything.covers(labelled("SH2", charge=1))


def test_rows_of_a_rival_take_the_place_of_its_own():
    rows = [
        {"kind": "cost", "method": "a"},
        {"kind": "errors", "stratum": "x", "method": "a", "n": 1},
        {"kind": "errors", "stratum": "y", "method": "a", "n": 2},
    ]
    new = {"kind": "errors", "stratum": "x", "method": "a", "n": 9}
    assert placed(rows, new) == [rows[0], new, rows[2]]
    other = {"kind": "errors", "stratum": "x", "method": "b"}
    assert placed(rows, other) == [*rows[:2], other, rows[2]]
    last = {"kind": "relaxed", "method": "b"}
    assert placed(rows, last) == [*rows, last]
    assert placed([], last) == [last]


def test_structures_are_known_by_where_their_atoms_are():
    water, moved, other = labelled("H2O"), labelled("H2O"), labelled("H2O2")
    moved.positions[0, 0] += 1e-3
    moved.info["name"] = water.info["name"] = "the same"
    known = [fingerprint(other), fingerprint(water)]
    assert again([water, moved, other], known) == [other, water]
    with pytest.raises(typer.BadParameter, match="1 structures"):
        again([moved, other], known)


def test_a_rival_that_is_not_installed_has_a_word():
    found, absent = rivals(None, "nothing of this name")
    assert found == []
    assert {"MACE-OFF", "g-xTB", "AMC-xTB"} <= set(absent)
    found, absent = rivals(None, "GFN2")
    assert [r.name for r in found] == ["GFN2-xTB"]
