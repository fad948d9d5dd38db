"""Databases for JKQC: what every pandas reads, and what comes back."""

from __future__ import annotations

import pickletools
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_knncalc.data import read_dataset, read_jkqc, write_frames
from ase_knncalc.data.jkqc.pickled import pickled_table
from ase_knncalc.data.jkqc.unpickle import read_table
from ase_knncalc.data.own import CALCULATOR
from ase_knncalc.errors import DataError


def predicted(name: str, energy: float):  # type: ignore[no-untyped-def]
    """A minimum as relax and thermo leave it."""
    atoms = molecule("H2O")
    atoms.info.update(
        name=name, composition="1w", charge=0, multiplicity=1, energy_predicted=energy,
        predicted_by="a-model", novelty=0.25, converged=True, wavenumbers_cm1=[1600.5, 3700.0],
        zero_point_eV=0.5, enthalpy_eV=energy + 0.6, entropy_eV_K=0.002, gibbs_eV=energy + 0.1,
        temperature_K=298.15, pressure_Pa=101325.0, symmetry=2,
    )  # fmt: skip
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.full((3, 3), 0.25))
    return atoms


def test_labels_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it is an error
    water, acid = molecule("H2O"), molecule("HCl")
    water.info.update(name="w", composition="1w", charge=0, reference_energy=-2079.25,
                      baseline_energy=-150.5, citation="somebody, ü")  # fmt: skip
    water.arrays["reference_forces"] = np.arange(9.0).reshape(3, 3)
    acid.info.update(name="hcl", charge=0, multiplicity=1, whole=2**40, list=[1.5, 2.0])
    acid.pbc, acid.cell = True, [9.0, 9.0, 9.0]
    write_frames(tmp_path / "a.pkl", [water, acid])
    one, two = read_jkqc(tmp_path / "a.pkl")
    assert one.info == {**water.info, "source": "a.pkl#0",
                        "reference_energy": pytest.approx(-2079.25, rel=1e-15)}  # fmt: skip
    np.testing.assert_array_equal(one.positions, water.positions)
    np.testing.assert_allclose(one.arrays["reference_forces"], water.arrays["reference_forces"])
    assert two.info == {**acid.info, "source": "a.pkl#1"}
    assert two.pbc.all()
    np.testing.assert_array_equal(two.cell.lengths(), 9.0)
    assert one.calc is None
    dataset = read_dataset(tmp_path / "a.pkl")
    assert [a.info["name"] for a in dataset.frames] == ["w"]
    # Of four figures as JKQC's own logs have them.
    row = read_table(tmp_path / "a.pkl")
    assert row.column("info", "components")[0] == ["w"]
    assert row.column("info", "component_ratio")[0] == [1]
    a, b, c = row.column("log", "rotational_constants")[0]
    assert (round(a), round(b), round(c)) == (794, 430, 279)


def test_predictions_stay_predictions(tmp_path: Path) -> None:
    """JKQC finds them where it looks; read here, they are no labels."""
    frames = [predicted("a", -2079.0), predicted("b", -2078.5)]
    write_frames(tmp_path / "a.pkl", frames)
    table = read_table(tmp_path / "a.pkl")
    found = {name: table.column("log", name)[0] for _, name in table.columns if _ == "log"}
    hartree = units.Hartree
    assert found["program"] == CALCULATOR
    assert found["method"] == "a-model"
    assert found["electronic_energy"] == pytest.approx(-2079.0 / hartree)
    assert found["zero_point_energy"] == pytest.approx(-2078.5 / hartree)
    assert found["enthalpy_energy"] == pytest.approx(-2078.4 / hartree)
    assert found["gibbs_free_energy"] == pytest.approx(-2078.9 / hartree)
    assert found["gibbs_free_energy_thermal_correction"] == pytest.approx(0.1 / hartree)
    assert found["enthalpy_thermal_correction"] == pytest.approx(0.6 / hartree)
    assert found["internal_energy"] == pytest.approx((-2078.4 - units.kB * 298.15) / hartree)
    # cal/mol/K, from eV/K over kcal/mol and eV.
    assert found["entropy"] == pytest.approx(2.0 * units.mol / units.kcal)
    assert found["pressure"] == 1.0
    assert found["vibrational_frequencies"] == [1600.5, 3700.0]
    assert found["rotational_symmetry_number"] == 2.0
    again = read_jkqc(tmp_path / "a.pkl")
    for atoms, back in zip(frames, again, strict=True):
        assert {**back.info, "source": None} == {**atoms.info, "source": None}
        assert back.calc.name == CALCULATOR
        assert back.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(back.get_forces(), 0.25)
    with pytest.raises(DataError, match="predicted"):
        read_dataset(tmp_path / "a.pkl")
    write_frames(tmp_path / "b.pkl", again)
    assert read_table(tmp_path / "b.pkl").columns.keys() == table.columns.keys()


def test_a_file_names_what_pandas_has_had_since_the_first(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.pkl", [predicted("a", -1.0)])
    named = {a for op, a, _ in pickletools.genops((tmp_path / "a.pkl").read_bytes())
             if op.name == "GLOBAL"}  # fmt: skip
    assert named == {
        "ase.atoms Atoms", "ase.cell Cell", "numpy dtype", "numpy ndarray",
        "numpy.core.multiarray _reconstruct", "pandas.core.frame DataFrame",
        "pandas.core.indexes.base Index", "pandas.core.indexes.base _new_Index",
        "pandas.core.indexes.multi MultiIndex", "pandas.core.indexes.range RangeIndex",
        "pandas.core.internals.managers BlockManager",
    }  # fmt: skip


def test_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    first = predicted("a", -2079.0)
    del first.info["enthalpy_eV"]
    write_frames(tmp_path / "a.pkl", [first, predicted("b", -2078.5)])
    found = pandas.read_pickle(tmp_path / "a.pkl")
    assert found["info"]["file_basename"].tolist() == ["a", "b"]
    energies = found["log", "electronic_energy"]
    assert energies.dtype == float
    assert energies.idxmin() == 0
    assert found["log", "NAtoms"].tolist() == [3, 3]
    assert found["log", "enthalpy_energy"].isna().tolist() == [True, False]
    structure = found.loc[1, ("xyz", "structure")]
    np.testing.assert_array_equal(structure.positions, first.positions)
    assert structure.copy() == structure
    found.loc[0, ("log", "gibbs_free_energy")] = 1.0
    chosen = found.sort_values(("log", "electronic_energy"), ascending=False).reset_index(drop=True)
    chosen.to_pickle(tmp_path / "b.pkl", protocol=4)
    assert [a.info["name"] for a in read_jkqc(tmp_path / "b.pkl")] == ["b", "a"]


def test_what_no_column_holds_is_told(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info.update(name="w", reference_energy=-1.0, table={"a": 1}, nested=[[1.0]])
    with pytest.warns(UserWarning, match=r"'table' is left out.*; 'nested' is left out"):
        write_frames(tmp_path / "a.pkl", [atoms])
    assert "table" not in read_jkqc(tmp_path / "a.pkl")[0].info
    with pytest.raises(TypeError, match="holds no complex"):
        pickled_table({("a", "b"): [1j]})
