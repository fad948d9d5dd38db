"""Harmonic frequencies from a table beside the structures."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from ase.build import molecule

from ase_knncalc.data.properties import FREQUENCIES, add_frequencies, frequencies_of
from ase_knncalc.errors import DataError


def frames(*names):
    found = []
    for name in names:
        atoms = molecule("H2O")
        atoms.info["name"] = name
        found.append(atoms)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_frequencies_are_matched_by_name(tmp_path, packed) -> None:
    text = (
        "name,zpe,frequencies_cm1\n"
        'b,0.5,"-30.5;1600;3700"\n'
        "a,0.5,1595.1 3650 3760\n"
        "c,,\n"
        "unknown,0.1,1;2;3\n"
    )
    path = tmp_path / ("table.csv.gz" if packed else "table.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else b"\xef\xbb\xbf" + text.encode())
    asked = frames("a", "b", "c", "d")
    assert add_frequencies(asked, path) == 2
    np.testing.assert_array_equal(asked[0].info[FREQUENCIES], [1595.1, 3650, 3760])
    np.testing.assert_array_equal(asked[1].info[FREQUENCIES], [-30.5, 1600, 3700])
    assert FREQUENCIES not in asked[2].info
    assert FREQUENCIES not in asked[3].info


def test_a_name_of_several_says_something_only_of_as_many(tmp_path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,frequencies_cm1\na,1\na,2\nb,3\nb,4\n")
    asked = frames("a", "b", "a")
    assert add_frequencies(asked, path) == 2
    assert [a.info.get(FREQUENCIES, [None])[0] for a in asked] == [1, None, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,zpe\na,1\n", "no column 'frequencies_cm1'"),
        ("", "no column 'name'"),
        ("name,frequencies_cm1\na,1;two\n", "line 2: frequencies_cm1 are no numbers"),
        ("name,frequencies_cm1\na,nan\n", "line 2: frequencies_cm1 are not finite"),
        ("name,frequencies_cm1\nz,1\n", "none of the 1 structures"),
        (None, "cannot read"),
    ],
)
def test_tables_that_say_nothing_are_refused(tmp_path, text, message) -> None:
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        add_frequencies(frames("a"), path)


def test_a_packed_table_cut_short_is_refused(tmp_path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"name,frequencies_cm1\n" + b"a,1\n" * 4000)[:40])
    with pytest.raises(DataError, match="cannot read"):
        add_frequencies(frames("a"), path)


@pytest.mark.parametrize("value", ["100;200", [1.0, float("nan")], [[1.0], [2.0, 3.0]], "none"])
def test_frequencies_of_a_frame_that_are_none_are_told(value) -> None:
    (atoms,) = frames("a")
    assert not len(frequencies_of(atoms))
    atoms.info[FREQUENCIES] = 100.0
    assert frequencies_of(atoms).tolist() == [100.0]
    atoms.info[FREQUENCIES] = value
    with pytest.raises(DataError, match=r"a: info.*list of frequencies"):
        frequencies_of(atoms)
