"""Which selection needs the fewest labels: from sulfuric acid–water to clusters with ammonia.

    python benchmarks/active_learning.py [--seeds 5] [--cache labels.db] [--table]

Each seed draws 600 sulfuric acid–water clusters that are known, 1,000 clusters with ammonia for the
test, and 2,500 others for the pool, unlabelled. Each strategy buys labels in
batches, trains a model on all it has, and is tested. Labels are those of ``multibase_equilibrium``,
given out as if they were computed. Descriptors are computed once; what is wrong beyond doubt
(``knncalc check``) is left out before.

Two scenarios: all clusters with ammonia, and the neutral ones only. With charged ones, random
selection pays for not having seen some charge, whose offset no model can guess.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from itertools import product
from pathlib import Path

import numpy as np
from ase import units

from ase_knncalc import KeyMap
from ase_knncalc.data import read_dataset
from ase_knncalc.evaluation.plots import plot_strategies
from ase_knncalc.labels.suspects import find_suspects, leave_out
from ase_knncalc.labels.training_data import TrainingData, prepare
from ase_knncalc.sampling.selection import (
    Pool,
    farthest_points,
    kernel_rows,
    select,
    survey,
)
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training import FittedModel, fit_model
from ase_knncalc.trend.sparse import SparseSettings

KCAL_PER_MOL = units.mol / units.kcal
KEYS = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")
STRATEGIES = ("random", "energy_std", "diversity", "combined", "variance")
BUDGETS = (20, 40, 60, 80, 100, 120, 160, 200)
KNOWN, TESTED, POOL = 600, 1000, 2500
# Small training sets need fewer environments, and the metric few iterations: a training takes
# seconds.
SETTINGS = TrainingSettings(
    sparse=SparseSettings(environments=300, variance_environments=150),
    metric_samples=500,
    metric_iterations=20,
    folds=2,
)
DESIGN = SparseSettings(variance_environments=300)


def load(folder: Path, cache: Path | None) -> TrainingData:
    """Sulfuric acid–water clusters and all that hold ammonia, described once."""
    saw = read_dataset(folder / "saw_equilibrium.extxyz.gz", keys=KEYS).frames
    multibase = read_dataset(folder / "multibase_equilibrium.extxyz.gz", keys=KEYS).frames
    ammonia = [a for a in multibase if has_ammonia(a.info["composition"])]
    prepared = prepare(saw + ammonia, settings=SETTINGS, cache=cache, n_jobs=1)
    return leave_out(prepared, find_suspects(prepared.data, prepared.frames, seed=0)).data


def has_ammonia(composition: str) -> bool:
    """Whether ``am`` is among the molecules of a label such as ``1am2sa``."""
    return "am" in re.findall(r"[a-z]+", composition)


class Study:
    """One draw of known, pool and test structures."""

    def __init__(self, data: TrainingData, seed: int, neutral: bool) -> None:
        rng = np.random.default_rng(seed)
        ammonia = np.array([has_ammonia(g) for g in data.groups])
        asked = np.flatnonzero(ammonia)
        if neutral:
            asked = asked[data.batch.charges[asked] == 0]
        asked = rng.permutation(asked)
        self.data, self.seed = data, seed
        self.test, self.pool = np.sort(asked[:TESTED]), np.sort(asked[TESTED : TESTED + POOL])
        self.known = np.sort(rng.choice(np.flatnonzero(~ammonia), KNOWN, replace=False))
        data.batch.summed()  # once, for all that is selected from it
        self.test_batch = data.batch.select(self.test)
        self.pool_batch = data.batch.select(self.pool)
        self._order: np.ndarray | None = None

    def run(self, strategy: str) -> dict[str, list[float]]:
        """Errors (eV) on the test structures after each budget."""
        chosen = np.zeros(0, dtype=np.intp)  # places in the pool
        found: dict[str, list[float]] = {"mae": [], "rmse": [], "coverage": []}
        fitted: FittedModel | None = None
        for budget in BUDGETS:
            new = self.choose(strategy, fitted, chosen, budget - len(chosen))
            chosen = np.concatenate([chosen, new])
            train = np.concatenate([self.known, self.pool[chosen]])
            fitted = fit_model(self.data.select(train), SETTINGS)
            prediction = fitted.model.correct_features(self.test_batch)
            error = np.abs(prediction.delta - self.data.delta[self.test])
            half = prediction.calibration.multiple(0.9) * prediction.energy_std
            found["mae"].append(float(error.mean()))
            found["rmse"].append(float(np.sqrt(np.mean(error**2))))
            found["coverage"].append(float(np.mean(error <= half)))
        return found

    def choose(
        self, strategy: str, fitted: FittedModel | None, chosen: np.ndarray, n: int
    ) -> np.ndarray:
        """Places in the pool of the next batch."""
        if strategy == "variance":
            return self.by_variance()[len(chosen) : len(chosen) + n]
        left = np.setdiff1d(np.arange(len(self.pool)), chosen)
        seed = 1000 * self.seed + len(chosen)
        if strategy == "random":
            return np.random.default_rng(seed).permutation(left)[:n]
        if fitted is None:
            # No model covers nitrogen yet: as the loop does, the most different ones.
            summed = self.pool_batch.summed()
            scale = np.sqrt(summed.var(axis=0).sum())
            points = np.hstack([summed / scale, 2.0 * self.pool_batch.charges[:, None]])
            return farthest_points(points, np.zeros((0, points.shape[1])), n)
        pool = survey(fitted.model, self.pool_batch.select(left), strategy=strategy)
        return left[select(pool, n, strategy, seed=seed)]

    def by_variance(self) -> np.ndarray:
        """The whole order at once: this strategy asks neither labels nor models."""
        if self._order is None:
            rows = kernel_rows(
                self.data.batch.select(self.known),
                self.pool_batch,
                self.data.descriptor.elements,
                DESIGN,
                seed=self.seed,
            )
            nothing = np.zeros((len(rows), 1))
            pool = Pool(nothing[:, 0], nothing[:, 0], nothing, nothing[:0], rows=rows)
            self._order = select(pool, BUDGETS[-1], "variance", seed=self.seed)
        return self._order


def summary(rows: list[dict], scenario: str) -> dict[str, dict[str, np.ndarray]]:
    """Curves of each strategy, one row a seed."""
    curves: dict[str, dict[str, np.ndarray]] = {}
    rows = [r for r in rows if r["scenario"] == scenario]
    for strategy in dict.fromkeys(r["strategy"] for r in rows):
        mine = sorted((r for r in rows if r["strategy"] == strategy), key=lambda r: r["seed"])
        curves[strategy] = {
            "labels": np.array(BUDGETS),
            **{k: np.array([r[k] for r in mine]) for k in ("mae", "rmse", "coverage")},
        }
    return curves


def labels_needed(curve: np.ndarray, target: float) -> float:
    """Labels at which a mean curve stays below an error; NaN if it does not."""
    below = curve <= target
    if not below[-1]:
        return float("nan")
    i = len(curve) - int(np.argmin(below[::-1])) if not below.all() else 0
    if i == 0:
        return float(BUDGETS[0])
    a, b = np.log(curve[i - 1]), np.log(curve[i])
    part = (a - np.log(target)) / (a - b)
    return float(BUDGETS[i - 1] + (BUDGETS[i] - BUDGETS[i - 1]) * part)


def table(rows: list[dict], scenario: str) -> str:
    """Mean errors over seeds, and labels needed for what random selection reaches."""
    curves = summary(rows, scenario)
    header = [f"| {scenario} | " + " | ".join(f"{b}" for b in BUDGETS) + " |"]
    header.append("| --- |" + " --- |" * len(BUDGETS))
    lines = list(header)
    for kind in ("mae", "rmse"):
        for name, curve in curves.items():
            values = KCAL_PER_MOL * curve[kind]
            n = len(values)
            error = values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(BUDGETS))
            pairs = zip(values.mean(axis=0), error, strict=True)
            cells = " | ".join(f"{m:.2f} ± {e:.2f}" for m, e in pairs)
            lines.append(f"| {name}, {kind} | {cells} |")
    lines += ["", "Labels needed to stay below random's error, as a fraction of random's:", ""]
    lines += header
    for kind in ("mae", "rmse"):
        for name, curve in curves.items():
            if name == "random":
                continue
            cells_ = []
            for i, budget in enumerate(BUDGETS):
                target = float(curves["random"][kind].mean(axis=0)[i])
                needed = labels_needed(curve[kind].mean(axis=0), target)
                cells_.append(f"{needed / budget:.2f}" if needed == needed else "–")
            lines.append(f"| {name}, {kind} | {' | '.join(cells_)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not in the output yet."""
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=here / "benchmarks" / "active_learning.json")
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, help="label cache of baseline energies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenarios", default="all,neutral", help="comma-separated")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="comma-separated")
    parser.add_argument("--table", action="store_true", help="print the table of the output only")
    arguments = parser.parse_args()
    output = arguments.output
    rows: list[dict] = json.loads(output.read_text()) if output.exists() else []
    scenarios = arguments.scenarios.split(",")
    if not arguments.table:
        run(arguments, rows, scenarios)
    for scenario in scenarios:
        print(table(rows, scenario), end="\n\n")
        plot_strategies(output.with_name(f"{output.stem}_{scenario}.png"), summary(rows, scenario))


def run(arguments: argparse.Namespace, rows: list[dict], scenarios: list[str]) -> None:
    """Add the missing rows, each written as soon as it is there."""
    start = time.process_time()
    data = load(arguments.data, arguments.cache)
    print(f"{len(data)} structures, {time.process_time() - start:.0f} s", flush=True)
    for seed, scenario in product(range(arguments.seeds), scenarios):
        study = Study(data, seed, scenario == "neutral")
        for strategy in arguments.strategies.split(","):
            key = {"scenario": scenario, "strategy": strategy, "seed": seed}
            if any(key.items() <= r.items() for r in rows):
                continue
            start = time.process_time()
            found = study.run(strategy)
            seconds = time.process_time() - start
            rows.append({**key, "seconds": seconds, **found})
            arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
            curve = " ".join(f"{KCAL_PER_MOL * x:.2f}" for x in found["mae"])
            print(f"{seed} {scenario:8s} {strategy:12s} {curve}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
