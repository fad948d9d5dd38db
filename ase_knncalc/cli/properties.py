"""``knncalc add-properties``, and what commands show of properties."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ase.units import Debye as DEBYE

from ase_knncalc.cli.options import (
    EnergyUnit,
    IgnoreCell,
    JobsOption,
    JsonOption,
    PropertyOption,
    PropertyTable,
    QuietOption,
    ReferenceKey,
)
from ase_knncalc.cli.outputs import check_outputs, model_place
from ase_knncalc.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from ase_knncalc.heads import PropertyPrediction
    from ase_knncalc.model import KNNModel


def add_properties(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model file.")],
    data: Annotated[list[Path], typer.Argument(help="Structures with labels: extxyz(.gz), pkl, …")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    properties: PropertyOption = None,
    property_table: PropertyTable = None,
    reference_key: ReferenceKey = "reference_energy",
    energy_unit: EnergyUnit = "eV",
    ignore_cell: IgnoreCell = False,
    jobs: JobsOption = -1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Teach a model further properties; its energies stay as they are.

    Example: knncalc add-properties my.h5 minima.extxyz --property thermochemistry
    --property-table frequencies.csv -o more.h5
    """
    from ase_knncalc.data import KeyMap
    from ase_knncalc.errors import SettingsError
    from ase_knncalc.heads.summary import head_rows
    from ase_knncalc.store import find_model, load_model, save_model
    from ase_knncalc.training import add_properties as run

    if not properties:
        raise SettingsError("no property is named: --property polarizability, --property NAME=KEY")
    inputs = [find_model(model), *data, *([property_table] if property_table else [])]
    check_outputs(inputs, ("--output", output, model_place))
    found = run(
        load_model(model, baseline=None),
        data,
        properties,
        table=property_table,
        keys=KeyMap(
            reference_energy=reference_key, energy_unit=energy_unit, ignore_cell=ignore_cell
        ),
        n_jobs=jobs,
        progress=not quiet,
    )
    save_model(found, output)
    if as_json:
        print_json({"model": str(output), "properties": head_rows(found.heads)})
        return
    show_heads(found)


def show_heads(model: KNNModel) -> None:
    """A table of a model's properties; nothing where it has none."""
    from ase_knncalc.heads.summary import head_rows

    rows = head_rows(model.heads)
    if rows:
        cells = [[f"{v:.3f}" if isinstance(v, float) else v for v in row.values()] for row in rows]
        print_table("Properties; errors of what was left out", list(rows[0]), cells)


def property_row(found: PropertyPrediction) -> dict[str, Any]:
    """Columns of a table for what is known of a structure beside its energy."""
    row: dict[str, Any] = {}
    thermal = found.thermochemistry
    if thermal is not None:
        for name, unit in (
            ("zero_point", "eV"),
            ("enthalpy_correction", "eV"),
            ("entropy", "eV_K"),
            ("gibbs_correction", "eV"),
        ):
            row[f"{name}_{unit}"] = getattr(thermal, name).value
            row[f"{name}_std_{unit}"] = getattr(thermal, name).std
    if found.polarizability is not None:
        row["polarizability_angstrom3"] = found.polarizability.value
        row["polarizability_std_angstrom3"] = found.polarizability.std
    for name, level in found.levels.items():
        row[f"{name}_minus_reference_eV"] = level.value
        row[f"{name}_minus_reference_std_eV"] = level.std
    for name, one in found.scalars.items():
        row[name], row[f"{name}_std"] = one.value, one.std
    novelty = list(found.novelty.values())
    if found.dipole is not None:
        row["dipole_debye"] = found.dipole.magnitude / DEBYE
        row["dipole_std_debye"] = found.dipole.std / DEBYE
        novelty.append(found.dipole.novelty)
    row["property_novelty"] = max(novelty, default=None)
    return row


def print_properties(names: list[str], rows: list[dict[str, Any]]) -> None:
    """A table of :func:`property_row` of structures: each value with its error."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    errors = {key.replace("_std", "", 1): key for key in keys if "_std" in key}
    values = [key for key in keys if key not in errors.values()]

    def shown(row: dict[str, Any], key: str) -> str:
        value, error = row.get(key), row.get(errors.get(key, ""))
        if value is None:
            return "–"
        return f"{value:.5g}" if error is None else f"{value:.5g} ± {error:.2g}"

    lines = [
        [name, *(shown(row, k) for k in values)] for name, row in zip(names, rows, strict=True)
    ]
    print_table("Properties", ["name", *values], lines)
