"""Samplings that are interrupted go on; structures whose relaxation came to no end are marked."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from helpers.commands import knncalc

from ase_knncalc.errors import DataError, KNNCalcError
from ase_knncalc.sampling import SamplingSettings, candidates, parse_ingredients, sample
from ase_knncalc.sampling.runs import Journal
from ase_knncalc.sampling.walks import Outcome

WATERS = parse_ingredients(["w:2"])
UNRELAXED = SamplingSettings(relax=False, methods=("packing", "monte-carlo"), chain=2, interval=3)


class Well(Calculator):
    """Weak springs; or a rugged surface, on which no search comes to an end."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, stuck: bool = False) -> None:
        super().__init__()
        self.stuck = stuck

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        shift = self.atoms.positions - self.atoms.positions.mean(axis=0)
        forces = -1e-3 * shift + self.stuck * 0.7 * np.sin(1e3 * shift)
        self.results = {"energy": 5e-4 * float((shift**2).sum()), "forces": forces}


@pytest.fixture
def counted(monkeypatch):
    """Numbers of the runs that were computed; the fourth is interrupted."""
    runs, real = [], candidates._run

    def run(ingredients, engine, settings, number):
        runs.append(number)
        if len(runs) == 4:
            raise KeyboardInterrupt
        return real(ingredients, engine, settings, number)

    monkeypatch.setattr(candidates, "_run", run)
    return runs


def test_patience_ends_where_nothing_new_is_found(monkeypatch) -> None:
    """Of runs that find a, b, nothing new, c, and nothing new from then on."""
    found, asked = iter(["a", "ab", "a", "c", *"abcabcabc"]), []
    energies = {"a": 0.0, "b": 1.0, "c": 2.0}

    def run(ingredients, engine, settings, number):  # type: ignore[no-untyped-def]
        asked.append(number)
        texts = next(found)
        frames = [molecule("H2O") for _ in texts]
        for atoms, text in zip(frames, texts, strict=True):
            atoms.info.update(energy=energies[text], charge=0, multiplicity=1)
        return Outcome(frames=frames)

    monkeypatch.setattr(candidates, "_run", run)
    settings = SamplingSettings(patience=3)
    frames = sample(parse_ingredients(["w:1"]), 10, engine=Well(), settings=settings)
    assert [a.info["energy"] for a in frames] == [0.0, 1.0, 2.0]
    assert asked == list(range(7))


def test_what_was_interrupted_goes_on_to_the_same_structures(tmp_path, counted) -> None:
    path = tmp_path / "pool.extxyz.runs"
    options = {"engine": Well(), "settings": UNRELAXED, "journal": path}
    with pytest.raises(KeyboardInterrupt):
        sample(WATERS, 9, **options)
    assert len(path.read_bytes().splitlines()) == 4, "a header and three runs"
    with open(path, "ab") as file:  # killed in the middle of a line
        file.write(b'[[{"numbers": ')
    found = sample(WATERS, 9, **options)
    assert counted == [0, 1, 2, 3, 3, 4, 5][: len(counted)]
    whole = sample(WATERS, 9, engine=Well(), settings=UNRELAXED)
    assert [a.info for a in found] == [a.info for a in whole]
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    # Other molecules, or another seed, are another sampling.
    counted.clear()
    sample(parse_ingredients(["w:3"]), 1, **options)
    assert counted == [0]


def test_the_command_goes_on_and_leaves_nothing_behind(tmp_path, counted) -> None:
    command = ("sample", "w:2", "-n", 6, "--no-relax", "-q", "-j", 1, "-o", "pool.extxyz")
    assert "runs of a sampling are kept" in knncalc(*command, cwd=tmp_path, code=130).stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pool.extxyz.runs"]
    knncalc(*command, cwd=tmp_path)
    assert counted[:5] == [0, 1, 2, 3, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["pool.extxyz"]


def test_runs_that_all_failed_are_not_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(candidates, "_run", lambda *_: Outcome(failures=["no licence"]))
    with pytest.raises(KNNCalcError, match="no licence"):
        sample(WATERS, 1, engine=Well(), journal=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DataError, match="cannot keep runs there"):
        Journal(tmp_path, {})


def test_relaxations_that_come_to_no_end_start_again_and_are_marked() -> None:
    settings = SamplingSettings(relax_steps=3)
    with pytest.warns(UserWarning, match=r"1w: 1 of 1 structures are not relaxed.* up to 0\."):
        (atoms,) = sample(parse_ingredients(["w:1"]), 1, engine=Well(stuck=True), settings=settings)
    assert atoms.info["relaxed"] is False
    atoms.calc = Well(stuck=True)
    left = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert atoms.info["fmax"] == pytest.approx(left, rel=1e-3)
    assert left > 0.01
    (atoms,) = sample(parse_ingredients(["w:1"]), 1, engine=Well())
    assert atoms.info["relaxed"] is True
    assert atoms.info["fmax"] < 0.01
