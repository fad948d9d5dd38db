"""What ACDC reads."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.exploration import Conditions, GibbsTable, acdc_text, write_acdc
from ase_knncalc.exploration.thermo import COLUMNS
from ase_knncalc.sampling.molecules import MOLECULES
from ase_knncalc.thermochemistry import Minimum


def minimum(
    atoms: Atoms, energy: float, name: str, charge: int = 0, mode: float = 200.0
) -> Minimum:
    """A structure with equal modes, as many as it must have."""
    atoms = Atoms(atoms.numbers, atoms.positions, info={"name": name, "charge": charge})
    modes = np.full(3 * len(atoms) - 6, mode)
    return Minimum(atoms, energy, 0.01, modes, 1, charge, 1)


def pair(first: str, second: str) -> Atoms:
    atoms = MOLECULES[first]()
    other = MOLECULES[second]()
    other.positions += [0.0, 0.0, 6.0]
    return atoms + other


@pytest.fixture
def table() -> GibbsTable:
    molecules = {f"1{n}": minimum(MOLECULES[n](), -1.0, n) for n in ("sa", "w", "am")}
    molecules["1amp"] = minimum(MOLECULES["amp"](), -1.0, "amp", 1)
    clusters = [
        (pair("sa", "w"), -2.6, "high", {"1sa": 1, "1w": 1}, 0),
        (pair("sa", "w"), -2.7, "lów", {"1sa": 1, "1w": 1}, 0),
        (pair("w", "w"), -2.2, "ww", {"1w": 2}, 0),
        (pair("amp", "am"), -3.0, "ion", {"1amp": 1, "1am": 1}, 1),
        (molecule("C6H6"), -9.0, "unknown", None, 0),
    ]  # fmt: skip
    return GibbsTable(
        [minimum(a, e, n, q) for a, e, n, _, q in clusters],
        Conditions(temperatures=(200.0, 250.0), pressures=(1e5, 10.0)),
        [parts for *_, parts, _ in clusters],
        molecules,
        [],
    )


def read_as_acdc_does(text: str) -> dict[tuple[tuple[str, int], ...], tuple[float, float]]:
    """By the rules of its Perl program: pressure, temperature, then labels with two values."""
    lines = text.split("\n")
    for line in lines[:2]:
        assert re.fullmatch(r"\s*\d+\.?\d*\s*", line)
    found = {}
    for line in lines[2:]:
        if line.startswith("#") or not line.strip():
            continue
        columns = re.split(r"\b\s+", line.lstrip())
        assert len(columns) == 3
        assert not re.search("[eE]", "".join(columns[1:])), "constants of Fortran have no exponent"
        names = re.split(r"-?\d+", columns[0])[1:]
        counts = [int(n) for n in re.split("[a-zA-Z]+", columns[0])[:-1]]
        key = tuple(sorted(zip(names, counts, strict=True)))
        assert key not in found, "defined twice"
        found[key] = float(columns[1]), float(columns[2])
    return found


def test_enthalpies_and_entropies_of_the_lowest_at_one_atmosphere(table) -> None:
    text = acdc_text(table)
    assert text.splitlines()[:2] == ["101325", "298.15"]
    found = read_as_acdc_does(text)
    ion = ("am", 1), ("p", 1)
    assert set(found) == {(("sa", 1), ("w", 1)), (("w", 2),), (("am", 2), ("p", 1)), ion}
    assert found[ion] == (0.0, 0.0)
    rows = replace(table, conditions=Conditions()).rows()
    assert set(rows[0]) == set(COLUMNS)
    enthalpy, entropy = found[("sa", 1), ("w", 1)]
    assert enthalpy == pytest.approx(rows[1]["binding_enthalpy_kcal_mol"], abs=1e-6)
    assert entropy == pytest.approx(rows[1]["binding_entropy_cal_mol_K"], abs=1e-6)
    gibbs = enthalpy - 298.15 * entropy / 1000
    assert gibbs == pytest.approx(rows[1]["binding_gibbs_kcal_mol"], abs=1e-5)
    assert "same surface" in text
    assert text.isascii()


def test_names_of_acdc(table, tmp_path) -> None:
    names = {"sa": "A", "w": "W", "am": "N", "p": "P"}
    write_acdc(tmp_path / "HS.txt", table, temperature=280.0, names=names)
    text = (tmp_path / "HS.txt").read_text()
    assert text.splitlines()[1] == "280"
    assert set(read_as_acdc_does(text)) == {
        (("A", 1), ("W", 1)), (("W", 2),), (("N", 2), ("P", 1)), (("N", 1), ("P", 1))
    }  # fmt: skip
    for wrong in ("A1", "", "å"):
        with pytest.raises(SettingsError, match="letters only"):
            acdc_text(table, names={"sa": wrong})
    with pytest.raises(SettingsError, match="the same name"):
        acdc_text(table, names={"sa": "w"})


def test_what_has_no_zero_of_energy_is_refused(table) -> None:
    with pytest.raises(DataError, match="no cluster"):
        acdc_text(replace(table, parts=[None] * 5))
    more = table.molecules | {"1dmap": minimum(MOLECULES["dma"](), -1.0, "dmap", 1)}
    more["1dmap"].atoms.append("H")
    cluster = pair("dma", "w")
    cluster.append("H")
    cluster.positions[-1] = [9.0, 0.0, 0.0]
    more["1dmap"] = replace(more["1dmap"], wavenumbers=np.full(27, 200.0))
    two = replace(
        table,
        minima=[*table.minima, minimum(cluster, -3.0, "two", 1)],
        parts=[*table.parts, {"1dmap": 1, "1w": 1}],
        molecules=more,
    )
    with pytest.raises(DataError, match="1amp and 1dmap have several zeros"):
        acdc_text(two)
