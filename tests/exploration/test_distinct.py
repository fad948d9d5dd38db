"""Each structure once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from helpers.commands import knncalc
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc.errors import SettingsError
from ase_knncalc.exploration import distinct_groups, unique_frames
from ase_knncalc.sameness import fitted_rmsd, symmetry_number
from ase_knncalc.sampling import parse_ingredients
from ase_knncalc.sampling.molecules import MOLECULES, pack


def packed(seed: int, *molecules: str) -> Atoms:
    return pack(parse_ingredients(molecules), np.random.default_rng(seed))


def disguised(atoms: Atoms, seed: int, shift: float, mirrored: bool) -> Atoms:
    """The structure turned, moved, reordered, with atoms shifted by so much, root mean square."""
    rng = np.random.default_rng(seed)
    copy = atoms[rng.permutation(len(atoms))]
    noise = rng.normal(size=(len(copy), 3))
    copy.positions += noise * shift / np.sqrt(np.mean(np.sum(noise**2, axis=1)))
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix[:, 0] *= np.sign(np.linalg.det(matrix)) * (-1.0 if mirrored else 1.0)
    copy.positions = copy.positions @ matrix + rng.normal(size=3)
    return copy


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    molecules=st.sampled_from(
        [("w:4",), ("sa:1", "am:2"), ("sa:2", "dma:1"), ("tma:1",), ("w:1",)]
    ),
    mirrored=st.booleans(),
)
def test_a_structure_is_known_in_any_guise(seed, molecules, mirrored) -> None:
    atoms = packed(seed, *molecules)
    other = disguised(atoms, seed, 0.09, mirrored)
    assert fitted_rmsd(atoms, other, 0.1) <= 0.0901
    exact = disguised(atoms, seed, 0.0, mirrored)
    assert fitted_rmsd(exact, atoms, 0.01) < 1e-6


def test_others_are_told_apart() -> None:
    for seed in range(3):
        a, b = packed(seed, "sa:1", "w:2"), packed(seed + 10, "sa:1", "w:2")
        assert fitted_rmsd(a, b, 0.1) > 0.1
    water = molecule("H2O")
    bent = water.copy()
    bent.set_angle(1, 0, 2, 130)
    assert 0.1 < fitted_rmsd(water, bent, 0.1) < 0.3


@pytest.mark.parametrize(
    ("name", "number"),
    [("H2O", 2), ("NH3", 3), ("CH4", 12), ("CO2", 2), ("HCN", 1), ("C2H4", 4), ("C6H6", 12),
     ("C2H6", 6), ("CH3OH", 1), ("BF3", 6), ("H2", 2)],
)  # fmt: skip
def test_symmetry_numbers(name, number) -> None:
    atoms = disguised(molecule(name), 3, 0.01, mirrored=False)
    assert symmetry_number(atoms) == number
    assert symmetry_number(Atoms("Ar")) == 1
    assert symmetry_number(MOLECULES["sa"]()) == 2


def labelled(frames: list[Atoms], energies: list[float]) -> list[Atoms]:
    for i, (atoms, energy) in enumerate(zip(frames, energies, strict=True)):
        atoms.info.update(name=f"c{i}", energy=energy)
    return frames


def test_groups_have_their_lowest_first_and_energies_tell_what_geometry_does_not() -> None:
    one, two = packed(0, "sa:1", "w:1"), packed(1, "sa:1", "w:1")
    frames = [one, two, disguised(one, 1, 0.05, True), disguised(two, 2, 0.0, False), one.copy()]
    labelled(frames, [-1.0, -2.0, -1.002, -2.0, -1.5])
    groups, omitted = distinct_groups(frames)
    assert groups == [[1, 3], [2, 0], [4]]
    assert omitted == []
    assert distinct_groups(frames, energy_tolerance=1.0)[0] == [[1, 3], [4, 2, 0]]
    assert len(distinct_groups(frames, rmsd_tolerance=1e-6)[0]) == 4
    found = unique_frames(frames)
    assert [(a.info["name"], a.info["copies"]) for a in found] == [("c1", 2), ("c2", 2), ("c4", 1)]
    for atoms in frames:
        del atoms.info["energy"]
    assert [sorted(g) for g in distinct_groups(frames)[0]] == [[0, 2, 4], [1, 3]]


def test_charges_make_another_structure_and_bad_ones_are_named() -> None:
    frames = [molecule("H2O") for _ in range(3)]
    frames[1].info.update(charge=2)
    frames[2].info.update(charge=1)
    groups, (bad,) = distinct_groups(frames)
    assert groups == [[0], [1]]
    assert (bad.index, bad.category) == (2, "not-covered")
    for name in ("energy_tolerance", "rmsd_tolerance"):
        with pytest.raises(SettingsError, match=name):
            distinct_groups(frames, **{name: 0.0})


def test_the_command(tmp_path) -> None:
    one, two = packed(0, "w:2"), packed(1, "w:2")
    frames = labelled([one, two, disguised(one, 1, 0.02, True)], [-1.0, -2.0, -1.001])
    for atoms in frames:
        atoms.info["my_energy"] = atoms.info["energy"]
    write(tmp_path / "in.extxyz", frames)
    done = knncalc("unique", "in.extxyz", "-o", "out.extxyz", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)
    assert [(r["name"], r["copies"], r["copies_of_it"]) for r in rows] == [
        ("c1", 1, ""), ("c2", 2, "c0")
    ]  # fmt: skip
    assert [a.info["copies"] for a in read(tmp_path / "out.extxyz", ":")] == [1, 2]
