"""Properties beside the energy: how they are learned for the general model, and how right they are.

    python benchmarks/property_heads.py train DATA MODEL -o multibase-wb97xd.h5
    python benchmarks/property_heads.py total DATA multibase-wb97xd.h5 [--judged judged.h5]

``DATA`` is a folder with ``multibase_equilibrium.extxyz.gz`` and ``multibase_properties.csv.gz``.
The energies of ``MODEL`` stay as they are. Dipoles of the baseline are computed for 2,500
structures, or read from ``--dipoles``: lines of a structure's place in the file, from 0, and the
dipole about its centre of nuclear charge, e Å. Errors, of five folds of structures and of
compositions that were left out, go to ``property_heads.json``; ``tables.py`` makes the table of the
documentation from it.

``total`` adds energies at DLPNO-CCSD(T) to it: the error of the model's energy, left out as the
file holds it (of a minimum its energy alone), and that of its correction, left out in five folds,
relative to what sources of labels differ by. ``--judged`` is a model of ``general_model.py train
--leave-out``: energies of the tenth of the compositions that it has not seen, with corrections that
have not seen them either.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from general_model import left_out

from ase_knncalc import load_model, save_model
from ase_knncalc._lib.arrays import BoolArray, FloatArray
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.data import KeyMap, iter_frames, read_dataset
from ase_knncalc.data.properties import add_columns
from ase_knncalc.heads import Head
from ase_knncalc.heads.summary import SHOWN
from ase_knncalc.heads.targets import property_targets
from ase_knncalc.labels.training_data import compute_features
from ase_knncalc.training import HeadSettings, add_properties
from ase_knncalc.training.head_fit import fit_head
from ase_knncalc.training.heads import covered, describe, labels_of
from ase_knncalc.uncertainty import Calibration

HERE = Path(__file__).resolve().parent
PROPERTIES = ("thermochemistry", "polarizability", "dipole", "dlpno")

app = typer.Typer(add_completion=False)


def errors(heads: Iterable[Head]) -> dict[str, Any]:
    """What was left out, of each output of each head; energies in kcal/mol."""
    found: dict[str, Any] = {}
    for head in heads:
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
    judged = errors(found.heads or ())
    table.write_text(json.dumps(judged, indent=1) + "\n")
    for name, of in judged.items():
        print(f"{name} ({of['unit']}; {of['structures']} structures, penalty {of['penalty']:g})")
        for output_name, row in of["outputs"].items():
            cells = "  ".join(f"{value:.3f}" for value in row.values())
            print(f"  {output_name:28s} {cells}")
    print(f"{time.time() - start:.0f} s")


@app.command()
def total(
    folder: Path,
    model: Path,
    judged: Path | None = None,
    table: Path = HERE / "property_heads.json",
    environments: int = 1000,
    jobs: int = -1,
) -> None:
    """Errors of DLPNO energies, and what of them the energies of the model have."""
    known = load_model(model, baseline=None)
    dataset = read_dataset(
        folder / "multibase_equilibrium.extxyz.gz",
        keys=KeyMap(reference_energy="wb97xd_energy"),
        require_reference=False,
    )
    frames, _ = covered(known, dataset.frames)
    (target,) = property_targets(["dlpno"])
    add_columns(frames, folder / "multibase_properties.csv.gz", target.columns)
    frames = [atoms for atoms in frames if target.key in atoms.info]
    batch = compute_features(known.descriptor, frames, n_jobs=jobs)
    settings = HeadSettings(environments=environments)
    fit = fit_head(
        target, labels_of(frames, target), describe(known, frames, batch, settings), settings
    )
    frames = [frames[i] for i in fit.rows]
    step, group_step = (
        (errors[:, 0], stds[:, 0])
        for errors, stds in ((fit.errors, fit.stds), (fit.group_errors, fit.group_stds))
    )
    # The training structure that each of them is has its place in the index.
    nearest = [n[0] for n in known.correct_features(batch.select(fit.rows)).neighbors]
    same = np.array([n.name == a.info["name"] for n, a in zip(nearest, frames, strict=True)])
    places = np.array([n.index for n in nearest])
    held = known.held_out
    assert held is not None
    same &= held.fair[places]
    energy = held.errors[places].astype(float), held.stds[places].astype(float)
    found = {
        "energies of these": _row(known.calibration, energy, same),
        "dlpno, total": _row(known.calibration, _sum(energy, step), same),
    }
    if judged is not None:
        other = load_model(judged, baseline=None)
        unseen = np.array([left_out(str(a.info["composition"])) for a in frames]) & same
        chosen = [a for a, wanted in zip(frames, unseen, strict=True) if wanted]
        said = other.correct_features(compute_features(other.descriptor, chosen, n_jobs=jobs))
        energy = np.zeros(len(frames)), np.ones(len(frames))
        energy[0][unseen] = said.delta - held.deltas[places[unseen]]
        energy[1][unseen] = said.energy_std
        for name, of in (("energies of these", energy), ("dlpno, total", _sum(energy, group_step))):
            row = _row(other.calibration, of, unseen)
            found[name] |= {f"group_{key}": value for key, value in row.items()}
    results = json.loads(table.read_text()) if table.exists() else {}
    results |= errors([fit.head])
    print("dlpno", json.dumps(results["dlpno"]))
    for name, row in found.items():
        results[name] = {
            "unit": "kcal/mol",
            "structures": row.pop("structures"),
            "outputs": {name: {"group_mae": None, "group_inside_90": None} | row},
        }
        print(name, json.dumps(results[name]))
    table.write_text(json.dumps(results, indent=1) + "\n")


_Errors = tuple[FloatArray, FloatArray]
"""Errors and their standard deviations, eV, shape (n,) both."""


def _sum(one: _Errors, other: _Errors) -> _Errors:
    """Of two corrections, as predictions add them."""
    return one[0] + other[0], np.hypot(one[1], other[1])


def _row(calibration: Calibration, of: _Errors, rows: BoolArray) -> dict[str, Any]:
    error, std = np.abs(of[0][rows]), of[1][rows]
    return {
        "structures": int(rows.sum()),
        "mae": float(KCAL_PER_MOL * error.mean()),
        "median": float(KCAL_PER_MOL * np.median(error)),
        "inside_90": float(np.mean(error <= calibration.multiple(0.9) * std)),
    }


if __name__ == "__main__":
    app()
