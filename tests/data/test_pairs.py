"""Files of a high and of a low level, joined by geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.units import Hartree
from helpers.factories import pair_energy, water_clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc.data import KeyMap, pair_sources, read_dataset, read_pair, write_frames
from ase_knncalc.errors import DataError


def gradient(atoms: Atoms) -> np.ndarray:
    """Forces of the made-up energy, eV/Å, by differences."""
    forces = np.zeros((len(atoms), 3))
    for i, axis in np.ndindex(forces.shape):
        energies = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[i, axis] += step
            energies.append(pair_energy(moved))
        forces[i, axis] = -(energies[0] - energies[1]) / 2e-4
    return forces


@pytest.fixture
def high() -> list[Atoms]:
    return [atoms.copy() for atoms in water_clusters(8)]


@pytest.fixture
def low(high: list[Atoms]) -> list[Atoms]:
    """The same structures in another order, under other names, with the low level's labels."""
    frames = [atoms.copy() for atoms in reversed(high)]
    for i, atoms in enumerate(frames):
        atoms.info = {"name": f"low-{i}", "reference_energy": pair_energy(atoms) / 2}
        atoms.arrays["reference_forces"] = gradient(atoms) / 2
    return frames


def check(frames: list[Atoms]) -> None:
    for atoms in frames:
        assert atoms.info["baseline_energy"] == pytest.approx(atoms.info["reference_energy"] / 2)
        np.testing.assert_allclose(atoms.arrays["baseline_forces"], gradient(atoms) / 2, atol=1e-6)


def test_same_structures_under_other_names(high: list[Atoms], low: list[Atoms]) -> None:
    found = read_pair(high, low)
    assert found.matched == 8
    assert found.renamed[0] == (high[0].info["name"], "low-7")
    check(found.frames)
    assert "8 structures matched, 8 of them under two names" in found.report()
    assert "baseline_energy" not in high[0].info, "what was given is not touched"


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=10, deadline=None)
def test_turned_mirrored_and_reordered(seed: int, mirror: bool, reorder: bool) -> None:
    rng = np.random.default_rng(seed)
    high = [atoms.copy() for atoms in water_clusters(4, seed=seed % 1000)]
    low = []
    for atoms in high:
        copy = atoms.copy()
        copy.positions = Rotation.random(random_state=rng).apply(copy.positions) + rng.normal(
            size=3
        )
        if mirror:
            copy.positions[:, 0] *= -1
        if reorder:
            copy = copy[rng.permutation(len(copy))]
        copy.info = {"reference_energy": pair_energy(copy) / 2}
        copy.arrays["reference_forces"] = gradient(copy) / 2
        low.append(copy)
    found = read_pair(high, low)
    assert found.matched == 4
    assert not found.without_forces
    check(found.frames)


def test_order_that_cannot_be_found_leaves_forces_out() -> None:
    """A regular tetrahedron around an atom: each view is the same, so the first order will do."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
    methane = Atoms("CH4", np.vstack([np.zeros(3), corners]), info={"reference_energy": -10.0})
    turned = methane[[3, 1, 0, 2, 4]]
    turned.arrays["reference_forces"] = turned.positions / 7
    (atoms,) = read_pair([methane], [turned]).frames
    np.testing.assert_allclose(atoms.arrays["baseline_forces"], methane.positions / 7, atol=1e-12)


def test_name_decides_between_equal_geometries(high: list[Atoms]) -> None:
    first = high[1]
    twins = []
    for name, energy in (("other", -3.0), (first.info["name"], -4.0)):
        twin = first.copy()
        twin.info = {"name": name, "reference_energy": energy}
        twins.append(twin)
    (atoms,) = read_pair([first], twins).frames
    assert atoms.info["baseline_energy"] == -4.0
    twins[1].info["name"] = "another"
    with pytest.raises(DataError, match=r"(?s)nothing in .* differ by up to 1\.0000 eV"):
        read_pair([first], twins)
    twins[1].info["reference_energy"] = -3.0
    found = read_pair([first], twins)
    assert (found.matched, found.low_only) == (1, [])


def test_other_charge_is_another_structure(high: list[Atoms], low: list[Atoms]) -> None:
    low[7].info["charge"] = 1
    found = read_pair(high, low)
    assert found.conflicts == [(high[0].info["name"], "its charge is 0 here and 1 in memory")]
    assert len(read_dataset(found.frames)) == 7


def test_what_has_no_partner(high: list[Atoms], low: list[Atoms]) -> None:
    del low[7].info["reference_energy"]
    high[1].positions[0] = np.nan
    found = read_pair(high, low)
    assert found.unlabelled == ["low-7"]
    assert found.high_only == [high[0].info["name"], high[1].info["name"]]
    assert found.low_only == ["low-6"]
    assert found.matched == 6
    text = found.report()
    assert "1 of the low level without an energy: low-7" in text
    for atoms in low:
        atoms.info = {"gfn": 1.0}
    with pytest.raises(DataError, match=r"'baseline_energy' or 'reference_energy'.*are: gfn"):
        read_pair(high, low)


def test_files_with_keys_and_units_of_their_own(
    tmp_path: Path, high: list[Atoms], low: list[Atoms]
) -> None:
    for atoms in high:
        atoms.info["dft_energy"] = atoms.info.pop("reference_energy") / Hartree
        atoms.info["id"] = atoms.info.pop("name")
    for atoms in low:
        atoms.info["xtb_energy"] = atoms.info.pop("reference_energy") / Hartree
        del atoms.arrays["reference_forces"]
    write_frames(tmp_path / "high.extxyz", high)
    write_frames(tmp_path / "low.xyz.gz", low)
    keys = KeyMap("dft_energy", baseline_energy="xtb_energy", energy_unit="Hartree", name="id")
    found = read_pair(tmp_path / "high.extxyz", tmp_path / "low.xyz.gz", keys=keys)
    for atoms, first in zip(found.frames, high, strict=True):
        assert atoms.info["reference_energy"] == pytest.approx(pair_energy(first))
        assert atoms.info["baseline_energy"] == pytest.approx(pair_energy(first) / 2)
        assert atoms.info["name"] == first.info["id"]
        assert atoms.info["source"].startswith("high.extxyz#")
        assert "dft_energy" not in atoms.info


def test_training_and_monomers_of_two_files_each(high: list[Atoms], low: list[Atoms]) -> None:
    keys = KeyMap(reference_energy="dft_energy")
    plain = [atoms.copy() for atoms in high]
    for atoms in [*high, *plain]:
        atoms.info["dft_energy"] = atoms.info.pop("reference_energy")
    for atoms in plain:
        atoms.info["baseline_energy"] = 1.0
    for atoms in low:
        atoms.info["baseline_energy"] = atoms.info.pop("reference_energy")
        atoms.arrays["baseline_forces"] = atoms.arrays.pop("reference_forces")
    assert pair_sources(plain, None, plain, None, keys) == (plain, plain, keys)
    data, monomers, used = pair_sources(high, low, plain, None, keys)
    check(list(data))
    assert used == KeyMap()
    # Not joined, but under the same names, and with what labels they had.
    assert [a.info["baseline_energy"] for a in monomers] == [1.0] * 8
    assert read_dataset(monomers, keys=used).energies()[0] == pytest.approx(pair_energy(high[0]))
    with pytest.raises(DataError, match="--monomers"):
        pair_sources(high, low, None, low, keys)


def test_second_energy_of_a_jkqc_database_against_the_first_of_another(
    high: list[Atoms], low: list[Atoms]
) -> None:
    for atoms in high:
        atoms.info["out_electronic_energy"] = 3.0 * atoms.info["reference_energy"]
    found = read_pair(high, low, keys=KeyMap(reference_energy="out_electronic_energy"))
    assert found.matched == 8
    for atoms, first in zip(found.frames, high, strict=True):
        assert atoms.info["reference_energy"] == pytest.approx(3 * pair_energy(first))
        assert atoms.info["baseline_energy"] == pytest.approx(pair_energy(first) / 2)


def test_nothing_matches(high: list[Atoms]) -> None:
    other = [atoms.copy() for atoms in water_clusters(3, seed=9)]
    for i, atoms in enumerate(other):
        atoms.info = {"name": str(i), "reference_energy": 1.0}
    with pytest.raises(DataError, match="nothing in memory matches memory: 0 struc"):
        read_pair(high, other)
