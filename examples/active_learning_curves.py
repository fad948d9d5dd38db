"""Which selection needs the fewest labels? Known: single molecules. Asked: clusters of them.

A study in small, on the labelled clusters of ``tests/data``; ``benchmarks/active_learning.py`` is
the same on thousands of clusters. Labels are taken from the file as if they were computed.
"""

from pathlib import Path

import numpy as np
from ase import units

from ase_knncalc import TrainingSettings
from ase_knncalc.data import read_dataset
from ase_knncalc.labels.training_data import prepare
from ase_knncalc.sampling.selection import Pool, kernel_rows, select, survey
from ase_knncalc.training import fit_model
from ase_knncalc.trend.sparse import SparseSettings

KCAL_PER_MOL = units.mol / units.kcal
BUDGETS = (2, 4, 6, 9, 12, 16)
SEEDS = 3
SETTINGS = TrainingSettings(
    sparse=SparseSettings(environments=100, variance_environments=100),
    metric="pca",
    n_components=10,
    folds=2,
    k=3,
)


def curve(data, known, pool, test, strategy: str, seed: int) -> list[float]:
    """Mean absolute error (eV) on the test structures after each budget."""
    errors, chosen, model = [], np.zeros(0, dtype=int), None
    for budget in BUDGETS:
        left = np.setdiff1d(np.arange(len(pool)), chosen)
        labelled = data.batch.select([*known, *pool[chosen]])
        asked = data.batch.select(pool[left])
        n = budget - len(chosen)
        if strategy == "variance" or (model is None and strategy != "random"):
            # No model is needed: the kernel knows what is new.
            rows = kernel_rows(labelled, asked, data.descriptor.elements, SETTINGS.sparse)
            blank = np.zeros((len(left), 1))
            state = Pool(blank[:, 0], blank[:, 0], blank, blank[:0], rows=rows)
            new = select(state, n, "variance", seed=seed)
        elif strategy == "random":
            new = np.random.default_rng([seed, budget]).permutation(len(left))[:n]
        else:
            new = select(survey(model, asked), n, strategy, seed=seed)
        chosen = np.concatenate([chosen, left[new]])
        model = fit_model(data.select([*known, *pool[chosen]]), SETTINGS).model
        error = model.correct_features(data.batch.select(test)).delta - data.delta[test]
        errors.append(float(np.abs(error).mean()))
    return errors


def main() -> None:
    """Print mean and standard error of each strategy over a few seeds."""
    path = Path(__file__).resolve().parents[1] / "tests" / "data" / "clusters_wb97xd.extxyz"
    if not path.exists():
        print(f"this example needs {path.name} of a source checkout")
        return
    frames = read_dataset(path).frames
    for atoms in frames:
        atoms.arrays.pop("reference_forces", None)
    data = prepare(frames, settings=SETTINGS, n_jobs=1).data
    single = np.array([g in ("1w", "1am", "1sa") for g in data.groups])
    print(f"{single.sum()} structures of single molecules, {(~single).sum()} of clusters")
    print("MAE (kcal/mol) after", ", ".join(map(str, BUDGETS)), "labels")
    for strategy in ("random", "energy_std", "diversity", "variance"):
        runs = []
        for seed in range(SEEDS):
            asked = np.random.default_rng(seed).permutation(np.flatnonzero(~single))
            half = len(asked) // 2
            runs.append(
                curve(data, np.flatnonzero(single), asked[half:], asked[:half], strategy, seed)
            )
        mae = KCAL_PER_MOL * np.array(runs)
        spread = mae.std(axis=0, ddof=1) / SEEDS**0.5
        cells = (f"{m:6.2f} ± {s:.2f}" for m, s in zip(mae.mean(axis=0), spread, strict=True))
        print(f"{strategy:12s}", " ".join(cells))


if __name__ == "__main__":
    main()
