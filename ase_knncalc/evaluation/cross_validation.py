"""Cross-validation: a method is judged only on structures that it has not seen.

Everything here works on descriptors and Δ that are computed once (:class:`TrainingData`).
"""

from __future__ import annotations

import time

import numpy as np
from ase.data import chemical_symbols

from ase_knncalc._lib.arguments import Count, OneOf, Seed, checked, instance
from ase_knncalc._lib.arrays import IntArray
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.evaluation.scores import Held
from ase_knncalc.labels.training_data import TrainingData
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training import fit_model


def evaluate_split(
    data: TrainingData,
    train_rows: IntArray,
    test_rows: IntArray,
    settings: TrainingSettings,
    test_data: TrainingData | None = None,
) -> Held:
    """Train on some rows, predict others (of ``test_data`` if given).

    Raises
    ------
    DataError
        If an element is in the structures left out only: no model would predict them.
    """
    known = data.select(train_rows)
    asked = (test_data or data).select(test_rows)
    unseen = np.setdiff1d(asked.batch.numbers, known.batch.numbers)
    if len(unseen):
        raise DataError(
            f"{', '.join(chemical_symbols[z] for z in unseen)} is in too few structures: all of "
            "them are left out together, and what is trained on the others cannot predict them; "
            "use more folds or another split, or leave these structures out"
        )
    start = time.process_time()
    model = fit_model(known, settings).model
    train_seconds = time.process_time() - start
    start = time.perf_counter()
    found = model.correct_features(asked.batch)
    return Held(
        np.asarray(test_rows),
        found.delta - asked.delta,
        found.energy_std,
        model.calibration.multiple(0.9) * found.energy_std,
        found.novelty,
        train_seconds,
        time.perf_counter() - start,
    )


SPLITS = ("random", "composition")


def splits(data: TrainingData, kind: str, folds: int, seed: int) -> list[tuple[IntArray, IntArray]]:
    """Folds of the data.

    Parameters
    ----------
    kind
        ``"random"``, or ``"composition"``: no composition is in both parts.
    folds
        Number of parts.
    seed
        Of the random split.

    Raises
    ------
    SettingsError
        If there are fewer structures or compositions than folds.
    """
    from sklearn.model_selection import GroupKFold, KFold

    instance("data", data, TrainingData)
    folds = checked("folds", folds, Count)
    checked("seed", seed, Seed)
    n_groups = len(set(data.groups))
    available = len(data) if kind == "random" else n_groups
    checked("split", kind, OneOf(SPLITS))
    if not 2 <= folds <= available:
        raise SettingsError(
            f"{folds} folds asked for; between 2 and {available} are possible for a {kind} split"
        )
    rows = np.zeros((len(data), 1))
    if kind == "random":
        return list(KFold(folds, shuffle=True, random_state=seed).split(rows))
    return list(GroupKFold(folds).split(rows, groups=data.groups))


def cross_validate(
    data: TrainingData,
    settings: TrainingSettings,
    *,
    split: str = "random",
    folds: int = 5,
    n_jobs: int = 1,
    progress: bool = False,
) -> Held:
    """Predict every structure with a model that has not seen its fold.

    ``n_jobs`` folds are worked on at a time; each holds its own part of the data.
    """
    instance("settings", settings, TrainingSettings)
    jobs = [
        (data, train_rows, test_rows, settings)
        for train_rows, test_rows in splits(data, split, folds, settings.seed)
    ]
    parts = run(evaluate_split, jobs, total=len(jobs), n_jobs=n_jobs)
    return Held.join(list(track(parts, total=len(jobs), text="folds", show=progress)))
