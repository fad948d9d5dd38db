"""What of a frame's ``info`` survives a file, whatever else is in there."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ase_knncalc.data import iter_frames, write_frames
from ase_knncalc.data.dataset import place_in_file
from ase_knncalc.data.extxyz import parse_comment
from ase_knncalc.errors import DataError

LABELS = {"name": "0012", "reference_energy": -2079.25, "charge": -1, "last": "z"}
FORMATS = [".extxyz", ".traj", ".db"]
EMPTY = ["", " ", "\t", "\u2028", "\x1c", "\x85", "\xa0", "\u3000", np.array([]), None]


def written(path: Path, info: dict[Any, Any]) -> Atoms:
    """A molecule with that ``info``, written and read again."""
    atoms = molecule("H2O")
    atoms.info = info
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_frames(path, [atoms])
    (back,) = iter_frames(path)
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-8)
    assert back.get_chemical_formula() == "H2O"
    assert not back.pbc.any()
    return back


def assert_labels(back: Atoms) -> None:
    for key, value in LABELS.items():
        assert back.info.get(key) == value, key


@pytest.mark.parametrize("value", EMPTY, ids=repr)
def test_an_empty_value_does_not_swallow_the_next(tmp_path: Path, value: object) -> None:
    info = {"name": "w1", "comment": value, "reference_energy": -2079.2, "charge": 0, "end": value}
    back = written(tmp_path / "e.extxyz", info)
    assert back.info == {"name": "w1", "reference_energy": -2079.2, "charge": 0}


_text = st.text(max_size=8) | st.sampled_from(["a= b=c", "_JSON [1", "T", "1e5 x", "C:\\d\\", "x="])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _text | st.binary(max_size=4)
_numpy = st.sampled_from(
    [np.float32(2.5), np.int8(3), np.bool_(True), np.str_("a b"), np.datetime64(9, "D")]
) | arrays.arrays(
    st.sampled_from(["f8", "f4", "i2", "u1", "?", "c16", "U3", "S2", "O"]),
    arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
_values = st.recursive(
    _scalars | _numpy,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)
_keys = (
    st.text(max_size=6)
    | st.integers()
    | st.tuples(st.integers(), st.text(max_size=2))
    | st.none()
    | st.sampled_from(
        [
            "Properties",
            "Lattice",
            "pbc",
            "stress",
            "virial",
            "dipole",
            "energy",
            "free_energy",
            "forces",
            "tags",
            "id",
            "unique_id",
            "H",
            "key value",
            "a=b",
            "__ndarray__",
            "é",
            "uid",
            "reference energy",
            "data",
            "calculator",
            "formula",
            "species",
            "external_tables",
        ]
    )
)


@pytest.mark.parametrize("suffix", FORMATS)
@given(
    st.dictionaries(_keys.filter(lambda k: k not in LABELS), _values, max_size=4),
    st.integers(0, 4),
)
@example({"quoted": ['"\x1f'], "nested": {'a"': "\\"}}, 0)
@example({"dipole": [], "stress": ""}, 0)
@example({"reference energy": 1.0, 3: 2, "Properties": "x"}, 0)
@settings(max_examples=60, deadline=None)
def test_labels_survive_whatever_else_is_in_info(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, other: dict[Any, Any], place: int
) -> None:
    items = list(LABELS.items())
    info = dict([*items[:place], *other.items(), *items[place:]])
    back = written(tmp_path_factory.mktemp("info") / f"one{suffix}", info)
    assert_labels(back)
    assert all(isinstance(key, str) for key in back.info)


@pytest.mark.parametrize("suffix", FORMATS)
def test_plain_values_come_back(tmp_path: Path, suffix: str) -> None:
    info = LABELS | {
        "single": np.float32(2.5),
        "small": np.int8(3),
        "flag": np.bool_(True),
        "words": np.array(["a b", "c"]),
        "é": 1.5,
        3: 4,
        "numbers": np.arange(3.0),
        "grid": [[1, 2], [3, 4]],
        "quotes": ['a "b" = \\', "é\n"],
        "nested": {"a": [np.int64(1), (2, 3)]},
    }
    back = written(tmp_path / f"a{suffix}", info).info
    assert (back["single"], back["small"], back["flag"], back["é"]) == (2.5, 3, True, 1.5)
    assert list(back["words"]) == ["a b", "c"]
    assert back["quotes"] == info["quotes"]
    assert back["3"] == 4
    np.testing.assert_array_equal(back["numbers"], np.arange(3.0))
    np.testing.assert_array_equal(back["grid"], [[1, 2], [3, 4]])
    assert back["nested"] == {"a": [1, [2, 3]]}


def test_numbers_in_a_database_can_be_searched(tmp_path: Path) -> None:
    from ase.db import connect

    written(tmp_path / "a.db", LABELS | {"x": np.float32(2.5), "é": 1.5, "tags": 1, "big": 10**400})
    with connect(tmp_path / "a.db") as database:
        (row,) = database.select("x>2")
        assert set(row.key_value_pairs) == {"x", "reference_energy", "charge"}


def test_what_is_left_out_or_renamed_is_told_once(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = LABELS | {
        "Properties": "x",
        "my key": 1,
        "other\nkey": 2,
        "other_key": 3,
        "stress": 4,
    }
    with pytest.warns(UserWarning, match=r"a\.extxyz: of the frames' info") as caught:
        write_frames(tmp_path / "a.extxyz", [atoms, atoms])
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "'Properties' is left out" in message
    assert "'stress' is left out" in message
    assert "'my key' is written as 'my_key'" in message
    assert "'other\\nkey' is left out: 'other_key' is another key" in message
    back = list(iter_frames(tmp_path / "a.extxyz"))[1]
    assert_labels(back)
    assert (back.info["my_key"], back.info["other_key"]) == (1, 3)
    assert atoms.info["Properties"] == "x"  # the user's own stays as it is


def test_ordinary_info_is_written_without_a_word(tmp_path: Path) -> None:
    for suffix in (*FORMATS, ".csv"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)  # of ASE, with numpy 2.5
            atoms = molecule("H2O")
            atoms.info = LABELS | {"citation": "A = (b)", "note": None, "empty": "", 3: 1.5}
            write_frames(tmp_path / f"a{suffix}", [atoms])


@pytest.mark.parametrize("value", [np.arange(6.0), list(range(9)), np.eye(3)], ids=str)
def test_stress_comes_back(tmp_path: Path, value: Any) -> None:
    back = written(tmp_path / "a.extxyz", LABELS | {"stress": value})
    expected = np.reshape(value, (3, 3)) if np.size(value) == 9 else None
    stress = back.calc.results["stress"]
    if expected is None:
        np.testing.assert_array_equal(stress, value)
    else:
        np.testing.assert_array_equal(stress[:3], np.diag(expected))


def test_odd_keys_in_a_table(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = LABELS | {3: 1, (1, 2): "x", "formula": "no", "single": np.float32(0.5)}
    with pytest.warns(UserWarning, match="'formula' is left out"):
        write_frames(tmp_path / "a.csv", [atoms])
    with open(tmp_path / "a.csv", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert (row["formula"], row["3"], row["(1,_2)"], row["single"]) == ("H2O", "1", "x", "0.5")


@pytest.mark.parametrize("suffix", [*FORMATS, ".csv"])
def test_what_cannot_be_written_is_one_error_and_the_old_file_stays(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    good, bad = molecule("H2O"), molecule("H2O")

    class Broken(Atoms):
        def copy(self) -> Atoms:
            raise AttributeError("no such thing")

    with pytest.raises(DataError, match=r"frame 1 cannot be written: no such thing"):
        write_frames(path, [good, Broken(bad)])
    assert path.read_bytes() == b"old"


def test_columns_that_would_break_the_comment_line_are_an_error(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = dict(LABELS)
    atoms.new_array("my forces", np.zeros((3, 3)))
    with pytest.raises(DataError, match="frame 0 cannot be written: its labels would not be read"):
        write_frames(tmp_path / "a.extxyz", [atoms])


def test_two_energies_of_one_name_are_an_error(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info["energy"] = -1.0
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    with pytest.raises(DataError, match="frame 0 cannot be written"):
        write_frames(tmp_path / "a.extxyz", [atoms])


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("name=w comment= reference_energy=-2.5 charge=1", {"reference_energy": -2.5, "charge": 1}),
        ("a= b= reference_energy=-2.5", {"reference_energy": -2.5}),
        ("smiles=C=O charge=1", {"smiles": "C=O", "C": None, "charge": 1}),
        ('note="a= b=c" reference_energy = -2.5', {"note": "a= b=c", "reference_energy": -2.5}),
        # The value of the charge is not missing without a sign.
        ("charge= reference_energy=-2.5", {"charge": "reference_energy=-2.5"}),
    ],
)
def test_labels_behind_an_empty_value_in_foreign_files_are_read(
    comment: str, expected: dict[str, object]
) -> None:
    info = parse_comment(comment)
    assert {key: info.get(key) for key in expected} == expected


@pytest.mark.parametrize("value", ["conf-3", None, float("nan"), 1.5, [1], np.array([1, 2]), {}])
def test_an_index_of_another_kind_is_the_place_in_the_sequence(value: object) -> None:
    assert place_in_file(Atoms("H", info={"index": value}), 4) == 4
    assert place_in_file(Atoms("H"), 4) == 4
    assert place_in_file(Atoms("H", info={"index": np.int32(7)}), 4) == 7
