"""How fast, beside other ways to the same numbers; how cost grows.

    python benchmarks/speed.py --data ../shared/data --output speed.json --plot speed.png

Every ratio is of two processor times taken in turn in one run, on one thread, each the least of
several repeats. Compared are

- k-NN queries: this package's exact index; the published way (scikit-learn's ball tree with the
  Mahalanobis distance as a Python callable); ball tree in the learned space; faiss' exact index;
- an evaluation of MLKR's loss and gradient: in blocks, and a direct implementation with whole
  matrices in float64;
- kernel ridge regression with the local kernel against the sparse trend;
- the correction against GFN1-xTB alone, by the number of atoms, with 250,000 structures in the
  index.

Parts can be run one at a time (``--parts queries,mlkr,krr,correction``); a part that was run before
keeps its place in the output.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from large import recombined

from ase_knncalc import load_model
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.baselines import make_baseline
from ase_knncalc.data import iter_frames
from ase_knncalc.descriptors import featurize
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.mlkr_loss import mlkr_loss
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.labels.training_data import TrainingData, compute_features
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training.metric import fit_metric

K = 10
DIMENSIONS = 50


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Least processor time of each call in ms, the calls taking turns."""
    best = dict.fromkeys(calls, np.inf)
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time_ns()
            call()
            best[name] = min(best[name], (time.process_time_ns() - start) / 1e6)
    return {name: float(value) for name, value in best.items()}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of growth between the last points."""
    return float(np.polyfit(np.log(x[-3:]), np.log(y[-3:]), 1)[0])


# ------------------------------------------------------------------------------------- queries


def published_way(data: Path) -> dict[str, Any]:
    """15,000 recombined clusters: the whole query from a global descriptor on."""
    from sklearn.neighbors import BallTree

    real = [a for a in iter_frames(data / "saw_equilibrium.extxyz.gz") if len(a) <= 12]
    frames = list(islice(recombined(real, 0, 16), 15_050))
    settings = TrainingSettings(trend="none", metric_iterations=30)
    descriptor = settings.descriptor([1, 8, 16])
    summed = compute_features(descriptor, frames, n_jobs=1).summed()
    known, asked = summed[:15_000], summed[15_000:]
    labels = np.array([a.info["reference_energy"] for a in frames[:15_000]])
    counts = np.array([[np.sum(a.numbers == z) for z in (1, 8, 16)] for a in frames[:15_000]])
    labels = labels - counts @ np.linalg.lstsq(counts, labels, rcond=None)[0]
    metric, _ = fit_metric(known, labels, settings, 1000)
    matrix = metric.components.T @ metric.components

    def mahalanobis(x: FloatArray, y: FloatArray) -> float:
        d = x - y
        return float(np.sqrt(max(d @ matrix @ d, 0.0)))

    start = time.process_time()
    tree = BallTree(known, metric=mahalanobis)
    built = time.process_time() - start
    index = NeighborIndex(metric.project(known))
    fast_tree = BallTree(index.points)
    rows = asked[:3]
    times = in_turn(
        {
            "published": lambda: tree.query(rows, k=K),
            "ours": lambda: [index.query(z, K) for z in metric.project(rows)],
            "ball tree in the learned space": lambda: fast_tree.query(metric.project(rows), k=K),
        },
        3,
    )
    _, there = tree.query(rows, k=K)
    here = np.array([index.query(z, K)[1] for z in metric.project(rows)])
    return {
        "n": len(known),
        "features": known.shape[1],
        "build_seconds": built,
        "ms": {name: value / len(rows) for name, value in times.items()},
        "ratio": times["published"] / times["ours"],
        "same_neighbors": float(
            np.mean([set(a) == set(b) for a, b in zip(there, here, strict=True)])
        ),
    }


def against_faiss(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Random points in 50 dimensions, the hardest case: no tree or bound helps there."""
    import faiss

    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    found = []
    for n in sizes:
        points = rng.normal(size=(n, DIMENSIONS)).astype(np.float32)
        queries = rng.normal(size=(100, DIMENSIONS)).astype(np.float32)
        index = NeighborIndex(points)
        other = faiss.IndexFlatL2(DIMENSIONS)
        other.add(points)
        one = queries[:1]
        single = in_turn(
            {
                "ours": partial(index.query, one[0], K),
                "faiss": partial(other.search, one, K),
            },
            25 if n <= 250_000 else 7,
        )
        batch = in_turn(
            {
                "ours": partial(index.query_many, queries, K),
                "faiss": partial(other.search, queries, K),
            },
            3,
        )
        found.append(
            {
                "n": n,
                "single_ms": single,
                "batch_ms": {name: value / len(queries) for name, value in batch.items()},
                "single_ratio": single["ours"] / single["faiss"],
                "batch_ratio": batch["ours"] / batch["faiss"],
            }
        )
    return found


def trees(n: int) -> dict[str, Any]:
    """Trees and brute force of scikit-learn on the same kind of points."""
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(1)
    points = rng.normal(size=(n, DIMENSIONS))
    one = rng.normal(size=(1, DIMENSIONS))
    calls = {}
    for kind in ("ball_tree", "kd_tree", "brute"):
        learned = NearestNeighbors(n_neighbors=K, algorithm=kind).fit(points)
        calls[kind] = lambda learned=learned: learned.kneighbors(one)
    index = NeighborIndex(points)
    calls["ours"] = lambda: index.query(one[0], K)
    return {"n": n, "single_ms": in_turn(calls, 5)}


def growth_with_k(n: int = 250_000) -> dict[str, Any]:
    """Single queries for more and more neighbours."""
    rng = np.random.default_rng(2)
    index = NeighborIndex(rng.normal(size=(n, DIMENSIONS)))
    z = rng.normal(size=DIMENSIONS)
    ks = [1, 3, 10, 30, 100]
    times = in_turn({str(k): (lambda k=k: index.query(z, k)) for k in ks}, 9)
    return {"n": n, "k": ks, "single_ms": [times[str(k)] for k in ks]}


def queries(data: Path) -> dict[str, Any]:
    versus = against_faiss([1000, 4000, 15_000, 60_000, 250_000, 1_000_000])
    sizes = [row["n"] for row in versus]
    return {
        "published": published_way(data),
        "faiss": versus,
        "slopes": {
            kind: slope(sizes, [row[f"{kind}_ms"]["ours"] for row in versus])
            for kind in ("single", "batch")
        },
        "scikit_learn": [trees(n) for n in (15_000, 250_000)],
        "growth_with_k": growth_with_k(),
    }


# ---------------------------------------------------------------------------------------- MLKR


def direct_loss(components: FloatArray, x: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
    """Loss and gradient of MLKR from whole (n, n) matrices in float64, as the formulas stand."""
    from scipy.spatial.distance import pdist, squareform

    z = x @ components.T
    kernel = np.exp(-squareform(pdist(z, "sqeuclidean")))
    np.fill_diagonal(kernel, 0.0)
    p = kernel / kernel.sum(axis=1, keepdims=True)
    predicted = p @ y
    error = predicted - y
    w = error[:, None] * p * (y[None, :] - predicted[:, None])
    both = w + w.T
    slope_z = 4.0 * (both @ z - both.sum(axis=1)[:, None] * z)
    return float(error @ error), slope_z.T @ x


def _samples(n: int, n_features: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, n_features)) / np.arange(1, n_features + 1) ** 0.5
    y = np.sin(x[:, 0]) + x[:, 1]
    return x, y - y.mean(), 0.5 * np.eye(DIMENSIONS, n_features)


def mlkr_memory(n: int, n_features: int) -> dict[str, float]:
    """One evaluation at n samples in a process of its own: seconds and peak of memory."""
    program = (
        "import resource, sys, time; sys.path.insert(0, sys.argv[1]);"
        "from speed import _samples; from ase_knncalc.knn.mlkr_loss import mlkr_loss;"
        "import numpy as np;"
        f"x, y, a = _samples({n}, {n_features}); x = x.astype(np.float32);"
        "start = time.process_time(); mlkr_loss(a, x, y);"
        "print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, check=True)
    seconds, kib = map(float, done.stdout.split())
    return {"n": n, "seconds_per_iteration": seconds, "peak_mib": kib / 1024}


def mlkr(data: Path) -> dict[str, Any]:
    n, n_features = 5000, 216
    x, y, components = _samples(n, n_features)
    x32 = x.astype(np.float32)
    times = in_turn(
        {
            "ours": lambda: mlkr_loss(components, x32, y),
            "ours, float64": lambda: mlkr_loss(components, x, y),
            "direct": lambda: direct_loss(components, x, y),
        },
        3,
    )
    a, b = mlkr_loss(components, x, y), direct_loss(components, x, y)
    return {
        "n": n,
        "features": n_features,
        "ms": times,
        "ratio": times["direct"] / times["ours"],
        "difference": float(np.abs(a[1] - b[1]).max() / np.abs(b[1]).max()),
        "large": mlkr_memory(25_000, n_features),
    }


# ----------------------------------------------------------------------------------------- KRR


def krr(data: Path) -> dict[str, Any]:
    """KRR with the full local kernel (qmllib) and the sparse trend on the same clusters."""
    from comparators import local_krr

    from ase_knncalc.training import fit_model

    real = list(iter_frames(data / "saw_equilibrium.extxyz.gz"))
    rows = np.random.default_rng(0).permutation(len(real))
    settings = TrainingSettings()
    descriptor = settings.descriptor([1, 8, 16])

    def described(which: Sequence[int]) -> TrainingData:
        frames = [real[i] for i in which]
        return TrainingData(
            descriptor,
            compute_features(descriptor, frames, n_jobs=1),
            np.array([a.info["wb97xd_energy"] - a.info["gfn1_energy"] for a in frames]),
            [a.info["composition"] for a in frames],
            [a.info["name"] for a in frames],
            np.ones(len(frames)),
        )

    asked = described(rows[-50:])
    found = []
    for n in (75, 150, 300, 600):
        known = described(rows[:n])
        start = time.process_time()
        full = local_krr(known, asked)
        krr_ms = 1000 * (time.process_time() - start - full.train_cpu_seconds) / len(asked)
        start = time.process_time()
        model = fit_model(known, settings).model
        trained = time.process_time() - start
        ours = in_turn({"ours": partial(model.correct_features, asked.batch)}, 3)["ours"]
        found.append(
            {
                "n": n,
                "train_seconds": {"KRR": full.train_cpu_seconds, "ours": trained},
                "predict_ms": {"KRR": krr_ms, "ours": ours / len(asked)},
            }
        )
    sizes = [row["n"] for row in found]
    return {
        "sizes": found,
        "slopes": {
            "KRR training": slope(sizes, [r["train_seconds"]["KRR"] for r in found]),
            "KRR prediction": slope(sizes, [r["predict_ms"]["KRR"] for r in found]),
        },
    }


# ---------------------------------------------------------------------------------- correction


def clusters_by_size(data: Path) -> list[Atoms]:
    """Real clusters, and beyond the largest of them (43 atoms) several brought into contact."""
    real = list(iter_frames(data / "saw_equilibrium.extxyz.gz"))
    chosen = [next(a for a in real if len(a) == n) for n in (10, 16, 23, 30)]
    largest = next(iter(iter_frames(data / "saw_4sa5w_equilibrium.extxyz.gz")))
    pairs = recombined([a for a in real if 28 <= len(a) <= 34], 0, 68)
    chosen += [largest, next(a for a in pairs if len(a) >= 60)]
    pairs = recombined([largest, *(a for a in real if len(a) >= 30)], 1, 100)
    return [*chosen, next(a for a in pairs if len(a) >= 75)]


def correction(data: Path, n: int = 250_000) -> dict[str, Any]:
    """Correction and GFN1-xTB energy by cluster size, the index filled up to n structures."""
    model = load_model("multibase-wb97xd", baseline=None)
    points = model.knn.index.points
    rng = np.random.default_rng(0)
    rows = rng.integers(len(points), size=n)
    spread = points.std(axis=0)
    more = points[rows] + rng.normal(size=(n, points.shape[1])) * (0.3 * spread)
    large = replace(
        model,
        knn=KNNTerm(NeighborIndex(more), model.knn.residuals[rows], model.knn.settings),
        names=model.names[rows],
        compositions=model.compositions[rows],
    )
    baseline = make_baseline("GFN1-xTB")
    found = []
    for atoms in clusters_by_size(data):
        batch = featurize(large.descriptor, [(atoms.numbers, atoms.positions, 0)])
        z = large.metric.place(batch)[0]
        times = in_turn(
            {
                "GFN1-xTB": partial(baseline.energy, atoms, 0, 1),
                "correction": partial(large.correct, atoms.numbers, atoms.positions, 0),
                "descriptor": partial(large.descriptor.local, atoms.numbers, atoms.positions),
                "neighbours": partial(large.knn.evaluate, z),
            },
            4,
        )
        share = times["correction"] / times["GFN1-xTB"]
        found.append({"atoms": len(atoms), "ms": times, "share": share})
    sizes = [row["atoms"] for row in found]
    return {
        "n": n,
        "library": baseline.spec(),
        "sizes": found,
        "slopes": {
            name: slope(sizes, [row["ms"][name] for row in found])
            for name in ("GFN1-xTB", "correction")
        },
    }


# ------------------------------------------------------------------------------------------------


def plot(path: Path, results: dict[str, Any]) -> None:
    """Three panels: queries by n, the published way, correction by size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    versus = results["queries"]["faiss"]
    sizes = [row["n"] for row in versus]
    for kind, style in (("single", "o-"), ("batch", "s--")):
        for name, colour in (("ours", "C0"), ("faiss", "C1")):
            axes[0].loglog(
                sizes,
                [row[f"{kind}_ms"][name] for row in versus],
                style,
                color=colour,
                label=f"{name}, {kind}",
            )
    published = results["queries"]["published"]
    axes[0].loglog(
        [published["n"]], [published["ms"]["published"]], "k*", ms=10, label="published way"
    )
    axes[0].set(
        xlabel="structures in the index", ylabel="ms a query", title="10 nearest neighbours"
    )
    by_size = results["correction"]["sizes"]
    for name in ("GFN1-xTB", "correction", "descriptor", "neighbours"):
        axes[1].loglog(
            [row["atoms"] for row in by_size],
            [row["ms"][name] for row in by_size],
            "o-",
            label=name,
        )
    axes[1].set(xlabel="atoms", ylabel="ms a structure", title="250,000 structures in the index")
    krr_rows = results["krr"]["sizes"]
    for name, colour in (("KRR", "C1"), ("ours", "C0")):
        for key, style, what in (
            ("train_seconds", "o-", "training (s)"),
            ("predict_ms", "s--", "prediction (ms)"),
        ):
            axes[2].loglog(
                [row["n"] for row in krr_rows],
                [row[key][name] for row in krr_rows],
                style,
                color=colour,
                label=f"{name}, {what}",
            )
    axes[2].set(xlabel="training structures", title="KRR with the local kernel")
    for axis, ticks in ((axes[1], (10, 20, 40, 80)), (axes[2], (75, 150, 300, 600))):
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(ticks, [str(t) for t in ticks])
    for axis in axes:
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "queries": queries,
    "mlkr": mlkr,
    "krr": krr,
    "correction": correction,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled data")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    for name in args.parts.split(","):
        start = time.process_time()
        results[name] = PARTS[name](args.data)
        results[name]["processor_seconds"] = time.process_time() - start
        args.output.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(results[name], indent=1), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak of memory: {peak:.0f} MiB")
    if args.plot:
        plot(args.plot, results)


if __name__ == "__main__":
    main()
