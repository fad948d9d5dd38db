"""Properties beside the energy: how they are learned for the general model, and how right they are.

    python benchmarks/property_heads.py train DATA MODEL -o multibase-wb97xd.h5

``DATA`` is a folder with ``multibase_equilibrium.extxyz.gz`` and ``multibase_properties.csv.gz``.
The energies of ``MODEL`` stay as they are. Dipoles of the baseline are computed for 2,500
structures, or read from ``--dipoles``: lines of a structure's place in the file, from 0, and the
dipole about its centre of nuclear charge, e Å. Errors, of five folds of structures and of
compositions that were left out, go to ``property_heads.json``; ``tables.py`` makes the table of the
documentation from it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import units

from ase_knncalc import KNNModel, load_model, save_model
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.data import KeyMap, iter_frames
from ase_knncalc.training import HeadSettings, add_properties

HERE = Path(__file__).resolve().parent
PROPERTIES = ("thermochemistry", "polarizability", "dipole", "dlpno")
SHOWN = {"eV": ("kcal/mol", KCAL_PER_MOL), "e Å": ("D", 1.0 / units.Debye)}

app = typer.Typer(add_completion=False)


@app.callback()
def _commands() -> None:
    """More than one command, one day."""


def errors(model: KNNModel) -> dict[str, Any]:
    """What was left out, of each output of each head; energies in kcal/mol."""
    found: dict[str, Any] = {}
    for head in model.heads or ():
        unit, factor = SHOWN.get(head.unit, (head.unit, 1.0))
        details = head.details
        found[head.name] = {
            "unit": unit,
            "structures": details["structures"],
            "compositions": details["compositions"],
            "penalty": details["penalty"],
            "left_out": details["left_out"],
            "outputs": {
                name: {
                    "mae": factor * of["mae"],
                    "group_mae": factor * of["group_mae"],
                    "inside_90": of["inside_90"],
                    "group_inside_90": of["group_inside_90"],
                }
                for name, of in details["errors"].items()
            },
        }
    return found


@app.command("train")
def train_heads(
    folder: Path,
    model: Path,
    output: Annotated[Path, typer.Option("-o", "--output")],
    table: Path = HERE / "property_heads.json",
    dipoles: Path | None = None,
    environments: int = 1000,
    variance_environments: int = HeadSettings.variance_environments,
    jobs: int = -1,
) -> None:
    """Teach a model what the table of multibase knows beside energies."""
    start = time.time()
    frames = list(iter_frames(folder / "multibase_equilibrium.extxyz.gz"))
    if dipoles is not None:
        for place, *dipole in np.loadtxt(dipoles):
            frames[int(place)].info["baseline_dipole"] = dipole
    found = add_properties(
        load_model(model, baseline=None),
        frames,
        PROPERTIES,
        table=folder / "multibase_properties.csv.gz",
        keys=KeyMap(reference_energy="wb97xd_energy"),
        settings=HeadSettings(
            environments=environments, variance_environments=variance_environments
        ),
        n_jobs=jobs,
        progress=True,
    )
    save_model(found, output)
    table.write_text(json.dumps(errors(found), indent=1) + "\n")
    for name, of in errors(found).items():
        print(f"{name} ({of['unit']}; {of['structures']} structures, penalty {of['penalty']:g})")
        for output_name, row in of["outputs"].items():
            cells = "  ".join(f"{value:.3f}" for value in row.values())
            print(f"  {output_name:28s} {cells}")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    app()
