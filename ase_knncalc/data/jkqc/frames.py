"""JKQC and JKML databases: pickled tables of clusters (``*.pkl``).

Jammy Key for Quantum Chemistry (Kubečka, Besel, Neefjes, Knattrup, Kurtén, Vehkamäki, Elm, ACS
Omega 2023, 8, 45115, doi:10.1021/acsomega.3c07412) collects outputs of Gaussian, ORCA and xTB in a
table with a row a cluster; JKML trains on pairs of them, one of the high and one of the low level.
Read here:

==============================  =====================================  =========================
column                          goes to                                unit in the file
==============================  =====================================  =========================
``info  file_basename``         ``info["name"]``
``info  cluster_type``          ``info["composition"]``
``info  citation``              ``info["citation"]``
``log   electronic_energy``     ``info["reference_energy"]``           Hartree
``out   electronic_energy``     ``info["out_electronic_energy"]``      Hartree
``log   charge, multiplicity``  ``info["charge"]``, ``["multiplicity"]``
``xyz   structure``             the frame                              Å
``extra forces``                ``arrays["reference_forces"]``         Hartree/Å
``log   vibrational_frequenc…`` ``info["frequencies_cm1"]``            cm⁻¹
``log   dipole_moment``         ``info["dipole_debye"]``               Debye
``log   enthalpy_energy``       ``info["enthalpy_correction"]``        Hartree, with the energy
``log   gibbs_free_energy``     ``info["gibbs_correction"]``           Hartree, with the energy
==============================  =====================================  =========================

The frames are in eV and eV/Å. What this package has written (:mod:`ase_knncalc.data.jkqc.columns`)
comes back whole: entries of ``info`` from ``extra``, and predictions as what they are, in a
calculator, and no labels. ``out`` is a second calculation at the same geometry, such as
DLPNO-CCSD(T). Forces are in Hartree/Å because JKQC divides the Hartree/Bohr of its logs by
0.529177, and JKML takes them so. (JKQC's first versions stored ORCA's gradient without the change
of sign; such a file cannot be told from a good one.)
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from ase_knncalc.data.jkqc.columns import WRITTEN_BY
from ase_knncalc.data.jkqc.standins import PickledAtoms, PickledCell
from ase_knncalc.data.jkqc.unpickle import Table, as_array, read_table
from ase_knncalc.data.own import CALCULATOR
from ase_knncalc.data.properties import FREQUENCIES
from ase_knncalc.errors import DataError


def read_jkqc(path: str | os.PathLike[str]) -> list[Atoms]:
    """Frames of a JKQC database, in the order of its rows.

    Neither pandas nor the pickle's own code is run, see :mod:`ase_knncalc.data.jkqc.unpickle`.

    Parameters
    ----------
    path
        Database whose ``log electronic_energy`` becomes the reference.
        Two databases, of a high and a low level, are read with
        :func:`~ase_knncalc.data.pairs.read_pair`.

    Returns
    -------
    list of ase.Atoms
        Energies in eV, forces in eV/Å. A value that the row does not have is left out; a row
        without a structure is a frame without atoms.

    Raises
    ------
    DataError
        The file is missing, damaged, refused or has no structures.
    """
    path = Path(path)
    table = read_table(path)
    for column in (("info", "file_basename"), ("xyz", "structure")):
        if column not in table.columns.keys() | table.unread.keys():
            raise DataError(
                f"{path}: not a JKQC database: it has no column {column}; its columns are "
                + ", ".join(map(str, list(table.columns)[:20]))
            )
    try:
        return [_frame(table, row, path) for row in range(table.n_rows)]
    except ValueError as e:
        raise DataError(f"{path}: damaged JKQC database: {e}") from e


def _frame(table: Table, row: int, path: Path) -> Atoms:
    def cell(group: str, name: str) -> Any:
        return table.column(group, name)[row]

    name = cell("info", "file_basename")
    name = name if isinstance(name, str) else f"{path.stem}-{row}"
    try:
        atoms = _structure(cell("xyz", "structure"))
    except ValueError as e:
        raise ValueError(f"structure of {name!r} (row {row}): {e}") from None
    atoms.info["name"] = name
    atoms.info["source"] = f"{path.name}#{row}"
    for group, column, key in (
        ("info", "cluster_type", "composition"),
        ("info", "citation", "citation"),
    ):
        text = cell(group, column)
        # What JKQC writes where there is nothing to cite would be cited by models of these data.
        if isinstance(text, str) and text and "no need to cite" not in text.lower():
            atoms.info[key] = text
    for key in ("charge", "multiplicity"):
        number = _number(cell("log", key))
        if number is not None and number.is_integer():
            atoms.info[key] = int(number)
    forces = _forces(cell("extra", "forces"), len(atoms), name)
    forces = None if forces is None else forces * units.Hartree
    own = cell("info", "written_by") == WRITTEN_BY
    if own:
        _add_extra(
            atoms, {key: cell("extra", key) for group, key in table.columns if group == "extra"}
        )
    energy = _number(cell("log", "electronic_energy"))
    if own and cell("log", "program") == CALCULATOR:
        known = {"energy": None if energy is None else energy * units.Hartree, "forces": forces}
        atoms.calc = SinglePointCalculator(atoms, **known)
        atoms.calc.name = CALCULATOR
        return atoms
    if energy is not None:
        atoms.info["reference_energy"] = energy * units.Hartree
    energy = _number(cell("out", "electronic_energy"))
    if energy is not None:
        atoms.info["out_electronic_energy"] = energy * units.Hartree
    frequencies = _frequencies(cell("log", "vibrational_frequencies"))
    if frequencies is not None:
        atoms.info[FREQUENCIES] = frequencies
    dipole = _number(cell("log", "dipole_moment"))
    if dipole is not None:
        atoms.info["dipole_debye"] = dipole
    for column, key in (
        ("enthalpy_energy", "enthalpy_correction"),
        ("gibbs_free_energy", "gibbs_correction"),
    ):
        total = _number(cell("log", column))
        if total is not None and "reference_energy" in atoms.info:
            atoms.info[key] = total * units.Hartree - atoms.info["reference_energy"]
    if forces is not None:
        atoms.arrays["reference_forces"] = forces
    return atoms


def _add_extra(atoms: Atoms, extra: dict[str, Any]) -> None:
    """Entries of ``info`` as they were written."""
    for key, value in extra.items():
        if isinstance(value, float) and math.isnan(value):
            continue  # missing; where it is another number, it may be a whole one
        values = value if isinstance(value, list) else [value]
        if key != "forces" and all(isinstance(v, str | int | float) for v in values):
            atoms.info.setdefault(key, value)


def _frequencies(value: Any) -> np.ndarray | None:
    """Frequencies of a row; None where it has none or anything else."""
    if not isinstance(value, (list, np.ndarray)):
        return None
    numbers = [_number(v.item() if isinstance(v, np.generic) else v) for v in value]
    if not numbers or any(n is None for n in numbers):
        return None
    return np.array(numbers, dtype=np.float64)


def _number(value: Any) -> float | None:
    """A number of the table; its missing values are NaN."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
        return None if math.isnan(number) else number
    return None


def _structure(value: Any) -> Atoms:
    if not isinstance(value, PickledAtoms):
        return Atoms()  # a row without a structure: NaN
    arrays = value.item("arrays")
    if not isinstance(arrays, dict):
        raise ValueError("it has no arrays")
    numbers = as_array(arrays.get("numbers"))
    positions = as_array(arrays.get("positions"))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or len(numbers) > 1_000_000:
        raise ValueError("its atomic numbers are no list of integers")
    if positions.shape != (len(numbers), 3) or positions.dtype.kind != "f":
        raise ValueError(f"its positions have shape {positions.shape}")
    if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= 118):
        raise ValueError("its atomic numbers are not those of elements")
    atoms = Atoms(numbers.astype(int), positions.astype(float))
    pbc = as_array(value.item("_pbc"))
    if pbc.shape == (3,) and pbc.any():
        cell = value.item("_cellobj")
        atoms.pbc = pbc.astype(bool)
        atoms.cell = as_array(cell.item("array")) if isinstance(cell, PickledCell) else None
    return atoms


def _forces(value: Any, n_atoms: int, name: str) -> np.ndarray | None:
    """Forces from a list of rows or a matrix; None for NaN, the table's missing value."""
    if value is None or isinstance(value, float):
        return None
    try:
        rows = value if isinstance(value, list) else as_array(value)
        forces = np.empty((n_atoms, 3))
        if len(rows) != n_atoms:
            raise ValueError(f"{len(rows)} forces on {n_atoms} atoms")
        for i, row in enumerate(rows):
            vector = row if isinstance(row, (list, tuple, np.ndarray)) else as_array(row)
            if len(vector) != 3:
                raise ValueError("forces do not have three components")
            forces[i] = [float(component) for component in vector]
    except (TypeError, ValueError, OverflowError) as e:
        raise ValueError(f"forces of {name!r}: {e}") from None
    return forces
