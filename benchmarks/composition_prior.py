"""Does composition help as a prior in the metric? The third open question of arXiv 2509.11728.

    python benchmarks/composition_prior.py --output prior.json [--model multibase-wb97xd]

Squared distances in the learned metric get c² |n − n'|² added, n the numbers of molecules of each
kind in a structure: c = 0 is the metric as it is, c = ∞ admits neighbours of the same composition
only. Two terms are judged on the residuals that a model file holds (cross-validated, each of a fit
without its structure): the published one (k = 10, 1/d) and the fading kernel mean, whose width and
nugget are chosen for every c on one half of the structures; errors are those of the other half.
Neighbours come from all structures but the one asked for (``random``) or from other compositions
(``new composition``).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
from ase import units

from ase_knncalc import load_model
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.knn.weights import rank_weights, wendland

KCAL_PER_MOL = units.mol / units.kcal
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, np.inf)  # c in units of the median 10th distance
WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0)
NUGGETS = (0.1, 0.3, 1.0, 3.0, 10.0)
K = 10


def molecule_counts(compositions: list[str]) -> FloatArray:
    """Numbers of molecules of each kind, shape (n, n_kinds)."""
    parsed = [
        {m: int(n or 1) for n, m in re.findall(r"(\d*)([A-Za-z]+)", text)} for text in compositions
    ]
    kinds = sorted({kind for counts in parsed for kind in counts})
    return np.array([[counts.get(kind, 0) for kind in kinds] for counts in parsed], dtype=float)


def squares(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared Euclidean distances, shape (len(a), len(b))."""
    found = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.maximum(found, 0.0))


def errors(
    distances: FloatArray, residuals: FloatArray, truth: FloatArray, half: IntArray, unit: float
) -> dict[str, float]:
    """Mean absolute errors in kcal/mol of the second half, everything chosen on the first."""
    nearest = np.argpartition(distances, K, axis=1)[:, :K]
    near = np.take_along_axis(distances, nearest, axis=1)
    # Where no neighbour is admitted there is nothing to add.
    weights = np.where(np.isfinite(near), rank_weights(np.minimum(near, 1e300), "distance"), 0.0)
    published = np.abs(truth - (weights * residuals[nearest]).sum(axis=1))
    tried = []
    for width in WIDTHS:
        kernel = wendland(distances / (width * unit))
        weighted, total = kernel @ residuals, kernel.sum(axis=1)
        tried += [np.abs(truth - weighted / (total + nugget)) for nugget in NUGGETS]
    best = min(tried, key=lambda e: e[half].mean())
    return {
        "published": KCAL_PER_MOL * float(published[~half].mean()),
        "kernel": KCAL_PER_MOL * float(best[~half].mean()),
        "none": KCAL_PER_MOL * float(np.abs(truth[~half]).mean()),
    }


def main() -> None:
    """Measure, print and write."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=here / "composition_prior.json")
    parser.add_argument("--model", default="multibase-wb97xd")
    parser.add_argument("--structures", type=int, default=4000)
    arguments = parser.parse_args()
    model = load_model(arguments.model, baseline=None)
    points = model.knn.index.points.astype(np.float64)
    residuals = model.knn.residuals
    labels = [c.decode() for c in model.compositions]
    counts = molecule_counts(labels)
    groups = np.unique(labels, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    asked = np.sort(rng.permutation(len(points))[: arguments.structures])
    half = rng.random(len(asked)) < 0.5
    metric = squares(points[asked], points)
    apart = squares(counts[asked], counts)
    found = []
    for split in ("random", "new composition"):
        barred = groups[asked][:, None] == groups
        if split == "random":
            barred = asked[:, None] == np.arange(len(points))
        unit = float(np.median(np.sqrt(np.partition(np.where(barred, np.inf, metric), K)[:, K])))
        for strength in STRENGTHS:
            prior = (
                np.where(apart > 0, np.inf, 0.0)
                if np.isinf(strength)
                else ((strength * unit) ** 2 * apart)
            )
            distances = np.sqrt(np.where(barred, np.inf, metric + prior))
            row = errors(distances, residuals, residuals[asked], half, unit)
            found.append({"split": split, "strength": str(strength), **row})
            print(found[-1], flush=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
