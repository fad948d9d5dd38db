"""Texts as editors and other programs write them; molecules in boxes."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ase_knncalc.data import KeyMap, iter_frames, read_dataset, read_structures
from ase_knncalc.errors import DataError

TEXT = "3\nname=wäter energy=-1.5\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", ["xyz", "extxyz.gz"])
def test_what_editors_write_is_read(tmp_path, encoding, end, suffix) -> None:
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    raw = mark + (TEXT + "\n" + TEXT).replace("\n", end).encode(encoding)
    (tmp_path / f"a.{suffix}").write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    frames = list(iter_frames(tmp_path / f"a.{suffix}"))
    assert [a.info["name"] for a in frames] == ["wäter", "wäter"]
    assert [a.get_potential_energy() for a in frames] == [-1.5, -1.5]
    np.testing.assert_allclose(frames[1].positions[2], [0.93, 0, -0.24])


def test_another_encoding_is_told(tmp_path) -> None:
    (tmp_path / "a.xyz").write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.xyz: frame 0 .* no UTF-8 text.*iconv"):
        list(iter_frames(tmp_path / "a.xyz"))


def test_an_output_in_utf16_is_read(tmp_path) -> None:
    # As PowerShell redirects what a program prints.
    text = (
        "* O   R   C   A *\nCARTESIAN COORDINATES (ANGSTROEM)\n---\n  He   0.000  0.000  0.000\n\n"
        "FINAL SINGLE POINT ENERGY       -2.900000000000\n****ORCA TERMINATED NORMALLY****\n"
    )
    (tmp_path / "a.out").write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    (atoms,) = iter_frames(tmp_path / "a.out")
    assert atoms.get_potential_energy() == pytest.approx(-2.9 * 27.211386, rel=1e-6)


def test_allxyz(tmp_path) -> None:
    rows = "O 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n"
    text = f"3\nCoordinates from ORCA-job a E -76.1\n{rows}>\n3\nScan Step 2 E -76.2\n{rows}"
    (tmp_path / "scan.allxyz").write_text(text)
    frames = list(iter_frames(tmp_path / "scan.allxyz"))
    assert [a.info["energy"] for a in frames] == [-76.1, -76.2]


def test_empty_boxes_are_molecules_if_told() -> None:
    boxed = molecule("H2O", vacuum=5.0, pbc=True, info={"reference_energy": -2079.0})
    cut = boxed.copy()
    cut.positions += [0.0, -5.5, 0.0]
    cut.wrap()
    chain = Atoms("C2", [[0, 0, 0], [0, 0, 1.5]], cell=[9, 9, 3.0], pbc=True)
    nowhere = molecule("NH3", pbc=True, info={"reference_energy": -1500.0})
    with pytest.raises(DataError, match="--ignore-cell"):
        read_dataset(boxed)
    keys = KeyMap(ignore_cell=True)
    dataset = read_dataset([boxed, cut, chain, nowhere], keys=keys, require_reference=False)
    assert [a.get_chemical_formula() for a in dataset] == ["H2O", "H3N"]
    assert [o.category for o in dataset.omitted] == ["periodic", "periodic"]
    assert [bool(a.pbc.any()) for a in read_structures([boxed, cut], keys=keys)] == [False, True]
    assert boxed.pbc.all(), "the structure itself is not touched"
