"""Methods and settings compared on the same splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ase_knncalc._lib.arguments import instance
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc.evaluation.cross_validation import evaluate_split, splits
from ase_knncalc.evaluation.scores import Held
from ase_knncalc.labels.training_data import TrainingData
from ase_knncalc.settings import TrainingSettings


def compare(
    data: TrainingData,
    methods: Mapping[str, TrainingSettings],
    *,
    split: str = "random",
    folds: int = 5,
    n_jobs: int = 1,
    progress: bool = False,
) -> dict[str, Held]:
    """Cross-validate several methods on the same folds."""
    jobs, names = [], []
    for name, settings in instance("methods", methods, Mapping).items():
        instance("each of methods", settings, TrainingSettings)
        for train_rows, test_rows in splits(data, split, folds, settings.seed):
            jobs.append((data, train_rows, test_rows, settings))
            names.append(name)
    parts = run(evaluate_split, jobs, total=len(jobs), n_jobs=n_jobs)
    found: dict[str, list[Held]] = {}
    shown = track(parts, total=len(jobs), text="folds", show=progress)
    for name, part in zip(names, shown, strict=True):
        found.setdefault(name, []).append(part)
    return {name: Held.join(held) for name, held in found.items()}


def tune(
    data: TrainingData,
    candidates: Mapping[str, TrainingSettings],
    *,
    folds: int = 3,
    n_jobs: int = 1,
    progress: bool = False,
    report: Callable[[str, dict[str, Any]], None] | None = None,
) -> tuple[str, dict[str, dict[str, float]]]:
    """The candidate with the lowest mean error over random and composition splits.

    Returns
    -------
    best : str
        Name of the best candidate.
    table : dict
        For each candidate ``random`` and ``composition`` mean absolute errors in eV.
    """
    n_groups = len(set(data.groups))
    kinds = {"random": folds}
    if n_groups >= 2:
        kinds["composition"] = min(folds, n_groups)
    jobs, owners = [], []
    for name, settings in instance("candidates", candidates, Mapping).items():
        instance("each of candidates", settings, TrainingSettings)
        for kind, parts in kinds.items():
            for train_rows, test_rows in splits(data, kind, parts, settings.seed):
                jobs.append((data, train_rows, test_rows, settings))
                owners.append((name, kind))
    held: dict[tuple[str, str], list[Held]] = {}
    table: dict[str, dict[str, float]] = {name: {} for name in candidates}
    results = run(evaluate_split, jobs, total=len(jobs), n_jobs=n_jobs)
    shown = track(results, total=len(jobs), text="folds", show=progress)
    for (name, kind), part in zip(owners, shown, strict=True):
        held.setdefault((name, kind), []).append(part)
        if len(held[name, kind]) == kinds[kind]:
            table[name][kind] = Held.join(held.pop((name, kind))).scores.mae
            if report is not None and len(table[name]) == len(kinds):
                report(name, table[name])
    return min(table, key=lambda name: float(np.mean(list(table[name].values())))), table
