"""Energies of clusters as the Atmospheric Cluster Dynamics Code (ACDC) reads them.

The first line is the pressure (Pa), the second the temperature (K); then a line each of a cluster,
such as ``1sa2am``, with its ΔH (kcal/mol) and ΔS (cal/mol/K) against its molecules. Molecules
themselves are not there: ACDC takes them for zero. Lines with ``#`` are comments.

References
----------
M. J. McGrath, T. Olenius, I. K. Ortega, V. Loukonen, P. Paasonen, T. Kurtén, M. Kulmala,
H. Vehkamäki, Atmos. Chem. Phys. 12, 2345 (2012).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import units

from ase_knncalc._lib.arguments import Positive, checked, instance
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.exploration.thermo import Conditions, GibbsTable
from ase_knncalc.model import KNNModel

ATMOSPHERE = 101325.0


def acdc_text(
    table: GibbsTable, *, temperature: float = 298.15, names: Mapping[str, str] | None = None
) -> str:
    """ΔH and ΔS of the lowest minimum of each cluster at 1 atm.

    Parameters
    ----------
    table
        Its clusters are those whose molecules were recognised.
    temperature
        K.
    names
        What molecules are called in ACDC's input, such as ``{"sa": "A", "am": "N"}``; letters only.
        By default they are called as here. A proton on a molecule is ``p``: ``amp`` is ``1am1p``.

    Raises
    ------
    DataError
        If there is no cluster with all its molecules, or ions of several kinds of one charge, which
        have several zeros.
    SettingsError
        If a name is no word of letters, or two molecules have the same.
    """
    called = _called(names or {}, table)
    conditions, found = _lowest(table, temperature, called)
    lowest = {label: row for label, (row, _) in found.items()}
    ions: dict[int, set[str]] = {1: set(), -1: set()}
    for name in {n for _, i in found.values() for n in table.parts[i] or ()}:
        if table.molecules[name].charge:
            ions[1 if table.molecules[name].charge > 0 else -1].add(name)
    for kinds in ions.values():
        if len(kinds) > 1:
            raise DataError(
                f"clusters with {' and '.join(sorted(kinds))} have several zeros of energy, and "
                "ACDC knows one for each sign of charge: write them to files of their own"
            )
    lines = [
        f"{ATMOSPHERE:.0f}",
        f"{temperature:g}",
        f"# dH (kcal/mol) and dS (cal/mol/K) at {ATMOSPHERE:.0f} Pa and {temperature:g} K against "
        "the molecules at their own minima on the same surface",
        f"# soft modes: {conditions.treatment}, {conditions.lowest:g} cm-1; lowest conformers",
    ]
    # A molecule and its proton are two to ACDC, and have to be told to be the zero.
    lines += [f"{_label({ion: 1}, called, table)}\t0\t0" for ion in sorted(ions[1])]
    for label, row in sorted(lowest.items()):
        std = row["binding_gibbs_std_kcal_mol"]
        known = "" if std is None else f", standard deviation {std:.2f} kcal/mol"
        # No exponents: ACDC makes Fortran constants of the numbers.
        lines.append(f"# {label}: {row['name']}, dG {row['binding_gibbs_kcal_mol']:.2f}{known}")
        numbers = (row["binding_enthalpy_kcal_mol"], row["binding_entropy_cal_mol_K"])
        lines.append("\t".join([label, *(f"{x:.6f}" for x in numbers)]))
    return "\n".join(line.encode("ascii", "replace").decode() for line in lines) + "\n"


def acdc_dipoles_text(
    table: GibbsTable,
    model: KNNModel,
    *,
    temperature: float = 298.15,
    names: Mapping[str, str] | None = None,
) -> str:
    """Dipoles (Debye) and polarizabilities (Å³) of neutral molecules and clusters, learned.

    ACDC wants them for collisions with ions. The first two lines are its dipole locking constants
    of molecules and clusters, here 0, which only its method Su73 reads.

    Parameters
    ----------
    table, temperature, names
        As for :func:`acdc_text`.
    model
        With dipoles and polarizabilities.

    Raises
    ------
    DataError, SettingsError
        As for :func:`acdc_text`; or if the model has not learned one of the two.
    """
    called = _called(names or {}, table)
    found = _lowest(table, temperature, called)[1]
    minima = {_label({name: 1}, called, table): m for name, m in table.molecules.items()}
    minima |= {label: table.minima[i] for label, (_, i) in found.items()}
    lines = ["0", "0"]
    for label, minimum in sorted(minima.items()):
        if minimum.charge:
            continue
        alpha = model.predict_properties(minimum.atoms, charge=0).polarizability
        if alpha is None:
            raise SettingsError(
                f"{label}: the model has not learned polarizabilities of such a formula: "
                "knncalc add-properties --property polarizability"
            )
        dipole = model.predict_dipole(minimum.atoms, charge=0).magnitude / units.Debye
        lines.append(f"{label}\t{dipole:.4f}\t{alpha.value:.4f}")
    return "\n".join(lines) + "\n"


def _lowest(
    table: GibbsTable, temperature: float, called: Mapping[str, str]
) -> tuple[Conditions, dict[str, tuple[dict[str, Any], int]]]:
    """Row and place of the lowest minimum of each cluster whose molecules are known, at 1 atm."""
    instance("table", table, GibbsTable)
    checked("temperature", temperature, Positive)
    conditions = replace(table.conditions, temperatures=(temperature,), pressures=(ATMOSPHERE,))
    lowest: dict[str, tuple[dict[str, Any], int]] = {}
    for i, row in enumerate(replace(table, conditions=conditions).rows()):
        parts = table.parts[i]
        if parts is None or row["binding_gibbs_kcal_mol"] is None:
            continue
        label = _label(parts, called, table)
        if label not in lowest or row["gibbs_eV"] < lowest[label][0]["gibbs_eV"]:
            lowest[label] = row, i
    if not lowest:
        raise DataError(
            "there is no cluster whose molecules are known and at minima: ACDC's energies are "
            "those of binding"
        )
    return conditions, lowest


def write_acdc_dipoles(
    path: str | os.PathLike[str], table: GibbsTable, model: KNNModel, **options: Any
) -> None:
    """:func:`acdc_dipoles_text` in a file; arguments and errors as there."""
    with atomic_write(path, DataError) as handle:
        handle.write(acdc_dipoles_text(table, model, **options).encode("ascii"))


def write_acdc_files(folder: Path, table: GibbsTable, model: KNNModel | None) -> list[str]:
    """``acdc.txt`` at the first temperature; with ``acdc-dipoles.txt`` where the model knows them.

    Returns
    -------
    list of str
        Why there is no such file.
    """
    options: dict[str, Any] = {"temperature": table.conditions.temperatures[0]}
    learned = [] if model is None or model.heads is None else model.heads.names
    name = "acdc.txt"
    try:
        write_acdc(folder / name, table, **options)
        if model is not None and {"dipole", "polarizability"} <= set(learned):
            name = "acdc-dipoles.txt"
            write_acdc_dipoles(folder / name, table, model, **options)
    except KNNCalcError as e:
        return [f"no {name}: {e}"]
    return []


def write_acdc(path: str | os.PathLike[str], table: GibbsTable, **options: Any) -> None:
    """:func:`acdc_text` in a file; arguments and errors as there."""
    with atomic_write(path, DataError) as handle:
        handle.write(acdc_text(table, **options).encode("ascii"))


def _called(names: Mapping[str, str], table: GibbsTable) -> dict[str, str]:
    known = {name.removeprefix("1") for name in table.molecules} | {"p"}
    called = {name: name for name in known} | dict(names)
    for name, text in called.items():
        # What is no word here may still be a molecule and a proton, such as am1p.
        if name in names and not re.fullmatch("[A-Za-z]+", text):
            raise SettingsError(f"{text!r} for {name}: ACDC's names are letters only, as in sa=A")
    used = [text for name, text in called.items() if name in known]
    if len(set(used)) < len(used):
        raise SettingsError(f"two molecules have the same name for ACDC: {', '.join(sorted(used))}")
    return called


def _label(parts: Mapping[str, int], called: Mapping[str, str], table: GibbsTable) -> str:
    counts: dict[str, int] = {}
    for full, n in parts.items():
        name = full.removeprefix("1")
        proton = re.fullmatch(r"(.+?)(?:1?p)", name) if table.molecules[full].charge > 0 else None
        for one in (proton[1], "p") if proton and name not in _given(called) else (name,):
            counts[called.get(one, one)] = counts.get(called.get(one, one), 0) + n
    return "".join(f"{n}{name}" for name, n in counts.items())


def _given(called: Mapping[str, str]) -> set[str]:
    """Molecules that have a name of their own for ACDC."""
    return {name for name, text in called.items() if name != text}
