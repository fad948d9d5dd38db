"""Which energy of a file is taken, in which unit, and from which line of text."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from ase.units import Hartree, kcal, mol

from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.data.comments import free_comment
from ase_knncalc.data.frames import iter_frames
from ase_knncalc.errors import DataError

AUTO = KeyMap(reference_energy="auto")


def water(shift: float = 0.0, **info):
    atoms = molecule("H2O")
    atoms.positions[1, 1] += shift
    atoms.info.update(info)
    return atoms


def energies(source, keys=AUTO, **options):
    return read_dataset(source, keys=keys, **options).energies()


@pytest.mark.parametrize(
    "key", ["dft_energy", "E", "e_tot", "TotEnergy", "REF_energy", "scf_energy", "reference_energy"]
)
def test_the_one_energy_is_found_by_any_usual_name(key) -> None:
    others = {
        "energy_std": 0.1,
        "zpe": 0.5,
        "binding_energy": -0.3,
        "energy_per_atom": -7.0,
        "baseline_energy": -150.0,
        "gfn1_energy": -151.0,
        "index": 4,
        "homo_energy": -9.0,
    }
    dataset = read_dataset(water(**{key: -2079.0}, **others), keys=AUTO)
    assert dataset.energies().tolist() == [-2079.0]
    assert list(dataset.taken.values()) == [f"{key!r} in eV"]


def test_the_default_name_goes_before_all_others() -> None:
    assert energies(water(reference_energy=-2079.0, other_energy=-2000.0)).tolist() == [-2079.0]


def test_several_energies_that_differ_are_named_and_refused(tmp_path) -> None:
    write(tmp_path / "two.extxyz", water(pbe_energy=-2078.0, mp2_energy=-2077.0))
    with pytest.raises(DataError, match=r"two\.extxyz.*several energies, mp2_energy, pbe_energy"):
        energies(tmp_path / "two.extxyz")
    same = [water(0.01 * i, energy=-2078.0 + i, total_energy=-2078.0 + i) for i in range(3)]
    assert energies(same).tolist() == [-2078.0, -2077.0, -2076.0]


def test_each_file_has_a_key_of_its_own(tmp_path) -> None:
    write(tmp_path / "a.extxyz", water(0.0, my_energy=-2078.0))
    calculated = water(0.02)
    calculated.calc = SinglePointCalculator(calculated, energy=-2077.0, forces=np.ones((3, 3)))
    write(tmp_path / "b.traj", calculated)
    for name, value in (("c.db", -2076.0), ("d.json", -2075.0)):
        with connect(tmp_path / name) as database:
            database.write(water(-2070.0 / 1e3 - value / 1e3), dft_energy=value)
    files = [tmp_path / name for name in ("a.extxyz", "b.traj", "c.db", "d.json")]
    dataset = read_dataset(files, keys=AUTO)
    assert dataset.energies().tolist() == [-2078.0, -2077.0, -2076.0, -2075.0]
    assert dataset.has_forces.tolist() == [False, True, False, False]
    assert {key: taken.split("'")[1] for key, taken in dataset.taken.items()} == {
        "a.extxyz": "my_energy", "b.traj": "energy", "c.db": "dft_energy", "d.json": "dft_energy",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("info", "unit", "expected"),
    [
        ({"energy_hartree": -76.4}, "eV", -76.4 * Hartree),
        ({"E_Ha": -76.4}, "Hartree", -76.4 * Hartree),
        ({"scf_energy_kcal_mol": -47942.0}, "eV", -47942.0 * kcal / mol),
        ({"dft_energy": -76.4, "energy_unit": "Eh"}, "eV", -76.4 * Hartree),
        ({"dft_energy_eV": -2079.0}, "eV", -2079.0),
        ({"dft_energy": -76.4}, "Hartree", -76.4 * Hartree),
    ],
)
def test_units_that_files_say_are_used(info, unit, expected) -> None:
    keys = KeyMap(reference_energy="auto", energy_unit=unit)
    assert energies(water(**info), keys) == pytest.approx([expected])


def test_units_that_contradict_each_other_or_are_none_are_refused() -> None:
    keys = KeyMap(reference_energy="auto", energy_unit="kcal/mol")
    with pytest.raises(DataError, match="in Hartree, as the file says, and not in kcal/mol"):
        energies(water(e_hartree=-76.4), keys)
    with pytest.raises(DataError, match="'furlong' is no unit of energies"):
        energies(water(my_energy=-76.4, energy_unit="furlong"))
    # Forces beside an energy in Hartree are in a unit that nobody said.
    atoms = water(my_energy=-76.4, energy_unit="Hartree")
    atoms.arrays["my_forces"] = np.zeros((3, 3))
    with pytest.raises(Exception, match="unit of the forces 'my_forces' is not said"):
        energies(atoms)


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("        -5.07054444", (-5.07054444, "Hartree")),  # CREST
        ("  -5.07054444   !CONF12", (-5.07054444, "Hartree")),
        (" energy: -5.070544440603 gnorm: 0.000055 xtb: 6.6.1", (-5.070544440603, "Hartree")),
        ("Coordinates from ORCA-job water E -76.322123", (-76.322123, "Hartree")),
        ("SCF done -76.40", (-76.40, "Hartree")),
        ("Energy: -2079.1 eV", (-2079.1, "eV")),
        ("-2079.1", (-2079.1, "eV")),
        ("Energy: -12.0 kcal/mol", (-12.0, "kcal/mol")),
        ("energy: -138.2", (-138.2, "unknown")),
        ("-138.2", None),  # of valence electrons, in eV: no known program writes it alone
        ("3.1415", None),
        ("water, step 12", None),
        ("", None),
    ],
)
def test_energies_in_comment_lines(comment, expected) -> None:
    found = free_comment(comment, [8, 1, 1])
    assert (found.get("energy"), found.get("energy_unit")) == (expected or (None, None))


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("charge -1, mult 2", {"charge": -1, "multiplicity": 2}),
        ("Charge: +1 Multiplicity: 2", {"charge": 1, "multiplicity": 2}),
        ("-1 2", {"charge": -1, "multiplicity": 2}),
        ("hydroxide q=-1", {"charge": -1}),
        ("chrg -2 uhf 0", {"charge": -2, "uhf": 0}),
        ("charge unknown", {"charge": "charge unknown"}),
        ("recharged battery 3", {}),
    ],
)
def test_charges_in_comment_lines(comment, expected) -> None:
    assert free_comment(comment, [8, 1]) == expected


def test_comment_lines_of_a_file(tmp_path) -> None:
    rows = "O 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n"
    rows2, rows3 = rows.replace("0.96", "0.97"), rows.replace("0.96", "0.98")
    (tmp_path / "c.xyz").write_text(
        f"3\n -5.07\n{rows}3\nenergy = -76.4 Hartree\n{rows2}3\ncharge -2 energy: -76.1 Eh\n{rows3}"
    )
    dataset = read_dataset(tmp_path / "c.xyz", keys=KeyMap(reference_energy="energy"))
    assert dataset.energies() == pytest.approx(np.array([-5.07, -76.4, -76.1]) * Hartree)
    assert dataset.charges.tolist() == [0, 0, -2]
    # A unit that is not known is asked for.
    (tmp_path / "d.xyz").write_text(f"3\nenergy: -138.1\n{rows}")
    with pytest.raises(DataError, match=r"unit of 'energy' in its comment line is not said"):
        energies(tmp_path / "d.xyz")
    hartree = KeyMap(reference_energy="energy", energy_unit="kJ/mol")
    assert energies(tmp_path / "d.xyz", hartree) == pytest.approx([-138.1 * 0.0103642697], rel=1e-6)
    # A charge that cannot be read is not one of 0.
    (tmp_path / "e.xyz").write_text(f"3\ncharge negative\n{rows}")
    with pytest.raises(DataError, match="charge negative"):
        read_dataset(tmp_path / "e.xyz", require_reference=False)


def test_comment_lines_without_meaning_stay_as_ase_has_them(tmp_path) -> None:
    (tmp_path / "t.xyz").write_text("1\nhelium atom\nHe 0 0 0\n")
    (atoms,) = iter_frames(tmp_path / "t.xyz")
    assert atoms.info == {"helium": True, "atom": True}


def test_a_json_file_that_is_no_database_is_one_error(tmp_path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"x\.json"):
        list(iter_frames(tmp_path / "x.json"))
    sqlite3.connect(tmp_path / "y.db").close()
    with pytest.raises(DataError, match=r"y\.db"):
        list(iter_frames(tmp_path / "y.db"))
