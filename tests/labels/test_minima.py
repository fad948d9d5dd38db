"""``knncalc check --minima``: which records are no minima."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from helpers.commands import knncalc

from ase_knncalc.data import write_frames
from ase_knncalc.data.frames import iter_frames

LABELS = Path(__file__).resolve().parents[2] / "trained_models" / "labels"


def as_minimum(atoms: Atoms) -> Atoms:
    """A record of GFN1-xTB, which with another zero is the reference here, without its forces."""
    found = Atoms(atoms.numbers, atoms.positions)
    for key in ("name", "composition", "charge", "multiplicity"):
        found.info[key] = atoms.info[key]
    found.info["reference_energy"] = atoms.info["baseline_energy"] - 1.0 * len(atoms)
    return found


@pytest.mark.slow
def test_check_names_records_that_are_no_minima(tmp_path) -> None:
    if not LABELS.exists():
        pytest.skip("the labels are in the source distribution, not in a wheel")
    shipped = [a for path in sorted(LABELS.glob("*.extxyz")) for a in iter_frames(path)]
    frames = [as_minimum(a) for a in shipped if a.info["kind"] == "minimum"]
    # Written with geometry and energy of a structure on its way.
    wrong = [
        a for a in shipped if a.info["kind"] == "hot" and a.info["composition"] in ("1ma", "2w")
    ]
    frames += [as_minimum(a) for a in (wrong[0], wrong[-1])]
    frames[5].info["frequencies_cm1"] = np.array([-80.0, 1600.0, 3700.0])
    write_frames(tmp_path / "minima.extxyz", frames)
    asked = ["check", "minima.extxyz", "--baseline", "gfn1", "--json", "--jobs", 1]
    rows = json.loads(knncalc(*asked, "--minima", cwd=tmp_path).stdout)["suspects"]
    named = {row["name"]: row for row in rows if row["category"] == "no-minimum"}
    expected = {wrong[0].info["name"], wrong[-1].info["name"], frames[5].info["name"]}
    assert expected <= set(named)
    assert len(named) <= 8
    assert "80i cm" in named[frames[5].info["name"]]["reason"]
    assert not any(row["certain"] for row in named.values())
    plain = json.loads(knncalc(*asked, cwd=tmp_path).stdout)["suspects"]
    assert not [row for row in plain if row["category"] == "no-minimum"]
