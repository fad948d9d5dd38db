"""Molecules by name, of files and of standard input, of a model, and by SMILES."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read
from helpers.commands import knncalc

from ase_knncalc import load_model
from ase_knncalc.data import write_frames
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.sampling import parse_ingredients
from ase_knncalc.sampling.ingredients import ingredient_files
from ase_knncalc.sampling.molecules import composition_of, pack
from ase_knncalc.structure import resolve_charge


def test_names_counts_and_files(tmp_path) -> None:
    write_frames(tmp_path / "ea.xyz", [molecule("CH3CH2NH2")])
    found = parse_ingredients(["sa:2", "am", f"{tmp_path / 'ea.xyz'}:3", "am"])
    assert [(i.name, i.count) for i in found] == [("am", 2), ("ea", 3), ("sa", 2)]
    assert composition_of(found) == "2am3ea2sa"
    assert pack(parse_ingredients(["b:1", "sa:1"]), np.random.default_rng(0)).info["charge"] == -1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["xx:2"], "unknown molecule 'xx': known are am, amp"),
        (["sa:0"], "NAME:COUNT"),
        ([], "no molecules"),
        (["nowhere/x.xyz:1"], "nowhere"),
    ],
)
def test_wrong_molecules(texts, message) -> None:
    with pytest.raises(KNNCalcError, match=message):
        parse_ingredients(texts)


def test_every_molecule_of_a_model_is_known_by_its_name() -> None:
    monomers = load_model("multibase-wb97xd", baseline=None).info.monomers
    for name, record in monomers.items():
        (found,) = parse_ingredients([f"{name}:2"])
        np.testing.assert_array_equal(found.molecule.numbers, record["numbers"])
        assert resolve_charge(found.molecule)[0] == record["charge"]
    (found,) = parse_ingredients(["eda:2"])
    assert (found.name, found.count) == ("eda", 2)
    with pytest.raises(SettingsError, match="unknown molecule 'eda'"):
        parse_ingredients(["eda"], model="saw-wb97xd")


def test_one_of_several_structures(tmp_path) -> None:
    path = tmp_path / "two.xyz"
    anion = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1})
    write_frames(path, [molecule("H2O"), anion])
    first, last = parse_ingredients([f"{path}@0:3", f"{path}@-1"])
    assert (first.name, first.count, first.molecule.symbols.formula.format()) == ("two_-1", 1, "OH")
    assert resolve_charge(first.molecule) == (-1, 1)
    assert (last.name, last.count, len(last.molecule)) == ("two_0", 3, 3)
    assert ingredient_files(["sa:2", f"{path}@0:3", "-:2", "CCO", "C[C@H](N)O"]) == [path]
    with pytest.raises(DataError, match=r"holds 2 structures, .* say which, as in two.xyz@0"):
        parse_ingredients([f"{path}:1"])
    with pytest.raises(DataError, match="there is no frame '2'"):
        parse_ingredients([f"{path}@2:1"])


def test_a_molecule_from_standard_input(tmp_path, monkeypatch) -> None:
    text = '3\ncharge=1 Properties=species:S:1:pos:R:3 multiplicity=1 pbc="F F F"\n'
    text += "H 0 0 0\nH 0 0 0.9\nH 0 0.8 0.45\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    knncalc("sample", "-", "w:2", "-n", 2, "--no-relax", "-q", "-j", 1, "-o", "a.extxyz",
            cwd=tmp_path)  # fmt: skip
    for atoms in read(tmp_path / "a.extxyz", ":"):
        assert (atoms.info["composition"], atoms.info["charge"]) == ("1stdin2w", 1)


def test_smiles() -> None:
    pytest.importorskip("rdkit")
    base, anion = parse_ingredients(["OCC(=O)[O-]:2", "NCCO"])
    assert (base.name, base.count, anion.name, anion.count) == ("NCCO", 1, "OCCOO", 2)
    assert resolve_charge(anion.molecule) == (-1, 1)
    assert anion.molecule.symbols.formula.count() == {"O": 3, "C": 2, "H": 3}
    (radical,) = parse_ingredients(["[CH3]"])
    assert resolve_charge(radical.molecule) == (0, 2)
    (again,) = parse_ingredients(["[CH3]"])
    np.testing.assert_array_equal(again.molecule.positions, radical.molecule.positions)
    with pytest.raises(SettingsError, match="are several molecules"):
        parse_ingredients(["[NH4+].[Cl-]"])


def test_smiles_without_rdkit_say_what_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(SettingsError, match="or SMILES, for which `pip install rdkit` is needed"):
        parse_ingredients(["CCO:1"])
