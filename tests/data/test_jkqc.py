"""JKQC databases: pickles that must be read and must not be trusted."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.units import Hartree
from helpers.jkqc import PICKLES

from ase_knncalc.data import KeyMap, iter_frames, read_dataset, read_jkqc, read_pair
from ase_knncalc.data.jkqc.unpickle import read_table
from ase_knncalc.errors import DataError


@pytest.fixture(params=PICKLES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "two.pkl"
    path.write_bytes(PICKLES[request.param])
    return path


def test_all_versions_of_pandas(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error
    water, acid = read_jkqc(database)
    assert water.get_chemical_formula() == "H2O"
    np.testing.assert_array_equal(water.positions, [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    np.testing.assert_allclose(
        water.arrays["reference_forces"], np.arange(9.0).reshape(3, 3) / 64 * Hartree, rtol=1e-14
    )
    assert water.info == {
        "name": "1w-0",
        "source": "two.pkl#0",
        "composition": "1w",
        "charge": 0,
        "multiplicity": 1,
        "reference_energy": pytest.approx(-76.5 * Hartree, rel=1e-14),
    }
    assert str(acid.symbols) == "HCl"
    assert acid.info["reference_energy"] == pytest.approx(-460.25 * Hartree, rel=1e-14)
    assert "reference_forces" not in acid.arrays
    assert water.calc is None  # what some of the tables have there is no label of the table
    assert not water.constraints


def test_table_has_all_columns(database: Path) -> None:
    table = read_table(database)
    assert table.n_rows == 2
    assert table.column("log", "electronic_energy") == [-76.5, -460.25]
    assert table.column("log", "time")[1] == 2.0
    assert table.column("log", "no such") == [None, None]
    assert len(table.columns) == 8


def test_read_as_any_other_file(database: Path) -> None:
    assert [a.info["name"] for a in iter_frames(database)] == ["1w-0", "1hcl-1"]
    assert [a.info["name"] for a in iter_frames(database, "::-1")] == ["1hcl-1", "1w-0"]
    # The reader has made eV of it, whatever the unit of other files.
    dataset = read_dataset(database, keys=KeyMap(energy_unit="Hartree", force_unit="Hartree/Bohr"))
    assert dataset.energies()[0] == pytest.approx(-76.5 * Hartree, rel=1e-12)
    assert dataset.has_forces.tolist() == [True, False]


# -------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "rows", "first", "hartree"),
    [
        ("monsDFT", 2, "1w", -76.4096259952),
        ("monsXTB", 2, "1sa", -23.45522190195),
        ("sa-w_DFT", 42, "10w-25", -764.270885),
        ("sa-w_XTB", 42, "10w-25", -57.81789130103),
    ],
)
def test_real_databases(
    shared_data: Path, name: str, rows: int, first: str, hartree: float
) -> None:
    frames = read_jkqc(shared_data / "jkqc" / f"{name}.pkl")
    assert len(frames) == rows
    assert frames[0].info["name"] == first
    assert frames[0].info["reference_energy"] / Hartree == pytest.approx(hartree, abs=1e-6)


def test_real_pair_agrees_with_the_other_file_of_the_same_clusters(shared_data: Path) -> None:
    folder = shared_data / "jkqc"
    found = read_pair(folder / "sa-w_DFT.pkl", folder / "sa-w_XTB.pkl")
    pairs = found.frames
    assert len(pairs) == found.matched == 42
    assert not found.renamed
    known = {
        a.info["name"]: a.info
        for file in ("saw_equilibrium", "saw_4sa5w_equilibrium")
        for a in iter_frames(shared_data / f"{file}.extxyz.gz")
    }
    compared = 0
    for atoms in pairs:
        other = known.get(atoms.info["name"])
        if other is not None:
            compared += 1
            assert atoms.info["reference_energy"] == pytest.approx(other["wb97xd_energy"], abs=1e-6)
            assert atoms.info["baseline_energy"] == pytest.approx(other["gfn1_energy"], abs=1e-6)
            assert atoms.info["composition"] == other["composition"]
    assert compared >= 40
    dataset = read_dataset(pairs, require_baseline=True)
    assert len(dataset) == 42


def test_dlpno_energies_of_the_second_program(shared_data: Path) -> None:
    water = read_jkqc(shared_data / "jkqc" / "monsDFT.pkl")[0]
    assert water.info["out_electronic_energy"] / Hartree == pytest.approx(-76.342127686, abs=1e-8)


def test_thermochemistry_and_dipoles_of_the_logs(shared_data: Path) -> None:
    """Corrections to the energy, as the table beside other data has them."""
    water = read_jkqc(shared_data / "jkqc" / "monsDFT.pkl")[0]
    assert water.info["dipole_debye"] == pytest.approx(2.2146)
    assert water.info["enthalpy_correction"] == pytest.approx(0.69438, abs=1e-5)
    assert water.info["gibbs_correction"] == pytest.approx(0.11168, abs=1e-5)
    bare = read_jkqc(shared_data / "jkqc" / "sa-w_DFT.pkl")[0]
    assert not {"dipole_debye", "gibbs_correction"} & set(bare.info)


# -------------------------------------------------------------------------------------- pairs


class _Writer:
    """Writes small databases by editing one of the tables above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, *edits: tuple[bytes, bytes]) -> Path:
        data = PICKLES["pandas 2, protocol 4"]
        for old, new in edits:
            assert data.count(old) == 1
            assert len(old) == len(new)
            data = data.replace(old, new)
        path = self.folder / f"{name}.pkl"
        path.write_bytes(data)
        return path


@pytest.fixture
def write(tmp_path: Path) -> _Writer:
    return _Writer(tmp_path)


def test_pair_joined_by_name(write: _Writer) -> None:
    low = write("low", (struct.pack("<d", -76.5), struct.pack("<d", -5.75)))
    water, acid = read_pair(write("high"), low).frames
    assert water.info["reference_energy"] == pytest.approx(-76.5 * Hartree)
    assert water.info["baseline_energy"] == pytest.approx(-5.75 * Hartree)
    assert acid.info["baseline_energy"] == pytest.approx(-460.25 * Hartree)
    np.testing.assert_array_equal(water.arrays["baseline_forces"], water.arrays["reference_forces"])


def test_names_do_not_matter_where_geometries_agree(write: _Writer) -> None:
    found = read_pair(write("high"), write("low", (b"1hcl-1", b"1hcl-7")))
    assert [a.info["name"] for a in found.frames] == ["1w-0", "1hcl-1"]
    assert found.renamed == [("1hcl-1", "1hcl-7")]
    assert found.frames[1].info["baseline_energy"] == pytest.approx(-460.25 * Hartree)


def test_other_geometry_is_listed(write: _Writer) -> None:
    moved = (struct.pack("<d", 0.96), struct.pack("<d", 0.97))
    found = read_pair(write("high"), write("low", moved))
    dataset = read_dataset(found.frames)
    assert [a.info["name"] for a in dataset.frames] == ["1hcl-1"]
    (omission,) = dataset.omitted
    assert omission.category == "geometry-mismatch"
    assert "differ by 0.01" in omission.reason
    assert "low.pkl" in omission.reason
    assert found.conflicts == [("1w-0", omission.reason)]


def test_unpaired_clusters_are_listed(write: _Writer) -> None:
    edits = (b"1w-0", b"1w-7"), (struct.pack("<d", 0.96), struct.pack("<d", 0.97))
    found = read_pair(write("high"), write("low", *edits))
    assert (found.high_only, found.low_only, found.matched) == (["1w-0"], ["1w-7"], 1)
    dataset = read_dataset(found.frames, require_baseline=True)
    assert [a.info["name"] for a in dataset.frames] == ["1hcl-1"]
    assert [(o.name, o.category) for o in dataset.omitted] == [
        ("1w-0", "missing-baseline"),
        ("1w-7", "missing-reference"),
    ]


def test_other_table(write: _Writer) -> None:
    path = write("table", (b"file_basename", b"life_basename"))
    with pytest.raises(DataError, match=r"no column \('info', 'file_basename'\).*life_basename"):
        read_jkqc(path)


def test_missing_values(write: _Writer) -> None:
    nan = struct.pack("<d", float("nan"))
    frames = read_jkqc(write("nan", (struct.pack("<d", -76.5), nan)))
    assert "reference_energy" not in frames[0].info
    dataset = read_dataset(frames)
    assert [(o.name, o.category) for o in dataset.omitted] == [("1w-0", "missing-reference")]
