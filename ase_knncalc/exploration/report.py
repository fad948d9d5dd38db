"""Pages of a campaign and of a grid: structures with pictures, equilibrium, what to compute."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ase import Atoms

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.errors import DataError
from ase_knncalc.evaluation.report.pieces import (
    cell,
    drawable,
    element_styles,
    embedded,
    fill,
    listed,
    row,
    table,
    template,
)
from ase_knncalc.exploration.thermo import Conditions, GibbsTable
from ase_knncalc.store.container import package_versions

if TYPE_CHECKING:
    from ase_knncalc.exploration.campaign import Explored

# kcal/mol: an energy that is less sure than this is worth a calculation.
_UNSURE = 1.0

_MARKS: dict[str, Callable[[Atoms], Any]] = {
    "relaxed to the end": lambda a: a.info["converged"],
    "fell apart": lambda a: a.info["fell_apart"],
    "bonds of heavy atoms made or broken": lambda a: a.info["reacted"],
    "protons moved to another molecule": lambda a: a.info["protons_moved"] > 0,
    "outside of what the model knows": lambda a: a.info["outside"],
}


@dataclass(frozen=True)
class GridEntry:
    """A composition of a grid: its name, which is that of its folder, and what was found."""

    name: str
    found: Explored
    table: GibbsTable


def write_grid_page(
    path: Path,
    title: str,
    model: str,
    entries: Sequence[GridEntry],
    failed: Mapping[str, str],
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Write the page of a grid, whole or not at all.

    Parameters
    ----------
    path, title, model, settings, notes
        As for :func:`write_page`.
    entries
        Of each composition what was found.
    failed
        Why there is nothing of the others.

    Raises
    ------
    DataError
        If the page cannot be written.
    """
    conditions = entries[0].table.conditions
    lines, structures, pictured, averages, compute = [], {}, [], [], []
    for entry in entries:
        frames, first = entry.table.frames(), entry.found.rows[0]
        names = [str(atoms.info["name"]) for atoms in frames]
        lowest = frames[names.index(first["name"])]
        pictured.append(lowest)
        structures[f"found:{entry.name}"] = drawable(lowest, first["name"], _caption(first))
        lines.append(_grid_line(entry, first, lowest))
        averages += entry.table.averages()
        rows = entry.table.rows()[:: len(conditions.temperatures) * len(conditions.pressures)]
        compute += _unsure(rows, frames, names, range(len(rows)))
    lines += [
        f"<tr><td>{html.escape(name)}</td><td colspan='{len(_GRID_COLUMNS) - 1}'>"
        f"{html.escape(reason)}</td></tr>"
        for name, reason in failed.items()
    ]
    _write(
        path, title, model, conditions, settings, [*notes, *_grid_notes(entries)],
        structures, pictured,
        {
            "conformers": table(_GRID_COLUMNS, lines, "sortable"),
            "averages": _averages(averages),
            "learned": "<p>In the report of each composition.</p>",
            "compute": _to_compute(compute),
            "steps": "",
        },
    )  # fmt: skip


_GRID_COLUMNS = ("composition", "lowest structure", "ΔG binding", "std", "ΔH binding", "novelty",
                 "candidates", "distinct", "chosen")  # fmt: skip


def _grid_line(entry: GridEntry, first: Mapping[str, Any], lowest: Atoms) -> str:
    link = f'<a href="{html.escape(quote(entry.name))}/{entry.found.report.name}">'
    button = f'<button data-structure="found:{html.escape(entry.name)}">'
    values = [
        first["binding_gibbs_kcal_mol"],
        first["binding_gibbs_std_kcal_mol"],
        first["binding_enthalpy_kcal_mol"],
        lowest.info.get("novelty"),
        entry.found.candidates,
        entry.found.unique,
        len(entry.found.chosen),
    ]
    return (
        f"<tr><td>{link}{html.escape(entry.name)}</a></td>"
        f"<td>{button}{html.escape(first['name'])}</button></td>{''.join(map(cell, values))}</tr>"
    )


def _grid_notes(entries: Sequence[GridEntry]) -> list[str]:
    told: dict[str, str] = {}
    for entry in entries:
        for text in [*entry.found.notes, *(f"{o.name}: {o.reason}" for o in entry.found.omitted)]:
            if not text.startswith("no acdc.txt"):
                told.setdefault(text, f"{entry.name}: {text}")  # what holds for all is told once
    return list(told.values())


def write_page(
    path: Path,
    title: str,
    model: str,
    found: GibbsTable,
    frames: Sequence[Atoms],
    relaxed: Sequence[Atoms],
    settings: Mapping[str, Any],
    chosen: Sequence[str],
    notes: Sequence[str],
    learned: Sequence[Mapping[str, Any]] | str,
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path, title, model
        Where, its heading, and the model's name.
    found, frames
        Gibbs energies, and the structures that they are of.
    relaxed
        All candidates after their relaxation.
    settings
        Of the campaign.
    chosen
        Names of the structures that inputs were written for.
    notes
        What else there is to tell.
    learned
        Rows of :func:`~ase_knncalc.exploration.learned.learned_rows`, or why there are none.

    Raises
    ------
    DataError
        If the page cannot be written.
    """
    conditions = found.conditions
    each = len(conditions.temperatures) * len(conditions.pressures)
    rows = found.rows()[::each]
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["gibbs_eV"] is None, _gibbs(rows[i])))
    names = [str(atoms.info["name"]) for atoms in frames]
    structures = {
        f"found:{i}": drawable(frames[i], names[i], _caption(rows[i])) for i in order
    }  # in the order of the table
    unsure = _unsure(rows, frames, names, order)
    _write(
        path, title, model, conditions, settings, notes, structures, frames,
        {
            "conformers": _conformers(rows, frames, names, order, chosen),
            "averages": _averages(found.averages()),
            "learned": _learned(learned, order),
            "compute": _to_compute(unsure),
            "steps": _steps(relaxed, len(frames)),
        },
    )  # fmt: skip


def _write(
    path: Path,
    title: str,
    model: str,
    conditions: Conditions,
    settings: Mapping[str, Any],
    notes: Sequence[str],
    structures: Mapping[str, Any],
    frames: Sequence[Atoms],
    tables: Mapping[str, str],
) -> None:
    document = fill(
        "explore.html",
        {
            "title": html.escape(title),
            "model": html.escape(model),
            "style": template("report.css"),
            "script": template("report.js"),
            "condition": html.escape(
                f"At {conditions.temperatures[0]:g} K and {conditions.pressures[0]:g} Pa; "
                f"soft modes: {conditions.treatment}, {conditions.lowest:g} cm⁻¹."
            ),
            **tables,
            "notes": listed(notes),
            "settings": "".join(
                f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(_text(v))}</dd></div>"
                for k, v in settings.items()
            ),
            "versions": html.escape(", ".join(f"{k} {v}" for k, v in package_versions().items())),
            "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "data": embedded(
                {
                    "figures": [],
                    "labels": {},
                    "structures": structures,
                    "elements": element_styles(s for atoms in frames for s in atoms.symbols),
                }
            ),
        },
    )
    with atomic_write(path, DataError) as handle:
        handle.write(document.encode("utf-8"))


def _gibbs(entry: Mapping[str, Any]) -> float:
    return float(entry["gibbs_eV"] or 0.0)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _caption(entry: Mapping[str, Any]) -> str:
    if entry["gibbs_eV"] is None:
        return f"no minimum: {entry['imaginary_modes']} imaginary modes"
    text = f"{entry['relative_kcal_mol']:.2f} kcal/mol, {100 * entry['population']:.1f} %"
    if entry["binding_gibbs_kcal_mol"] is not None:
        text += f"; ΔG of binding {entry['binding_gibbs_kcal_mol']:.2f} kcal/mol"
    return text


def _conformers(
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Atoms],
    names: Sequence[str],
    order: Sequence[int],
    chosen: Sequence[str],
) -> str:
    lines = []
    for i in order:
        entry = rows[i]
        std = entry["gibbs_std_eV"]
        values = [
            entry["molecules"] or "–",
            entry["relative_kcal_mol"],
            None if std is None else KCAL_PER_MOL * std,
            None if entry["population"] is None else 100 * entry["population"],
            entry["binding_gibbs_kcal_mol"],
            entry["binding_gibbs_std_kcal_mol"],
            frames[i].info.get("novelty"),
            int(entry["symmetry"]),
            entry["lowest_mode_cm1"],
            int(entry["imaginary_modes"]),
            int(frames[i].info.get("copies", 1)),
            "yes" if names[i] in chosen else "",
        ]
        button = f'<button data-structure="found:{i}">{html.escape(names[i])}</button>'
        lines.append(f"<tr><td>{button}</td>{''.join(map(cell, values))}</tr>")
    columns = ["structure", "molecules", "G relative", "std", "population %", "ΔG binding", "std",
               "novelty", "symmetry", "lowest mode cm⁻¹", "imaginary", "copies",
               "chosen"]  # fmt: skip
    return table(columns, lines, "sortable")


def _averages(averages: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        row(
            [
                a["composition"],
                a["temperature_K"],
                a["pressure_Pa"],
                a["conformers"],
                100.0 * a["most_populated"],
                a["gibbs_eV"],
                None if a["gibbs_std_eV"] is None else KCAL_PER_MOL * a["gibbs_std_eV"],
            ]
        )
        for a in averages
    ]
    columns = ["composition", "K", "Pa", "conformers", "largest population %", "G eV", "std"]
    return table(columns, lines)


_UNITS = {"kcal_mol": "", "debye": " D", "angstrom3": " Å³"}
_SHORT = {"binding_gibbs": "ΔG binding", "gibbs_correction": "G − E",
          "enthalpy_correction": "H − E", "_": " "}  # fmt: skip


def _learned(rows: Sequence[Mapping[str, Any]] | str, order: Iterable[int]) -> str:
    """What was learned beside what vibrations give; headings are the columns' names, shortened."""
    if isinstance(rows, str):
        return f"<p>{html.escape(rows)}</p>"
    keys = list(dict.fromkeys(key for entry in rows for key in entry if key != "name"))
    columns = ["structure"]
    for key in keys:
        text, unit = next(
            (key.removesuffix(f"_{end}"), unit) for end, unit in _UNITS.items() if key.endswith(end)
        )
        for long, short in _SHORT.items():
            text = text.replace(long, short)
        columns.append("std" if text.endswith(" std") else f"{text}{unit}")
    lines = [row([rows[i]["name"], *(rows[i].get(key) for key in keys)]) for i in order]
    return table(columns, lines, "sortable")


def _unsure(
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Atoms],
    names: Sequence[str],
    order: Iterable[int],
) -> list[str]:
    """Rows of structures of which the model is not sure."""
    lines = []
    for i in order:
        std = KCAL_PER_MOL * float(frames[i].info.get("energy_std", 0.0))
        why = []
        if frames[i].info.get("outside"):
            why.append("few training structures are like it (novelty above 1)")
        if std > _UNSURE:
            why.append(f"its energy is unsure by {std:.1f} kcal/mol")
        if rows[i]["imaginary_modes"]:
            why.append("it is no minimum of the model")
        if why:
            lines.append(row([names[i], "; ".join(why)]))
    return lines


def _to_compute(lines: Sequence[str]) -> str:
    if not lines:
        return "<p>The model is sure of all of them.</p>"
    return table(["structure", "why"], lines)


def _steps(relaxed: Sequence[Atoms], n_found: int) -> str:
    lines = [row(["candidates relaxed", len(relaxed)])]
    lines += [row([text, sum(bool(of(a)) for a in relaxed)]) for text, of in _MARKS.items()]
    lines.append(row(["with Gibbs energies", n_found]))
    return table(["structure", "n"], lines)
