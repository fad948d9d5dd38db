"""Why is the kernel-induced distance weak: the hard cutoff, or the unnormalised extensive kernel?

    python benchmarks/distances.py --output distances.json

The second open question of arXiv 2509.11728, answered by an ablation. k-NN (k = 10, weights 1/d) on
Δ = ωB97X-D − GFN1-xTB without element offsets: sulfuric acid–water clusters, fold 1 of
``KFold(5, shuffle=True, random_state=0)``, and trained on all of them the larger 4sa5w. Varied are

- the cutoff of FCHL19, two- and three-body;
- the kernel: plain, normalised (φ/|φ|), averaged over atoms (φ/N);
- the width σ of its Gaussian, so that no answer hangs on one value;
- the labels that are averaged: Δ, or Δ/N, which is what fits a distance that does not see size.

The Euclidean distance of global descriptors and the metric learned by MLKR stand beside them. Last,
the exact search of :class:`KernelIndex` is timed against brute force.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from comparators import knn_predict, offsets
from kernel_distance import (
    KernelIndex,
    induced_distances,
    local_kernel,
    self_kernel,
)

from ase_knncalc import KeyMap, read_dataset
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors import FCHL19
from ase_knncalc.evaluation import splits
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.labels.training_data import TrainingData, compute_features
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training.metric import fit_metric

KCAL_PER_MOL = units.mol / units.kcal
ELEMENTS = (1, 8, 16)
K = 10
PUBLISHED_CUTOFF, PUBLISHED_SIGMA = 8.0, 20.0


def describe(frames: list[Atoms], cutoff: float) -> TrainingData:
    """Descriptors with one cutoff, and Δ."""
    descriptor = FCHL19(ELEMENTS, rcut=cutoff, acut=cutoff)
    return TrainingData(
        descriptor=descriptor,
        batch=compute_features(descriptor, frames, n_jobs=1),
        delta=np.array([a.info["reference_energy"] - a.info["baseline_energy"] for a in frames]),
        groups=[str(a.info["composition"]) for a in frames],
        names=[str(a.info["name"]) for a in frames],
        weights=np.ones(len(frames)),
    )


def neighbors(
    train: TrainingData, test: TrainingData, sigmas: list[float]
) -> Iterator[tuple[dict[str, Any], FloatArray, IntArray]]:
    """The k nearest of each test structure in every distance: its name, distances, indices."""
    known, asked = train.batch, test.batch
    _, residuals = offsets(train)
    for metric in ("euclidean", "mlkr"):
        settings = TrainingSettings(trend="none", metric=metric)
        linear, _ = fit_metric(known.summed(), residuals, settings)
        index = NeighborIndex(linear.project(known.summed()))
        found = [index.query(z, K) for z in linear.project(asked.summed())]
        yield (
            {"distance": metric, "sigma": None},
            np.array([d for d, _ in found]),
            np.array([i for _, i in found]),
        )
    for sigma in sigmas:
        # All variants come from one kernel matrix, so that here brute force is the cheapest.
        cross = local_kernel(asked, known, ELEMENTS, sigma)
        own = [self_kernel(b, ELEMENTS, sigma) for b in (asked, known)]
        atoms = [b.sizes.astype(float) for b in (asked, known)]
        averaged = [o / n**2 for o, n in zip(own, atoms, strict=True)]
        for name, distances in (
            ("kernel", induced_distances(cross, *own)),
            ("kernel, normalised", induced_distances(cross, *own, normalize=True)),
            ("kernel, averaged", induced_distances(cross / np.outer(*atoms), *averaged)),
        ):
            indices = np.argsort(distances, axis=1, kind="stable")[:, :K]
            nearest = np.take_along_axis(distances, indices, axis=1)
            yield {"distance": name, "sigma": sigma}, nearest, indices


def judge(
    train: TrainingData, test: TrainingData, distances: FloatArray, indices: IntArray
) -> dict[str, float]:
    """Errors (kcal/mol), and what kind of neighbours were found."""
    trend, residuals = offsets(train)
    truth = test.delta - trend.predict(test.batch)
    own_size, sizes = test.batch.sizes, train.batch.sizes
    mean, _ = knn_predict(distances, indices, residuals)
    per_atom, _ = knn_predict(distances, indices, residuals / sizes)
    groups = np.array(train.groups)
    return {
        "mae": KCAL_PER_MOL * float(np.abs(mean - truth).mean()),
        "mae_per_atom_labels": KCAL_PER_MOL * float(np.abs(per_atom * own_size - truth).mean()),
        "same_composition": float(np.mean(groups[indices] == np.array(test.groups)[:, None])),
        "relative_size": float(np.mean(sizes[indices] / own_size[:, None])),
    }


def ablation(
    frames: list[Atoms],
    larger: list[Atoms],
    cutoffs: list[float],
    sigmas: list[float],
    samples: int | None,
) -> list[dict[str, Any]]:
    """One row for each cutoff, distance and σ; printed as soon as it is there."""
    print(
        f"{'cutoff':>6s} {'distance':20s} {'σ':>5s} | {'fold 1':>7s} {'Δ/N':>7s} {'same':>5s} | "
        f"{'4sa5w':>7s} {'Δ/N':>7s} {'size':>5s}   (MAE in kcal/mol)"
    )
    rows = []
    for cutoff in cutoffs:
        data, other = describe(frames, cutoff), describe(larger, cutoff)
        known, asked = splits(data, "random", 5, 0)[0]
        if samples is not None and samples < len(known):
            known = np.sort(np.random.default_rng(0).choice(known, samples, replace=False))
            everything = data.select(known)
        else:
            everything = data
        fold = (data.select(known), data.select(asked))
        for (what, *found), (_, *found_larger) in zip(
            neighbors(*fold, sigmas), neighbors(everything, other, sigmas), strict=True
        ):
            row = {
                "cutoff": cutoff,
                **what,
                "fold_1": judge(*fold, *found),
                "4sa5w": judge(everything, other, *found_larger),
            }
            rows.append(row)
            a, b = row["fold_1"], row["4sa5w"]
            sigma = "" if what["sigma"] is None else f"{what['sigma']:g}"
            print(
                f"{cutoff:6g} {what['distance']:20s} {sigma:>5s} | "
                f"{a['mae']:7.3f} {a['mae_per_atom_labels']:7.3f} {a['same_composition']:5.2f} | "
                f"{b['mae']:7.3f} {b['mae_per_atom_labels']:7.3f} {b['relative_size']:5.2f}",
                flush=True,
            )
    return rows


def search_cost(data: TrainingData, sizes: list[int]) -> list[dict[str, Any]]:
    """Exact distances and processor time of a query, against brute force, for growing n."""
    known, asked = splits(data, "random", 5, 0)[0]
    known = np.random.default_rng(0).permutation(known)
    queries = data.batch.select(asked[:100])
    rows = []
    for normalize in (False, True):
        for n in sorted({min(s, len(known)) for s in sizes}):
            batch = data.batch.select(known[:n])
            start = time.process_time()
            index = KernelIndex(batch, ELEMENTS, PUBLISHED_SIGMA, normalize)
            built = time.process_time()
            distances, _ = index.query(queries, K)
            queried = time.process_time()
            cross = local_kernel(queries, batch, ELEMENTS, PUBLISHED_SIGMA)
            brute = time.process_time()
            own = [self_kernel(b, ELEMENTS, PUBLISHED_SIGMA) for b in (queries, batch)]
            expected = np.sort(induced_distances(cross, *own, normalize=normalize), axis=1)[:, :K]
            row = {
                "normalize": normalize,
                "n": n,
                "build_seconds": built - start,
                "query_ms": 1000 * (queried - built) / len(queries),
                "brute_force_ms": 1000 * (brute - queried) / len(queries),
                "exact_distances": index.n_evaluations / len(queries),
                "largest_difference": float(np.abs(distances - expected).max()),
            }
            rows.append(row)
            print(
                f"{'normalised' if normalize else 'plain':10s} n {n:5d}: {row['query_ms']:6.2f} ms "
                f"against {row['brute_force_ms']:6.2f} ms by brute force, "
                f"{row['exact_distances']:.1f} exact distances, built in "
                f"{row['build_seconds']:.2f} s, differs by {row['largest_difference']:.0e}",
                flush=True,
            )
    return rows


def main() -> None:
    """Run everything and write one JSON."""
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=here / "benchmarks" / "distances.json")
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[4.0, 6.0, 8.0, 10.0])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[5.0, 20.0, 80.0])
    parser.add_argument("--samples", type=int, help="at most so many training structures")
    arguments = parser.parse_args()
    keys = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")
    frames, larger = (
        read_dataset(arguments.data / name, keys=keys, require_baseline=True).frames
        for name in ("saw_equilibrium.extxyz.gz", "saw_4sa5w_equilibrium.extxyz.gz")
    )
    rows = ablation(
        list(frames), list(larger), arguments.cutoffs, arguments.sigmas, arguments.samples
    )
    search = search_cost(describe(list(frames), PUBLISHED_CUTOFF), [300, 600, 1347])
    arguments.output.write_text(
        json.dumps({"k": K, "units": "kcal/mol", "ablation": rows, "search": search}, indent=1)
    )


if __name__ == "__main__":
    main()
