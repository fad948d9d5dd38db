"""Accuracy of every method on the same splits: one command, one JSON.

    python benchmarks/accuracy.py --output accuracy.json [--quick] [--cache labels.db]

Labelled data are looked for in ``../shared/data`` beside the project (``--data``). Nothing is tuned
here: settings are the package's own, and those inside a training come from cross-validation within
its training part.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import units
from comparators import METHODS as COMPARATORS
from comparators import Comparison, local_krr

from ase_knncalc import KeyMap
from ase_knncalc.evaluation import Held, cross_validate, evaluate_split, splits
from ase_knncalc.labels.training_data import TrainingData, prepare
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.trend.sparse import SparseSettings

KCAL_PER_MOL = units.mol / units.kcal

METHODS = {
    "sparse trend + k-NN (default)": TrainingSettings(),
    "linear trend + k-NN": TrainingSettings(trend="linear"),
    "k-NN, MLKR, 1/d (the paper's method)": TrainingSettings(trend="none"),
    "k-NN, Euclidean, 1/d": TrainingSettings(trend="none", metric="euclidean"),
    "k-NN, kernel-induced, 1/d": TrainingSettings(trend="none", metric="kernel"),
    "k-NN, PCA of the same rank": TrainingSettings(trend="none", metric="pca"),
    "k-NN, random projection": TrainingSettings(trend="none", metric="random"),
}
LARGE_SPARSE = SparseSettings(environments=1500, length_scale=6.0)


class Bench:
    """Runs cases, prints and keeps every result as soon as it is there."""

    def __init__(self, output: Path, data: Path, cache: Path | None) -> None:
        self.output, self.data, self.cache = output, data, cache
        self.rows: list[dict] = json.loads(output.read_text()) if output.exists() else []
        self._prepared: dict[tuple, TrainingData] = {}

    def load(
        self, settings: TrainingSettings, files: tuple[str, ...], keys: KeyMap, baseline="auto"
    ):
        """Descriptors depend on the trend's preset only: computed once for each."""
        key = (settings.trend == "sparse", files)
        if key not in self._prepared:
            self._prepared[key] = prepare(
                [self.data / f for f in files],
                settings=settings,
                keys=keys,
                baseline=baseline,
                cache=self.cache,
            ).data
        return self._prepared[key]

    def done(self, test: str, method: str) -> bool:
        return any(r["test"] == test and r["method"] == method for r in self.rows)

    def keep(self, test: str, method: str, held: Held, n_train: int) -> None:
        row = {"test": test, "method": method, "n_train": n_train, **held.scores.to_dict()}
        self.rows.append(row)
        self.output.write_text(json.dumps(self.rows, indent=1))
        print(
            f"{test:34s} {method:38s} MAE {KCAL_PER_MOL * row['mae']:7.3f}  RMSE "
            f"{KCAL_PER_MOL * row['rmse']:7.3f}  95% {KCAL_PER_MOL * row['p95']:7.3f}  cover "
            f"{row['coverage']:.3f}  Spearman {row['spearman']:5.2f}  novel {row['novel']:.3f}  "
            f"{row['train_seconds']:7.1f} s  {row['predict_milliseconds']:6.2f} ms",
            flush=True,
        )


# Forces of the off-equilibrium frames are 1/Bohr times too large for eV/Å; reading checks that.
SAW = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy", force_unit=units.Bohr)


def saw(bench: Bench, methods: dict[str, TrainingSettings]) -> None:
    """Sulfuric acid–water: 5-fold, larger clusters, off-equilibrium structures."""
    for name, settings in methods.items():
        data = bench.load(settings, ("saw_equilibrium.extxyz.gz",), SAW)
        everything = np.arange(len(data))
        if not bench.done("SA–W 5-fold", name):
            bench.keep("SA–W 5-fold", name, cross_validate(data, settings), int(0.8 * len(data)))
        for test, file in (
            ("4sa5w equilibrium", "saw_4sa5w_equilibrium.extxyz.gz"),
            ("4sa5w off-equilibrium", "saw_4sa5w_offequilibrium.extxyz.gz"),
        ):
            if not bench.done(test, name):
                other = bench.load(settings, (file,), SAW)
                held = evaluate_split(data, everything, np.arange(len(other)), settings, other)
                bench.keep(test, name, held, len(data))


def multibase(bench: Bench, methods: dict[str, TrainingSettings]) -> None:
    """Multibase: random tenth, held-out compositions, and ammonia never seen."""
    files = ("multibase_equilibrium.extxyz.gz", "saw_equilibrium.extxyz.gz")
    for name, settings in methods.items():
        if settings.trend == "sparse":
            settings = replace(settings, sparse=LARGE_SPARSE)
        data = bench.load(settings, files, SAW)
        for test, (known, asked) in multibase_splits(data).items():
            if not bench.done(test, name):
                bench.keep(test, name, evaluate_split(data, known, asked, settings), len(known))


def multibase_splits(data: TrainingData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training and test rows; only multibase structures (not SA–W) are tested."""
    rng = np.random.default_rng(0)
    groups = np.array(data.groups)
    bases = np.array([any(b in g for b in ("am", "ma", "eda")) or _other(g) for g in groups])
    tested = np.flatnonzero(bases)
    random = np.sort(rng.choice(tested, len(tested) // 10, replace=False))
    compositions = rng.permutation(np.unique(groups[tested]))
    held = np.isin(groups, compositions[: len(compositions) // 8])
    ammonia = np.array([_has(g, "am") for g in groups])
    everything = np.arange(len(data))
    return {
        "multibase random 10 %": (np.setdiff1d(everything, random), random),
        "multibase new compositions": (everything[~held], everything[held]),
        "multibase without ammonia": (everything[~ammonia], everything[ammonia]),
    }


def _molecules(group: str) -> dict[str, int]:
    import re

    return {m: int(n) for n, m in re.findall(r"(\d+)([A-Za-z]+)", group)}


def _has(group: str, molecule: str) -> bool:
    return molecule in _molecules(group)


def _other(group: str) -> bool:
    return bool(set(_molecules(group)) - {"sa", "w"})


def qm7(bench: Bench, methods: dict[str, TrainingSettings]) -> None:
    """QM7 heats of formation: direct and Δ, 80 % for training."""
    cases = {
        "QM7 direct": KeyMap(reference_energy="hof_high"),
        "QM7 Δ (DFTB → PBE0)": KeyMap(reference_energy="hof_high", baseline_energy="hof_low"),
    }
    for test, keys in cases.items():
        for name, settings in methods.items():
            if bench.done(test, name):
                continue
            bench._prepared.clear()
            baseline = "none" if test == "QM7 direct" else "given"
            data = bench.load(settings, ("qm7.extxyz.gz",), keys, baseline=baseline)
            order = np.random.default_rng(0).permutation(len(data))
            cut = int(0.8 * len(data))
            held = evaluate_split(data, np.sort(order[:cut]), np.sort(order[cut:]), settings)
            bench.keep(test, name, held, cut)


def full_krr(bench: Bench) -> None:
    """KRR with the full local kernel: SA–W fold 1, 4sa5w, and multibase at n = 1,000.

    The first with qmllib, as the literature has it; the others with the same kernel from matrix
    products, which takes a thirtieth of the time.
    """
    name = "KRR, full local kernel"
    settings = TrainingSettings(trend="linear")  # FCHL19 as published
    data = bench.load(settings, ("saw_equilibrium.extxyz.gz",), SAW)
    other = bench.load(settings, ("saw_4sa5w_equilibrium.extxyz.gz",), SAW)
    known, asked = splits(data, "random", 5, 0)[0]
    cases = {
        "SA–W fold 1": (data.select(known), data.select(asked)),
        "4sa5w equilibrium": (data, other),
    }
    files = ("multibase_equilibrium.extxyz.gz", "saw_equilibrium.extxyz.gz")
    large = bench.load(settings, files, SAW)
    random_known, random_asked = multibase_splits(large)["multibase random 10 %"]
    few = np.sort(np.random.default_rng(1).choice(random_known, 1000, replace=False))
    some = random_asked[::4]
    cases["multibase n = 1000"] = (large.select(few), large.select(some))
    for test, (train, test_data) in cases.items():
        if bench.done(test, name):
            continue
        found = local_krr(train, test_data, library="qmllib" if "fold" in test else "blas")
        bench.keep(test, name, _held([found], [(train, test_data)]), len(train))
    method = next(iter(METHODS))
    sparse = METHODS[method]
    data = bench.load(sparse, ("saw_equilibrium.extxyz.gz",), SAW)
    if not bench.done("SA–W fold 1", method):
        bench.keep("SA–W fold 1", method, evaluate_split(data, known, asked, sparse), len(known))
    if not bench.done("multibase n = 1000", method):
        data = bench.load(sparse, files, SAW)
        bench.keep("multibase n = 1000", method, evaluate_split(data, few, some, sparse), 1000)


# Comparators that see Δ without a trend, beside those among METHODS.
PLAIN = ("MLKR's own regressor",)


def comparators_on_saw(bench: Bench) -> None:
    """The methods that the package does not offer as a model, on SA–W."""
    settings = TrainingSettings(trend="none")
    data = bench.load(settings, ("saw_equilibrium.extxyz.gz",), SAW)
    folds = splits(data, "random", 5, 0)
    cases = {"SA–W 5-fold": [(data.select(a), data.select(b)) for a, b in folds]}
    for test in ("equilibrium", "offequilibrium"):
        other = bench.load(settings, (f"saw_4sa5w_{test}.extxyz.gz",), SAW)
        cases[f"4sa5w {test.replace('off', 'off-')}"] = [(data, other)]
    for name in PLAIN:
        for test, pairs in cases.items():
            if not bench.done(test, name):
                found = [COMPARATORS[name](train, asked) for train, asked in pairs]
                bench.keep(test, name, _held(found, pairs), len(pairs[0][0]))


def _held(found: list[Comparison], pairs: list[tuple[TrainingData, TrainingData]]) -> Held:
    """Errors of comparators, all folds together; they state no calibrated uncertainty."""
    error = np.concatenate(
        [result.delta - test.delta for result, (_, test) in zip(found, pairs, strict=True)]
    )
    empty = np.full(len(error), np.nan)
    return Held(
        np.arange(len(error)),
        error,
        empty,
        empty,
        empty,
        sum(result.train_cpu_seconds for result in found),
        sum(
            result.predict_ms_per_structure * len(test) / 1000
            for result, (_, test) in zip(found, pairs, strict=True)
        ),
    )


def main() -> None:
    """Run what is not in the output yet."""
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=here / "benchmarks" / "accuracy.json")
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, help="label cache of baseline energies")
    parser.add_argument("--quick", action="store_true", help="SA–W only")
    parser.add_argument("--only", default="", help="part of the names of methods to run")
    arguments = parser.parse_args()
    start = time.time()
    bench = Bench(arguments.output, arguments.data, arguments.cache)
    methods = {n: s for n, s in METHODS.items() if arguments.only in n}
    saw(bench, methods)
    comparators_on_saw(bench)
    if not arguments.quick:
        multibase(bench, methods)
        qm7(bench, methods)
        full_krr(bench)
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
