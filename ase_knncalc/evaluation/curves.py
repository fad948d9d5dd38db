"""Learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from ase_knncalc._lib.arguments import Count, Several, checked, instance
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc.errors import SettingsError
from ase_knncalc.evaluation.cross_validation import evaluate_split
from ase_knncalc.evaluation.scores import Scores
from ase_knncalc.labels.training_data import TrainingData
from ase_knncalc.settings import TrainingSettings


def learning_curve(
    data: TrainingData,
    settings: TrainingSettings,
    *,
    sizes: Sequence[int],
    repeats: int = 3,
    test_fraction: float = 0.2,
    n_jobs: int = 1,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Error against the number of training structures.

    Each repeat keeps its own test part; training sets of growing size are nested.

    Returns
    -------
    list of dict
        ``size``, ``mae``, ``mae_sd`` (over repeats), ``rmse`` in eV, ``spearman``, ``coverage``.
    """
    instance("data", data, TrainingData)
    instance("settings", settings, TrainingSettings)
    repeats = checked("repeats", repeats, Count)
    sizes = checked("sizes", sizes, Several[Count])
    test_fraction = checked("test_fraction", test_fraction, Annotated[float, Gt(0), Lt(1)])
    n_test = max(1, round(test_fraction * len(data)))
    largest = len(data) - n_test
    bad = [s for s in sizes if not 2 <= s <= largest]
    if bad:
        raise SettingsError(
            f"training sizes must lie between 2 and {largest} ({n_test} structures are kept for "
            f"testing), got {list(sizes)}"
        )
    orders = [
        np.random.default_rng(settings.seed + r).permutation(len(data)) for r in range(repeats)
    ]
    chosen = [(size, order) for size in sorted(sizes) for order in orders]
    jobs = [
        (data, order[n_test : n_test + size], order[:n_test], settings) for size, order in chosen
    ]
    parts = run(evaluate_split, jobs, total=len(jobs), n_jobs=n_jobs)
    found: dict[int, list[Scores]] = {}
    shown = track(parts, total=len(jobs), text="training", show=progress)
    for (size, _), held in zip(chosen, shown, strict=True):
        found.setdefault(size, []).append(held.scores)
    return [
        {
            "size": size,
            "mae": float(np.mean([s.mae for s in scores])),
            "mae_sd": float(np.std([s.mae for s in scores])),
            "rmse": float(np.mean([s.rmse for s in scores])),
            "spearman": float(np.mean([s.spearman for s in scores])),
            "coverage": float(np.mean([s.coverage for s in scores])),
        }
        for size, scores in found.items()
    ]
