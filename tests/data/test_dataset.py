"""The labelled dataset: what is kept, what is left out, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr, Hartree

from ase_knncalc.data import (
    KeyMap,
    LabelledDataset,
    Omission,
    read_dataset,
    read_structures,
    write_frames,
)
from ase_knncalc.errors import DataError, SettingsError


def labelled(formula: str = "H2O", energy: float = -2079.0, **info: object) -> Atoms:
    atoms = molecule(formula)
    atoms.info.update(reference_energy=energy, **info)
    return atoms


def good() -> list[Atoms]:
    return [labelled("H2O"), labelled("CH4", -1102.0), labelled("NH3", -1538.0)]


def left_out(bad: Atoms, **options: object) -> Omission:
    """The one frame that is left out when ``bad`` is among good ones."""
    dataset = read_dataset([*good(), bad], **options)  # type: ignore[arg-type]
    assert len(dataset) == 3
    (omission,) = dataset.omitted
    assert omission.index == 3
    return omission


def test_canonical_frames(tmp_path: Path) -> None:
    atoms = labelled("H2O", name="w", wb97xd_energy=-2000.0, gfn1_energy=-150.0, dlpno=-3.0)
    atoms.new_array("wb97xd_forces", np.ones((3, 3)))
    atoms.new_array("reference_forces", np.zeros((3, 3)))
    atoms.new_array("gfn1_forces", np.full((3, 3), 2.0))
    atoms.new_array("other", np.zeros(3))
    atoms.set_initial_charges([0.1, 0.2, -0.3])
    atoms.set_tags([1, 2, 3])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    before = atoms.copy()
    dataset = read_dataset(
        [atoms], keys=KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")
    )
    (frame,) = dataset
    assert frame.calc is None
    assert set(frame.arrays) == {
        "numbers", "positions", "reference_forces", "baseline_forces",
    }  # fmt: skip
    assert frame.info == {
        "name": "w",
        "composition": "H2O",
        "charge": 0,
        "multiplicity": 1,
        "reference_energy": -2000.0,
        "baseline_energy": -150.0,
        "dlpno": -3.0,
        "source": "memory#0",
    }
    np.testing.assert_array_equal(frame.arrays["reference_forces"], np.ones((3, 3)))
    np.testing.assert_array_equal(frame.arrays["baseline_forces"], np.full((3, 3), 2.0))
    # What was given is as it was.
    assert atoms.info == before.info
    assert atoms.arrays.keys() == before.arrays.keys()
    assert atoms.calc is not None


def test_energy_and_forces_of_a_calculator() -> None:
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2079.0, forces=np.ones((3, 3)))
    dataset = read_dataset(atoms, keys=KeyMap(reference_energy="energy"))
    assert dataset.energies().tolist() == [-2079.0]
    assert dataset.has_forces.tolist() == [True]


def test_ase_energy_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(
        "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-31.5\n"
        "H 0 0 0 0 0 1\nH 0 0 .75 0 0 -1\n"
    )
    dataset = read_dataset(path, keys=KeyMap(reference_energy="energy"))
    assert dataset.energies().tolist() == [-31.5]
    assert dataset.frames[0].arrays["reference_forces"][0].tolist() == [0, 0, 1]


def test_units_are_converted() -> None:
    atoms = labelled("H2O", -76.4)
    atoms.new_array("reference_forces", np.ones((3, 3)))
    keys = KeyMap(energy_unit="Hartree", force_unit="Hartree/Bohr")
    (frame,) = read_dataset(atoms, keys=keys)
    assert frame.info["reference_energy"] == pytest.approx(-76.4 * Hartree)
    np.testing.assert_allclose(frame.arrays["reference_forces"], Hartree / Bohr)
    with pytest.raises(SettingsError, match="force_unit"):
        read_dataset(atoms, keys=KeyMap(energy_unit="Hartree"))


def test_names_and_sources(tmp_path: Path) -> None:
    write_frames(tmp_path / "clusters.extxyz.gz", [*good()[:2], labelled("NH3", name="007")])
    dataset = read_dataset([tmp_path / "clusters.extxyz.gz", labelled("HCl", -12500.0)])
    assert dataset.names == ["clusters-0", "clusters-1", "007", "frame-0"]
    assert [a.info["source"] for a in dataset] == [
        "clusters.extxyz.gz#0",
        "clusters.extxyz.gz#1",
        "clusters.extxyz.gz#2",
        "memory#0",
    ]
    part = read_dataset(tmp_path / "clusters.extxyz.gz", index="1:2")
    assert part.names == ["clusters-1"]
    assert part.frames[0].info["source"] == "clusters.extxyz.gz#1"


def test_written_and_read_again(tmp_path: Path) -> None:
    first = read_dataset(good())
    write_frames(tmp_path / "a.xyz", first.frames)
    again = read_dataset(tmp_path / "a.xyz")
    for a, b in zip(first, again, strict=True):
        assert a.info == b.info
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-8)


def test_other_names_of_charge_and_identity() -> None:
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    atoms.info.update(reference_energy=-2060.0, q=-1, mult=1, id=12, kind="1oh")
    keys = KeyMap(charge="q", multiplicity="mult", name="id", composition="kind")
    dataset = read_dataset(atoms, keys=keys)
    assert dataset.frames[0].info == {
        "name": "12",
        "composition": "1oh",
        "charge": -1,
        "multiplicity": 1,
        "reference_energy": -2060.0,
        "source": "memory#0",
    }
    assert dataset.charges.tolist() == [-1]
    assert dataset.compositions == ["1oh"]


# ------------------------------------------------------------------------------- left out


def test_missing_reference() -> None:
    bad = molecule("HCl")
    omission = left_out(bad)
    assert omission.category == "missing-reference"
    assert "'reference_energy'" in omission.reason
    assert omission.name == "frame-3"
    kept = read_dataset([*good(), bad], require_reference=False)
    assert len(kept) == 4
    assert np.isnan(kept.energies()).tolist() == [False, False, False, True]


def test_missing_baseline() -> None:
    frames = [labelled("H2O", baseline_energy=-157.0), *good()[1:]]
    assert len(read_dataset(frames)) == 3
    dataset = read_dataset(frames, require_baseline=True)
    assert [o.category for o in dataset.omitted] == ["missing-baseline"] * 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "is nan"),
        (float("inf"), "is inf"),
        ("-12500 eV", "one number, but it is '-12500 eV'"),
        (np.array([1.0, 2.0]), r"one number, but it is an array of shape \(2,\)"),
        (True, "one number, but it is True"),
    ],
)
@pytest.mark.parametrize("level", ["reference", "baseline"])
def test_energies_that_are_none(value: object, reason: str, level: str) -> None:
    bad = labelled("HCl", -12500.0)
    bad.info[f"{level}_energy"] = value
    omission = left_out(bad)
    assert omission.category == f"bad-{level}"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(omission.reason)


@pytest.mark.parametrize("level", ["reference", "baseline"])
def test_forces_that_are_none(level: str) -> None:
    bad = labelled("HCl", -12500.0)
    bad.info[f"{level}_forces"] = np.zeros((3, 2))
    omission = left_out(bad)
    assert omission.category == f"bad-{level}"
    assert "shape (3, 2), but forces on 2 atoms have shape (2, 3)" in omission.reason
    bad.info[f"{level}_forces"] = [[0.0, 0.0, float("nan")], [0.0, 0.0, 0.0]]
    assert "not all finite" in left_out(bad).reason
    bad.info[f"{level}_forces"] = "none"
    assert "should be forces" in left_out(bad).reason


def test_bad_structures() -> None:
    empty = Atoms()
    empty.info["reference_energy"] = 0.0
    assert left_out(empty).category == "no-atoms"

    nan = labelled("HCl")
    nan.positions[0, 0] = np.nan
    assert left_out(nan).category == "bad-positions"

    periodic = labelled("HCl")
    periodic.cell = [9, 9, 9]
    periodic.pbc = [True, False, False]
    assert left_out(periodic).category == "periodic"

    overlapping = labelled("HCl")
    overlapping.positions[1] = overlapping.positions[0] + 0.05
    assert left_out(overlapping).category == "bad-structure"


def test_charge_contradictions() -> None:
    omission = left_out(labelled("HCl", charge=0, multiplicity=2))
    assert omission.category == "charge"
    assert omission.reason


def test_duplicates_in_any_orientation_and_order(tmp_path: Path) -> None:
    turned = labelled("NH3", -1538.0)
    turned.rotate(77, (1, 2, 3))
    turned.translate((5, -3, 1))
    turned = turned[[2, 0, 3, 1]]
    write_frames(tmp_path / "a.xyz", good())
    write_frames(tmp_path / "b.xyz", [turned])
    dataset = read_dataset([tmp_path / "a.xyz", tmp_path / "b.xyz"])
    assert len(dataset) == 3
    (omission,) = dataset.omitted
    assert omission == Omission(
        index=3,
        name="b-0",
        source="b.xyz#0",
        reason="it is the same structure as a-2 (a.xyz#2)",
        category="duplicate",
    )


def test_conflicting_duplicates_tell_the_difference() -> None:
    omission = left_out(labelled("NH3", -1537.75))
    assert omission.category == "duplicate-conflict"
    assert "reference energy is +0.2500 eV different" in omission.reason


def test_other_states_and_geometries_are_no_duplicates() -> None:
    water, ion = labelled("H2O"), labelled("H2O", charge=2)
    triplet = labelled("H2O", multiplicity=3)
    moved = labelled("H2O")
    moved.positions[0, 2] += 0.002
    assert len(read_dataset([water, ion, triplet, moved])) == 4
    assert len(read_dataset([water, moved], tolerance=0.01)) == 1


def test_single_atoms() -> None:
    frames = []
    for charge in (0, 1, 0):
        atom = Atoms("H", positions=[[charge, 0, 0]])
        atom.info.update(reference_energy=-13.6 * (1 - charge) - 0.001, charge=charge)
        atom.info["multiplicity"] = 2 - charge
        frames.append(atom)
    dataset = read_dataset(frames)
    assert len(dataset) == 2
    assert dataset.omitted[0].category == "duplicate"


def test_unreadable_outputs_are_listed(tmp_path: Path) -> None:
    (tmp_path / "bad.out").write_text("* O   R   C   A *\nnothing here\n")
    (tmp_path / "good.out").write_text(
        "* O   R   C   A *\nCARTESIAN COORDINATES (ANGSTROEM)\n---\n  He 0.0 0.0 0.0\n\n"
        "Number of atoms                             ...      1\n"
        "FINAL SINGLE POINT ENERGY       -2.900000000000\n****ORCA TERMINATED NORMALLY****\n"
    )
    dataset = read_dataset(tmp_path, keys=KeyMap(reference_energy="energy"))
    assert dataset.names == ["good"]
    (omission,) = dataset.omitted
    assert (omission.name, omission.category) == ("bad", "unreadable")
    (tmp_path / "good.out").unlink()
    with pytest.raises(DataError, match="unreadable: 1"):
        read_dataset(tmp_path, keys=KeyMap(reference_energy="energy"))


# ------------------------------------------------------------------------- nothing usable


def test_wrong_key_tells_the_right_ones() -> None:
    frames = [
        labelled("H2O", wb97xd_energy=-2079.0, name="a"),
        labelled("CH4", wb97xd_energy=-1100.0),
    ]
    frames[0].calc = SinglePointCalculator(frames[0], energy=-1.0)
    with pytest.raises(
        DataError,
        match=r"none of the 2 frames has the reference energy 'wb97_energy'.*"
        r"energy, reference_energy, wb97xd_energy.*KeyMap\(reference_energy",
    ):
        read_dataset(frames, keys=KeyMap(reference_energy="wb97_energy"))


def test_nothing_left_lists_the_reasons() -> None:
    with pytest.raises(DataError, match=r"(?s)no frame can be used.*bad-reference: 2.*no-atoms: 1"):
        read_dataset([labelled("H2O", np.nan), labelled("CH4", np.inf), Atoms()])
    with pytest.raises(DataError, match="no frames in the data"):
        read_dataset([])


def test_what_is_no_data() -> None:
    with pytest.raises(DataError, match="there is int among them"):
        read_dataset([1, 2])  # type: ignore[list-item]
    with pytest.raises(DataError, match="no such file"):
        read_dataset("missing.extxyz")
    with pytest.raises(SettingsError, match="tolerance must be at least 0, got -1"):
        read_dataset(good(), tolerance=-1)


# --------------------------------------------------------------------------- the dataset


def test_energies_and_selection() -> None:
    frames = [labelled("H2O", baseline_energy=-157.0), *good()[1:]]
    dataset = read_dataset(frames)
    np.testing.assert_array_equal(dataset.energies("delta"), [-2079.0 + 157.0, np.nan, np.nan])
    assert dataset.select([2, 0]).energies().tolist() == [-1538.0, -2079.0]
    assert dataset.select(np.array([False, True, False])).compositions == ["CH4"]
    assert len(dataset.select([])) == 0
    for wrong in ([3], [0.5], [True], ["a"]):
        with pytest.raises(SettingsError, match=r"mask|indices"):
            dataset.select(wrong)  # type: ignore[arg-type]


def test_summary_and_report() -> None:
    bad = [labelled("HCl", np.nan, name=f"bad{i}") for i in range(4)]
    dataset = read_dataset([*good(), *bad])
    summary = json.loads(json.dumps(dataset.summary()))
    assert summary == {
        "n_frames": 3,
        "n_reference": 3,
        "n_baseline": 0,
        "n_forces": 0,
        "n_compositions": 3,
        "n_atoms": [3, 5],
        "elements": ["H", "C", "N", "O"],
        "charges": [0],
        "n_omitted": 4,
        "omitted": {"bad-reference": 4},
    }
    report = dataset.report_omissions(limit=2)
    assert report.splitlines()[:2] == ["4 of 7 frames left out:", "  bad-reference: 4"]
    assert "bad1 (memory#4): its reference energy is nan" in report
    assert report.endswith("… and 2 more")
    assert LabelledDataset(dataset.frames).report_omissions() == "none of 3 frames left out"


def test_structures_without_labels(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.xyz", [molecule("H2O"), molecule("H2O")])
    frames = read_structures([tmp_path / "a.xyz", molecule("CH4")])
    assert [a.info["name"] for a in frames] == ["a-0", "a-1", "frame-0"]
    assert frames[1].info["source"] == "a.xyz#1"


# ------------------------------------------------------------------------------ real files

SAW = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")


@pytest.mark.parametrize(
    ("name", "count", "forces", "keys"),
    [
        ("saw_monomers", 2, 0, SAW),
        ("saw_equilibrium", 1684, 0, SAW),
        ("saw_4sa5w_equilibrium", 52, 0, SAW),
        ("saw_4sa5w_offequilibrium", 260, 260, SAW),
    ],
)
def test_real_clusters(shared_data: Path, name: str, count: int, forces: int, keys: KeyMap) -> None:
    dataset = read_dataset(shared_data / f"{name}.extxyz.gz", keys=keys)
    assert len(dataset) == count
    assert not dataset.omitted
    assert dataset.has_forces.sum() == forces
    assert np.isfinite(dataset.energies("delta")).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "keys"),
    [
        ("multibase_equilibrium", 14776, SAW),
        ("qm7", 7101, KeyMap(reference_energy="hof_high", baseline_energy="hof_low")),
    ],
)
def test_real_files_with_repeated_structures(
    shared_data: Path, name: str, count: int, keys: KeyMap
) -> None:
    dataset = read_dataset(shared_data / f"{name}.extxyz.gz", keys=keys)
    assert len(dataset) + len(dataset.omitted) == count
    assert len(dataset.omitted) < 40
    assert {o.category for o in dataset.omitted} <= {"duplicate", "duplicate-conflict"}
