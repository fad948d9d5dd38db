"""What a model has learned beside energies, at the minima of a table; nothing is relaxed anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase import units

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.analysis.learned import LearnedMinimum
from ase_knncalc.analysis.thermochemistry import Minimum
from ase_knncalc.charges import stated_copy
from ase_knncalc.data.own import PREDICTED
from ase_knncalc.exploration.thermo import GibbsTable
from ase_knncalc.heads.dipole import has_dipole
from ase_knncalc.heads.levels import level_of, require_level
from ase_knncalc.heads.prediction import require_thermochemistry
from ase_knncalc.model import KNNModel

COLUMNS = (
    "name", "enthalpy_correction_kcal_mol", "learned_enthalpy_correction_kcal_mol",
    "learned_enthalpy_correction_std_kcal_mol", "gibbs_correction_kcal_mol",
    "learned_gibbs_correction_kcal_mol", "learned_gibbs_correction_std_kcal_mol",
    "binding_gibbs_kcal_mol", "learned_binding_gibbs_kcal_mol",
    "learned_binding_gibbs_std_kcal_mol", "dipole_debye", "dipole_std_debye",
    "polarizability_angstrom3", "polarizability_std_angstrom3",
)  # fmt: skip
"""Of :func:`learned_rows`; differences to levels of theory follow."""


def learned_table(table: GibbsTable, model: KNNModel) -> GibbsTable:
    """The same minima and molecules with learned thermochemistry in the place of vibrations.

    Raises
    ------
    SettingsError
        If the model has not learned any.
    """
    require_thermochemistry(model.heads)
    return replace(
        table,
        minima=[_learned(m, model) for m in table.minima],
        molecules={name: _learned(m, model) for name, m in table.molecules.items()},
    )


def _learned(minimum: Minimum, model: KNNModel) -> LearnedMinimum:
    return LearnedMinimum(
        atoms=minimum.atoms,
        energy=minimum.energy,
        energy_std=minimum.energy_std,
        wavenumbers=np.zeros(0),
        symmetry=minimum.symmetry,
        charge=minimum.charge,
        multiplicity=minimum.multiplicity,
        model=model,
    )


def learned_rows(table: GibbsTable, model: KNNModel) -> list[dict[str, Any]]:
    """Of each minimum at the first condition what vibrations give, and what the model has learned.

    Parameters
    ----------
    table
        With vibrations.
    model
        With thermochemistry; dipoles need its baseline.

    Returns
    -------
    list of dict
        By :data:`COLUMNS`, and ``…_minus_reference_kcal_mol`` of each level of theory; None where
        something is not known.

    Raises
    ------
    SettingsError
        If no thermochemistry was learned, or none at these conditions.
    StructureError
        If none was learned of such a formula.
    BaselineError
        If the baseline fails.
    """
    each = len(table.conditions.temperatures) * len(table.conditions.pressures)
    both = zip(table.rows()[::each], learned_table(table, model).rows()[::each], strict=True)
    first = replace(
        table.conditions,
        temperatures=table.conditions.temperatures[:1],
        pressures=table.conditions.pressures[:1],
    )
    found = []
    for minimum, (vibrating, learned) in zip(table.minima, both, strict=True):
        (state,) = first.of(_learned(minimum, model))
        assert state is not None
        found.append(
            dict.fromkeys(COLUMNS)
            | {
                "name": vibrating["name"],
                "enthalpy_correction_kcal_mol": _correction(vibrating, "enthalpy_eV"),
                "learned_enthalpy_correction_kcal_mol": _correction(learned, "enthalpy_eV"),
                "learned_enthalpy_correction_std_kcal_mol": KCAL_PER_MOL
                * state.enthalpy_correction_std,
                "gibbs_correction_kcal_mol": _correction(vibrating, "gibbs_eV"),
                "learned_gibbs_correction_kcal_mol": _correction(learned, "gibbs_eV"),
                "learned_gibbs_correction_std_kcal_mol": KCAL_PER_MOL * state.gibbs_correction_std,
                "binding_gibbs_kcal_mol": vibrating["binding_gibbs_kcal_mol"],
                "learned_binding_gibbs_kcal_mol": learned["binding_gibbs_kcal_mol"],
                "learned_binding_gibbs_std_kcal_mol": learned["binding_gibbs_std_kcal_mol"],
            }
            | _beside(minimum, model)
        )
    return found


def _correction(row: Mapping[str, Any], key: str) -> float | None:
    return None if row[key] is None else KCAL_PER_MOL * (row[key] - row["energy_eV"])


def _beside(minimum: Minimum, model: KNNModel) -> dict[str, float]:
    """Dipole, polarizability and levels of theory, as far as they are known."""
    state = {"charge": minimum.charge, "multiplicity": minimum.multiplicity}
    row = {}
    if has_dipole(model.heads):
        dipole = model.predict_dipole(minimum.atoms, **state)
        row["dipole_debye"] = dipole.magnitude / units.Debye
        row["dipole_std_debye"] = dipole.std / units.Debye
    others = model.predict_properties(minimum.atoms, **state)
    if others.polarizability is not None:
        row["polarizability_angstrom3"] = others.polarizability.value
        row["polarizability_std_angstrom3"] = others.polarizability.std
    for name, level in others.levels.items():
        row[f"{name}_minus_reference_kcal_mol"] = KCAL_PER_MOL * level.value
        row[f"{name}_minus_reference_std_kcal_mol"] = KCAL_PER_MOL * level.std
    return row


def at_level(table: GibbsTable, model: KNNModel, level: str) -> GibbsTable:
    """Energies at a further level of theory, at the same minima and with the same vibrations.

    Raises
    ------
    SettingsError
        If the model does not know the level.
    FormulaError
        If nothing determines what a formula adds at that level.
    """
    require_level(model.heads, level)
    return replace(
        table,
        minima=[_at_level(m, model, level) for m in table.minima],
        molecules={name: _at_level(m, model, level) for name, m in table.molecules.items()},
    )


def _at_level(minimum: Minimum, model: KNNModel, level: str) -> Minimum:
    atoms = stated_copy(minimum.atoms)
    step = level_of(
        level, model.heads, model.descriptor, (atoms.numbers, atoms.positions, minimum.charge)
    )
    energy, std = minimum.energy + step.energy, math.hypot(minimum.energy_std, step.std)
    # What the structure says of its energy is of the reference; its other numbers stay.
    atoms.info |= {PREDICTED: energy, "energy_std": std, "level": level}
    return replace(minimum, atoms=atoms, energy=energy, energy_std=std)
