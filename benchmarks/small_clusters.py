"""Shipped models on the small clusters of tests/data: GFN1-xTB's minima and hot structures.

    python benchmarks/small_clusters.py --output small_clusters.json

The geometries are no minima of the reference, which is what a user has who relaxes with xTB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import units

from ase_knncalc import list_models, load_model, read_dataset

KCAL_PER_MOL = units.mol / units.kcal


def main() -> None:
    """Errors and what the models say of them, kcal/mol; single molecules are left out."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=here / "small_clusters.json")
    arguments = parser.parse_args()
    frames = read_dataset(here.parent / "tests" / "data" / "clusters_wb97xd.extxyz").frames
    found = []
    for name in list_models():
        if name == "multibase-wb97xd":
            continue  # it learned from them: general_model.py judges its recipe
        model = load_model(name, baseline=None)
        for kind in ("minima", "hot"):
            asked = [
                a
                for a in frames
                if a.info["name"].endswith("-min") == (kind == "minima")
                and set(a.numbers) <= set(model.elements)
                and len(a) > 3
            ]
            known = [a.info["baseline_energy"] for a in asked]
            said = model.predict(asked, baseline_energy=known)
            error = KCAL_PER_MOL * (said.energy - [a.info["reference_energy"] for a in asked])
            half = KCAL_PER_MOL * model.calibration.multiple(0.9) * said.energy_std
            found.append(
                {
                    "model": name,
                    "geometries": kind,
                    "n": len(asked),
                    "mae": float(np.abs(error).mean()),
                    "mean": float(error.mean()),
                    "energy_std": float(KCAL_PER_MOL * said.energy_std.mean()),
                    "inside_90": float(np.mean(np.abs(error) <= half)),
                    "novelty": float(said.novelty.mean()),
                    "novel": float(np.mean(said.novelty > 1)),
                }
            )
            print(found[-1], flush=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
