"""How accurate a method is: cross-validation, learning curves, comparisons.

Everything here works on descriptors and Δ that are computed once (:class:`TrainingData`), and
judges a method only on structures that it has not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.parallel import run
from ase_knncalc.preparation import TrainingData
from ase_knncalc.progress import track
from ase_knncalc.settingcheck import instance, is_real, one_of, several, whole
from ase_knncalc.settingcheck import seed as check_seed
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training import fit_model

FloatArray = np.ndarray
IntArray = np.ndarray


@dataclass(frozen=True)
class Scores:
    """Errors of predictions (eV) and of what is said about them.

    Attributes
    ----------
    n : int
    mae, rmse, p95 : float
        Mean absolute, root mean square, and 95th percentile of the absolute error, eV.
    coverage : float
        Fraction of errors inside the 90 % interval.
    spearman : float
        Rank correlation of absolute error and predicted standard deviation.
    novel : float
        Fraction with novelty above 1.
    train_seconds : float
        Processor time of training, descriptors and labels excluded.
    predict_milliseconds : float
        Wall time a structure of trend, neighbours and uncertainty, descriptors excluded.
    """

    n: int
    mae: float
    rmse: float
    p95: float
    coverage: float
    spearman: float
    novel: float
    train_seconds: float
    predict_milliseconds: float

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Held:
    """Predictions for structures that the method has not seen, in the order of the data.

    Attributes
    ----------
    indices : ndarray of int, shape (m,)
        Which structures.
    error, std, half_width, novelty : ndarray, shape (m,)
        Predicted minus true Δ, standard deviation and half of the 90 % interval in eV; novelty.
    train_seconds, predict_seconds : float
        Totals over all folds.
    """

    indices: IntArray
    error: FloatArray
    std: FloatArray
    half_width: FloatArray
    novelty: FloatArray
    train_seconds: float
    predict_seconds: float

    @property
    def scores(self) -> Scores:
        """Summary of these predictions."""
        from scipy.stats import spearmanr

        size = np.abs(self.error)
        varies = len(size) > 2 and np.ptp(self.std) > 0 and np.ptp(size) > 0
        return Scores(
            n=len(size),
            mae=float(size.mean()),
            rmse=float(np.sqrt(np.mean(size**2))),
            p95=float(np.quantile(size, 0.95)),
            coverage=float(np.mean(size <= self.half_width)),
            spearman=float(spearmanr(size, self.std).statistic) if varies else float("nan"),
            novel=float(np.mean(self.novelty > 1)),
            train_seconds=self.train_seconds,
            predict_milliseconds=1000 * self.predict_seconds / len(size),
        )

    @staticmethod
    def join(parts: Sequence[Held]) -> Held:
        """Several folds as one, ordered by structure."""
        order = np.argsort(np.concatenate([p.indices for p in parts]), kind="stable")

        def stack(name: str) -> FloatArray:
            return np.asarray(np.concatenate([getattr(p, name) for p in parts])[order])

        return Held(
            stack("indices"),
            stack("error"),
            stack("std"),
            stack("half_width"),
            stack("novelty"),
            sum(p.train_seconds for p in parts),
            sum(p.predict_seconds for p in parts),
        )


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

    instance(TrainingData)("data", data)
    folds = whole(1)("folds", folds)
    check_seed("seed", seed)
    n_groups = len(set(data.groups))
    available = len(data) if kind == "random" else n_groups
    one_of(SPLITS)("split", kind)
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
    instance(TrainingSettings)("settings", settings)
    jobs = [
        (data, train_rows, test_rows, settings)
        for train_rows, test_rows in splits(data, split, folds, settings.seed)
    ]
    parts = run(evaluate_split, jobs, total=len(jobs), n_jobs=n_jobs)
    return Held.join(list(track(parts, total=len(jobs), text="folds", show=progress)))


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
    for name, settings in instance(Mapping)("methods", methods).items():
        instance(TrainingSettings)("each of methods", settings)
        for train_rows, test_rows in splits(data, split, folds, settings.seed):
            jobs.append((data, train_rows, test_rows, settings))
            names.append(name)
    parts = run(evaluate_split, jobs, total=len(jobs), n_jobs=n_jobs)
    found: dict[str, list[Held]] = {}
    shown = track(parts, total=len(jobs), text="folds", show=progress)
    for name, part in zip(names, shown, strict=True):
        found.setdefault(name, []).append(part)
    return {name: Held.join(held) for name, held in found.items()}


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
    instance(TrainingData)("data", data)
    instance(TrainingSettings)("settings", settings)
    repeats = whole(1)("repeats", repeats)
    sizes = several(whole(1))("training sizes", sizes)
    if not is_real(test_fraction) or not 0 < test_fraction < 1:
        raise SettingsError(f"test_fraction must lie between 0 and 1, got {test_fraction!r}")
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
    for name, settings in instance(Mapping)("candidates", candidates).items():
        instance(TrainingSettings)("each of candidates", settings)
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
