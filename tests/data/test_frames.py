"""Reading and writing files of frames."""

from __future__ import annotations

import csv
import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.units import Bohr, Hartree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ase_knncalc.data import KeyMap, iter_frames, write_frames
from ase_knncalc.data.extxyz import iter_extxyz, parse_comment
from ase_knncalc.errors import DataError, SettingsError

ORCA = """
                                 * O   R   C   A *
---------------------------------
CARTESIAN COORDINATES (ANGSTROEM)
---------------------------------
  O      0.000000    0.000000    0.100000
  H      0.000000    0.000000    1.060000

Number of atoms                             ...      2
 Total Charge           Charge          ....   -1
 Multiplicity           Mult            ....    1
FINAL SINGLE POINT ENERGY       -75.500000000000
------------------
CARTESIAN GRADIENT
------------------

   1   O   :    0.000000000    0.000000000    0.010000000
   2   H   :    0.000000000    0.000000000   -0.010000000

                             ****ORCA TERMINATED NORMALLY****
"""

GAUSSIAN = """ Entering Gaussian System, Link 0=g16
 Charge = -1 Multiplicity = 1
                         Standard orientation:
 ---------------------------------------------------------------------
 Center     Atomic      Atomic             Coordinates (Angstroms)
 Number     Number       Type             X           Y           Z
 ---------------------------------------------------------------------
      1          8           0        0.000000    0.000000    0.100000
      2          1           0        0.000000    0.000000    1.060000
 ---------------------------------------------------------------------
 SCF Done:  E(RwB97XD) =  -75.6000000000     A.U. after   10 cycles
 Normal termination of Gaussian 16 at Mon Jan  1 00:00:00 2024.
"""


def labelled(n: int = 5) -> list[Atoms]:
    frames = []
    for i in range(n):
        atoms = molecule(["H2O", "CH4", "NH3"][i % 3])
        atoms.positions += 0.01 * i
        atoms.info.update(name=f"{i:04d}", reference_energy=-100.125 - i / 7)
        atoms.new_array("reference_forces", np.full((len(atoms), 3), i / 8))
        frames.append(atoms)
    return frames


@pytest.fixture
def xyz(tmp_path: Path) -> Path:
    path = tmp_path / "five.extxyz.gz"
    write_frames(path, labelled())
    return path


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (":", [0, 1, 2, 3, 4]),
        (0, [0]),
        (-1, [4]),
        ("-2", [3]),
        ("1:4:2", [1, 3]),
        ("-2:", [3, 4]),
        (slice(None, None, -2), [4, 2, 0]),
        ("::-1", [4, 3, 2, 1, 0]),
    ],
)
@pytest.mark.parametrize("suffix", [".extxyz.gz", ".xyz", ".traj", ".db", ".json"])
def test_index_means_the_same_in_all_formats(
    tmp_path: Path, suffix: str, index: str | int | slice, expected: list[int]
) -> None:
    path = tmp_path / f"five{suffix}"
    frames = labelled()
    if suffix in (".db", ".json"):
        for atoms in frames:
            write(path, atoms, append=True)
    else:
        write_frames(path, frames)
    found = list(iter_frames(path, index))
    for atoms, i in zip(found, expected, strict=True):
        np.testing.assert_array_equal(atoms.numbers, frames[i].numbers)
        np.testing.assert_allclose(atoms.positions, frames[i].positions, atol=1e-8)


def test_index_out_of_range_is_an_error(xyz: Path) -> None:
    with pytest.raises(DataError, match="no frame 7"):
        list(iter_frames(xyz, 7))
    with pytest.raises(DataError, match="no frame '10:'"):
        list(iter_frames(xyz, "10:"))


@pytest.mark.parametrize("index", ["abc", "::0", "1:x"])
def test_bad_index_is_an_error(xyz: Path, index: str) -> None:
    with pytest.raises(SettingsError, match="frame number nor a slice"):
        list(iter_frames(xyz, index))


def test_parsed_as_ase_parses(tmp_path: Path) -> None:
    text = """2
Properties=species:S:1:pos:R:3:wb97xd_forces:R:3:q:R:1 energy_x=-1.5e3 n=3 flag=T pbc="F F F"
H 0 0 0 1 2 3 0.5
O 0 0 .96 4 5 6 -.5
1
Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3:tags:I:1 note="a = b, \\"c\\"" bare
He 1 2 3 7
2
plain comment, no key

h 1.0 2.0 3.0
CL 1.0 2.0 4.5 extra
3
Properties=species:S:1:pos:R:3:forces:R:3:charge:R:1 energy=-5.5 stress="1 0 0 0 1 0 0 0 1"
O 0 0 0 1 2 3 -0.2
H 0 0 1 1 2 3 0.1
H 0 1 0 1 2 3 0.1
2
Properties=species:S:1:pos:R:3:forces:R:3 energy=-5.5 virials=nan v="1 2 3" t='x y'
H 0 0 0 1 2 3
H 0 0 1 1 2 3
""".replace("no key\n\n", "no key\n")
    path = tmp_path / "mixed.xyz"
    path.write_text(text)
    ours = list(iter_frames(path, text_keys=()))
    theirs = read(path, index=":")
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        assert a == b
        assert a.arrays.keys() == b.arrays.keys()
        for key, array in b.arrays.items():
            np.testing.assert_array_equal(a.arrays[key], array)
        assert a.info.keys() == b.info.keys()
        for key, value in b.info.items():
            np.testing.assert_array_equal(a.info[key], value)
        assert (a.calc is None) == (b.calc is None)
        for key, value in getattr(b.calc, "results", {}).items():
            np.testing.assert_array_equal(a.calc.results[key], value)


def test_frames_after_an_empty_line_are_read(tmp_path: Path) -> None:
    path = tmp_path / "gap.xyz"
    path.write_text("1\n\nH 0 0 0\n\n1\n\nHe 0 0 0\n\n\n")
    assert [str(a.symbols) for a in iter_frames(path)] == ["H", "He"]


def test_identifiers_stay_text(tmp_path: Path) -> None:
    line = (
        'name=0001 composition="1e5" source=T citation="(x) \\"y\\" name=z" n=0001 id=007 '
        'pbc="F F F"'
    )
    info = parse_comment(line)
    assert info["name"] == "0001"
    assert info["composition"] == "1e5"
    assert info["source"] == "T"
    assert info["citation"] == '(x) "y" name=z'
    assert info["n"] == 1
    assert parse_comment(line, KeyMap(name="id").text_keys)["id"] == "007"


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1
    )
)
@example("=")
@example("C(=O)[O-]")
@example('a"\\')
@settings(max_examples=60, deadline=None)
def test_any_name_survives_a_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("names") / "one.xyz"
    atoms = Atoms("H")
    atoms.info.update(name=name, reference_energy=-13.5)
    write_frames(path, [atoms])
    (back,) = iter_frames(path)
    assert back.info["name"] == name
    assert back.info["reference_energy"] == -13.5


def test_text_that_would_break_a_line_is_joined(tmp_path: Path) -> None:
    atoms = Atoms("H")
    atoms.info.update(name="a", citation="two\nlines \\ here", nothing=None)
    write_frames(tmp_path / "one.xyz", [atoms])
    (back,) = iter_frames(tmp_path / "one.xyz")
    assert back.info["citation"] == "two lines \\ here"
    assert "nothing" not in back.info


@pytest.mark.parametrize("suffix", [".extxyz", ".xyz", ".extxyz.gz", ".traj"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    frames = labelled()
    write_frames(path, frames)
    back = list(iter_frames(path))
    assert len(back) == len(frames)
    for a, b in zip(frames, back, strict=True):
        np.testing.assert_array_equal(a.numbers, b.numbers)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-8)
        np.testing.assert_allclose(
            a.arrays["reference_forces"], b.arrays["reference_forces"], atol=1e-8
        )
        assert b.info["reference_energy"] == a.info["reference_energy"]
        assert b.info["name"] == a.info["name"]


def test_csv_holds_the_scalars(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.csv", labelled(2))
    with open(tmp_path / "a.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["name"] for r in rows] == ["0000", "0001"]
    assert float(rows[1]["reference_energy"]) == -100.125 - 1 / 7
    assert rows[1]["formula"] == "CH4"
    assert rows[1]["n_atoms"] == "5"


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.extxyz.gz", labelled())
    write_frames(tmp_path / "b.extxyz.gz", labelled())
    assert (tmp_path / "a.extxyz.gz").read_bytes() == (tmp_path / "b.extxyz.gz").read_bytes()


class _Breaks(Atoms):
    def copy(self) -> Atoms:
        raise KeyboardInterrupt


def test_interrupted_write_leaves_the_old_file(xyz: Path) -> None:
    before = xyz.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_frames(xyz, [*labelled(2), _Breaks("H")])
    assert xyz.read_bytes() == before
    assert os.listdir(xyz.parent) == [xyz.name]


def test_write_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frames"):
        write_frames(tmp_path / "a.xyz", [])
    with pytest.raises(DataError, match=r"written as \.extxyz"):
        write_frames(tmp_path / "a.cif", labelled(1))
    with pytest.raises(DataError, match="cannot write"):
        write_frames(tmp_path / "missing" / "a.xyz", labelled(1))


# ------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz.gz", "a.traj", "a.db", "a.pkl", "a.out"])
def test_missing_and_empty_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file"):
        list(iter_frames(tmp_path / name))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name}: the file is empty"):
        list(iter_frames(tmp_path / name))


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.pkl", "a.out", "a.extxyz.gz", "a.xyz", "a"])
def test_rubbish_in_all_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x93rubbish\xff" * 50)
    with pytest.raises(DataError, match=name):
        list(iter_frames(tmp_path / name))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("H 0 0 1", "H 0 0 x", r"frame 1 \(line 5\)"),
        ("H 0 0 1", "Hx 0 0 1", r"frame 1 \(line 5\).*'Hx' is not a chemical symbol"),
        ("H 0 0 1", "H 0 0", r"frame 1 \(line 5\).*less than 4 columns"),
        ("2\nc", "3\nc", r"frame 1 \(line 5\) is cut off.*3 atoms.*after 2"),
        ("2\nc", "two\nc", r"frame 1 \(line 5\).*number of atoms.*'two'"),
        ("2\nc", "-2\nc", r"frame 1 \(line 5\).*number of atoms"),
        ("2\nc", "1\nc", r"frame 2 \(line 8\).*number of atoms.*'H 0 0 1'"),
    ],
)
def test_parse_errors_name_frame_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    good = "2\n\nH 0 0 0\nH 0 0 0.7\n2\nc\nH 0 0 0\nH 0 0 1\n"
    assert good.count(old) == 1
    path = tmp_path / "bad.xyz"
    path.write_text(good.replace(old, new))
    frames = iter_frames(path)
    assert len(next(frames)) == 2
    with pytest.raises(DataError, match=rf"bad\.xyz: {message}"):
        list(frames)


def test_truncated_gzip_names_the_frame(xyz: Path) -> None:
    xyz.write_bytes(xyz.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"five\.extxyz\.gz: .*frame"):
        list(iter_frames(xyz))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_xyz_gives_frames_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.xyz"
    write_frames(path, labelled(2))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        frames = list(iter_frames(path))
    except DataError as e:
        message = str(e)
    else:
        message = "a.xyz"
        assert all(isinstance(a, Atoms) for a in frames)
    assert "a.xyz" in message


def test_reading_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "long.xyz.gz"
    with gzip.open(path, "wt") as handle:
        for i in range(4000):
            handle.write(f"3\nname={i}\nO 0 0 0\nH 0 0 1\nH 0 1 0\n")
    list(iter_frames(path, ":10"))  # imports and caches
    tracemalloc.start()
    count = 0
    for _ in iter_frames(path):
        count += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    # 4000 frames together take more than 5 MB.
    assert peak < 1_000_000


# ----------------------------------------------------------------------------- other formats


def test_database_values_go_to_info(tmp_path: Path) -> None:
    from ase.db import connect

    path = tmp_path / "a.db"
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=np.ones((3, 3)))
    with connect(path) as database:
        database.write(atoms, wb97xd_energy=-2000.5, name="w1", data={"gfn1_forces": np.eye(3)})
    (back,) = iter_frames(path)
    assert back.info["wb97xd_energy"] == -2000.5
    keys = KeyMap(reference_energy="energy", baseline_energy="gfn1_energy")
    assert keys.energy(back, "reference") == -3.5
    np.testing.assert_array_equal(keys.forces(back, "reference"), np.ones((3, 3)))
    np.testing.assert_array_equal(keys.forces(back, "baseline"), np.eye(3))


def test_folder_of_outputs(tmp_path: Path) -> None:
    (tmp_path / "b.log").write_text(GAUSSIAN)
    (tmp_path / "a.out").write_text(ORCA)
    (tmp_path / "notes.txt").write_text("not an output")
    orca, gaussian = iter_frames(tmp_path)
    assert orca.info == {"name": "a", "source": "a.out", "charge": -1, "multiplicity": 1}
    assert gaussian.info == {"name": "b", "source": "b.log", "charge": -1, "multiplicity": 1}
    keys = KeyMap(reference_energy="energy")
    assert keys.energy(orca, "reference") == pytest.approx(-75.5 * Hartree)
    assert keys.energy(gaussian, "reference") == pytest.approx(-75.6 * Hartree)
    forces = keys.forces(orca, "reference")
    assert forces is not None
    np.testing.assert_allclose(forces[:, 2], [-0.01 * Hartree / Bohr, 0.01 * Hartree / Bohr])
    assert keys.forces(gaussian, "reference") is None
    assert next(iter_frames(tmp_path / "b.log")).info["charge"] == -1


def test_a_folder_for_each_output(tmp_path: Path) -> None:
    for name, text in (("1sa-0", ORCA), ("1sa-1", GAUSSIAN)):
        (tmp_path / "dft" / name).mkdir(parents=True)
        (tmp_path / "dft" / name / "job.out").write_text(text)
    (tmp_path / "dft" / "single.log").write_text(GAUSSIAN)
    frames = list(iter_frames(tmp_path / "dft"))
    assert [a.info["name"] for a in frames] == ["1sa-0/job", "1sa-1/job", "single"]
    assert [a.info["source"] for a in frames] == ["1sa-0/job.out", "1sa-1/job.out", "single.log"]


def test_unfinished_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.out").write_text(ORCA)
    (tmp_path / "b.out").write_text(ORCA.replace("TERMINATED NORMALLY", "failed"))
    with pytest.raises(DataError, match=r"b\.out: cannot be read"):
        list(iter_frames(tmp_path))
    noted: list[str] = []
    found = list(iter_frames(tmp_path, on_error=lambda path, error: noted.append(path.name)))
    assert len(found) == 1
    assert noted == ["b.out"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no output files"):
        list(iter_frames(tmp_path / "empty"))


# ------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("saw_monomers", 2),
        ("saw_equilibrium", 1684),
        ("saw_4sa5w_equilibrium", 52),
        ("saw_4sa5w_offequilibrium", 260),
        pytest.param("qm7", 7101, marks=pytest.mark.slow),
        pytest.param("multibase_equilibrium", 14776, marks=pytest.mark.slow),
    ],
)
def test_real_files_are_read_whole(shared_data: Path, name: str, count: int) -> None:
    numbers = []
    for number, atoms in iter_extxyz(shared_data / f"{name}.extxyz.gz"):
        numbers.append(number)
        assert isinstance(atoms.info["name"], str)
        assert len(atoms) > 1
    assert numbers == list(range(count))


def test_real_file_as_ase_reads_it(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    packed = shared_data / "saw_4sa5w_offequilibrium.extxyz.gz"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    for a, b in zip(iter_frames(packed, ":40"), read(path, ":40"), strict=True):
        assert a == b
        assert a.info == b.info
        np.testing.assert_array_equal(a.arrays["wb97xd_forces"], b.arrays["wb97xd_forces"])
