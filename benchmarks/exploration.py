"""Clusters explored from nothing, against the minima of the literature.

    python benchmarks/exploration.py multibase_equilibrium.extxyz.gz multibase_properties.csv.gz

Each composition is explored with ``knncalc explore``'s steps in a folder of its own (``--folder``,
where a run that was killed goes on). The lowest minima of the data at ωB97X-D/6-31++G(d,p) are
relaxed on the surface of the model as well. Told are

- how far the lowest explored minimum is above (below: negative) the lowest of those, on that
  surface;
- ΔG of binding at 298.15 K of those conformers, relaxed, against ωB97X-D's at its own geometries
  with its own frequencies, soft modes treated alike (raised to 100 cm⁻¹);
- how many of the candidates are left to be optimised at the reference level.

What is in the data of this benchmark is in the data of the shipped model, too: energies of these
minima were seen, and it is the search, the relaxation and the vibrations that are tested.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms, units

from ase_knncalc.data import read_structures
from ase_knncalc.exploration import (
    Conditions,
    ExploreSettings,
    GibbsTable,
    explore,
    gibbs_table,
    relax_frames,
)
from ase_knncalc.exploration.relaxation import energy_of
from ase_knncalc.thermochemistry import Minimum

HERE = Path(__file__).resolve().parent
COMPOSITIONS = ("1 sa, 1 w", "1 sa, 1 am", "1 sa, 1 dma", "1 sa, 1 am, 1 w", "2 sa, 2 am",
                "2 sa, 1 dma")  # fmt: skip
# Conformers of the literature that are relaxed, lowest first.
LITERATURE = 3
KCAL = units.mol / units.kcal


def label(composition: str) -> str:
    """Molecules in one order: ``1am1sa`` of ``1sa1am`` and of ``1 sa, 1 am``."""
    parts = re.findall(r"(\d+)([a-z]+)", composition.replace(" ", ""))
    return "".join(n + name for n, name in sorted(parts, key=lambda part: part[1]))


def minima(data: Path, properties: Path) -> dict[str, list[Minimum]]:
    """Neutral records with real frequencies, by composition, lowest first."""
    found: dict[str, list[Minimum]] = defaultdict(list)
    with gzip.open(properties, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for atoms, row in zip(read_structures(data), rows, strict=True):
        modes = np.array([float(x) for x in row["frequencies_cm1"].split(";") if x])
        if row["charge"] != "0" or not len(modes) or modes.min() <= 0:
            continue
        atoms.info.update(charge=0, multiplicity=1)
        energy, symmetry = float(row["wb97xd_energy"]), int(float(row["symmetry_number"] or 1))
        found[label(row["composition"])].append(Minimum(atoms, energy, 0.0, modes, symmetry, 0, 1))
    return {name: sorted(each, key=lambda m: m.energy) for name, each in found.items()}


def reference_binding(
    cluster: Minimum, known: dict[str, list[Minimum]], parts: dict[str, int]
) -> float:
    """ΔG of the reference, kcal/mol."""
    molecules = {name: known[f"1{name}"][0] for name in parts}
    table = GibbsTable([cluster], Conditions(), [parts], molecules, [])
    return float(table.rows()[0]["binding_gibbs_kcal_mol"])


def compared(
    composition: str, known: dict[str, list[Minimum]], folder: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """One composition, explored and compared."""
    name = label(composition)
    found = explore(ExploreSettings(composition, **settings), folder / name, n_jobs=1)
    kept = folder / f"{name}-literature.db"
    literature = known[name][:LITERATURE]
    starts: list[Atoms] = []
    for number, minimum in enumerate(literature):
        start = Atoms(minimum.atoms.numbers, minimum.atoms.positions)
        start.info.update(name=f"{name}-{number}", charge=0, multiplicity=1)
        starts.append(start)
    relaxed, _ = relax_frames(starts, kept=kept, n_jobs=1)
    table = gibbs_table(relaxed, kept=kept, n_jobs=1)
    parts = {k: int(n) for n, k in re.findall(r"(\d+)([a-z]+)", name)}
    differences = [
        row["binding_gibbs_kcal_mol"]
        - reference_binding(literature[int(str(row["name"]).rsplit("-", 1)[1])], known, parts)
        for row in table.rows()
        if row["binding_gibbs_kcal_mol"] is not None
    ]
    lowest = min(row["energy_eV"] for row in found.rows if row["gibbs_eV"] is not None)
    return {
        "composition": composition,
        "candidates": found.candidates,
        "distinct": found.unique,
        "chosen": len(found.chosen),
        "literature": len(known[name]),
        "lowest_above_literature_kcal_mol": KCAL * (lowest - min(map(energy_of, relaxed))),
        "lowest_gibbs_kcal_mol": found.rows[0]["binding_gibbs_kcal_mol"],
        "reference_lowest_gibbs_kcal_mol": min(
            reference_binding(m, known, parts) for m in known[name]
        ),
        "gibbs_differences_kcal_mol": differences,
    }


def main(
    data: Path,
    properties: Path,
    compositions: Annotated[list[str] | None, typer.Option("--composition")] = None,
    candidates: Annotated[int, typer.Option("-n")] = 6,
    vibrations: int = 8,
    folder: Path = Path("explored"),
    output: Annotated[Path, typer.Option("-o", "--output")] = HERE / "exploration.json",
) -> None:
    """Write what was found of each composition, as soon as it is."""
    folder.mkdir(exist_ok=True)
    known = minima(data, properties)
    settings = {"candidates": candidates, "vibrations": vibrations}
    results = []
    for composition in compositions or COMPOSITIONS:
        if label(composition) not in known:
            print(f"{composition}: the data have no minimum of it")
            continue
        results.append(compared(composition, known, folder, settings))
        print(json.dumps(results[-1]), flush=True)
        output.write_text(json.dumps({**settings, "found": results}, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    typer.run(main)
