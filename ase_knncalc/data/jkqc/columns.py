"""Frames as a table with the columns that JKQC has, so that JKQC and JKML read it.

==========================================  ======================================================
column                                      what of the frame, and in which unit
==========================================  ======================================================
``info  file_basename``                     ``info["name"]``
``info  cluster_type, components, …``       ``info["composition"]``, such as ``1sa2am``
``log   program, method``                   ``knncalc`` and the model, for what was predicted
``log   electronic_energy``                 the energy that it brings (Hartree)
``log   *_energy, *_correction``            enthalpy, Gibbs and zero-point energy (Hartree)
``log   entropy``                           cal/mol/K
``log   temperature, pressure``             K and atm
``log   vibrational_frequencies``           cm⁻¹
``log   rotational_constants``              of the geometry, GHz
``extra forces``                            Hartree/Å
``extra …``                                 every other number and text of ``info``, as it is there
==========================================  ======================================================

JKQC's ``-extra novelty`` prints such a column. Its quasi-harmonic corrections (``-fc``) are on top
of what stands here: compute harmonic entropies (``--treatment harmonic``) where they are wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.data.jkqc.pickled import pickled_table
from ase_knncalc.data.own import CALCULATOR, PREDICTED, own_prediction
from ase_knncalc.data.properties import FREQUENCIES

WRITTEN_BY = "ase_knncalc"
"""In ``info written_by``: columns of ``extra`` are entries of a frame's ``info``."""

_ATMOSPHERE = 101325.0

# GHz amu Å²: rotational constant times moment of inertia.
_ROTATION = units._hplanck / (8 * np.pi**2 * units._amu * 1e-20) * 1e-9

_COLUMNS_OF = ("name", "composition", "charge", "multiplicity", "citation", "source")

# Energies of info beside the electronic one, eV, and what JKQC calls them.
_ENERGIES = {"enthalpy_eV": "enthalpy", "gibbs_eV": "gibbs_free", "zero_point_eV": "zero_point"}

Row = dict[tuple[str, str], Any]


def fits_jkqc(key: str, value: Any) -> bool:
    """Whether a column can hold it: numbers, texts, and lists of numbers."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, str | int | float) for v in values)


def write_jkqc(path: Path, frames: Iterable[Atoms]) -> None:
    """A pickled table that JKQC 2 reads, as does every pandas from 1.0 on."""
    rows = [_row(atoms, place) for place, atoms in enumerate(frames)]
    columns = {column for row in rows for column in row}
    path.write_bytes(pickled_table({c: [row.get(c) for row in rows] for c in columns}))


def _row(atoms: Atoms, place: int) -> Row:
    info = atoms.info
    row: Row = {
        ("info", "folder_path"): "./",
        ("info", "file_basename"): str(info.get("name", f"structure-{place}")),
        ("info", "written_by"): WRITTEN_BY,
        ("xyz", "structure"): Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc),
        ("log", "NAtoms"): len(atoms),
        ("log", "termination"): 1,
    }
    row |= {("info", k): info[k] for k in ("citation",) if k in info}
    row |= {("log", k): info[k] for k in ("charge", "multiplicity") if k in info}
    row |= _components(str(info.get("composition", "")))
    row |= _electronic(atoms)
    row |= _thermal(info, row.get(("log", "electronic_energy")))
    row |= _rotation(atoms)
    for key, value in info.items():
        if key not in _COLUMNS_OF:
            row["extra", key] = value.tolist() if isinstance(value, np.ndarray) else value
    return row


def _components(composition: str) -> Row:
    if not composition:
        return {}
    row: Row = {("info", "cluster_type"): composition}
    if re.fullmatch(r"(?:\d+[A-Za-z_]+)+", composition):
        parts = re.findall(r"(\d+)([A-Za-z_]+)", composition)
        row["info", "components"] = [name for _, name in parts]
        row["info", "component_ratio"] = [int(n) for n, _ in parts]
    return row


def _electronic(atoms: Atoms) -> Row:
    """Energy and forces, and which program they are of if they were predicted here."""
    results = getattr(atoms.calc, "results", {})
    key, energy = "energy", results.get("energy")
    if energy is None:
        key = next((k for k in (PREDICTED, "reference_energy", "energy") if k in atoms.info), key)
        energy = atoms.info.get(key)
    row: Row = {}
    if energy is not None:
        own = own_prediction(atoms, key, float(energy))
        row["log", "electronic_energy"] = float(energy) / units.Hartree
        row["log", "program"] = CALCULATOR if own else getattr(atoms.calc, "name", None)
        row["log", "method"] = atoms.info.get("predicted_by")
    forces = results.get("forces", atoms.arrays.get("reference_forces"))
    if forces is not None:
        row["extra", "forces"] = list(np.asarray(forces, dtype=float) / units.Hartree)
    return row


def _thermal(info: dict[str, Any], electronic: float | None) -> Row:
    row: Row = {}
    if "entropy_eV_K" in info:
        row["log", "entropy"] = 1000.0 * KCAL_PER_MOL * info["entropy_eV_K"]
    if "temperature_K" in info:
        row["log", "temperature"] = float(info["temperature_K"])
    if "pressure_Pa" in info:
        row["log", "pressure"] = info["pressure_Pa"] / _ATMOSPHERE
    if "symmetry" in info:
        row["log", "rotational_symmetry_number"] = float(info["symmetry"])
    for key, column in (
        ("wavenumbers_cm1", "vibrational_frequencies"), (FREQUENCIES, "vibrational_frequencies"),
    ):  # fmt: skip
        if key in info:
            row["log", column] = [float(x) for x in info[key]]
    for key, column in (("dipole_debye", "dipole_moment"),
                        ("polarizability_angstrom3", "polarizability")):  # fmt: skip
        if key in info:
            row["log", column] = float(info[key])
    if electronic is None:
        return row
    for key, name in _ENERGIES.items():
        if key not in info:
            continue
        value = info[key] / units.Hartree
        if name == "zero_point":
            row["log", "zero_point_correction"] = value
            row["log", "zero_point_energy"] = electronic + value
        else:
            row["log", f"{name}_energy"] = value
            row["log", f"{name}_{'energy_' * (name == 'gibbs_free')}thermal_correction"] = (
                value - electronic
            )
    if "enthalpy_eV" in info and "temperature_K" in info:
        internal = (info["enthalpy_eV"] - units.kB * info["temperature_K"]) / units.Hartree
        row["log", "internal_energy"] = internal
        row["log", "energy_thermal_correction"] = internal - electronic
    return row


def _rotation(atoms: Atoms) -> Row:
    if len(atoms) < 2:
        return {}
    moments = Atoms(atoms.numbers, atoms.positions).get_moments_of_inertia()
    if moments.min() < 1e-3:  # a row of atoms
        return {}
    constants = _ROTATION / moments
    return {
        ("log", "rotational_constants"): constants.tolist(),
        ("log", "rotational_constant"): float(np.linalg.norm(constants)),
    }
