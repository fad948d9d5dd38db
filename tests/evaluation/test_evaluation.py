"""Cross-validation, comparisons and learning curves: honest and on the same splits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.factories import water_clusters

from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.evaluation import (
    Held,
    compare,
    cross_validate,
    evaluate_split,
    learning_curve,
    splits,
    tune,
)
from ase_knncalc.evaluation.plots import plot_held_out, plot_learning_curves
from ase_knncalc.labels.training_data import prepare
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.trend.sparse import SparseSettings

FAST = TrainingSettings(trend="linear", n_components=4, metric_iterations=10, k=3, folds=2)


@pytest.fixture(scope="module")
def data(water_frames):
    return prepare(water_frames, settings=FAST, baseline="none", n_jobs=1).data


@pytest.mark.parametrize("trend", ["sparse", "linear", "none"])
def test_an_element_that_the_training_part_lacks_is_an_error(cluster_frames, trend) -> None:
    """Not a number from offsets that nothing has fixed."""
    frames = [a.copy() for a in cluster_frames if a.info["composition"] in ("1w", "1am")]
    settings = TrainingSettings(trend=trend, n_components=4, metric_iterations=5, k=3, folds=2)
    data = prepare(frames, settings=settings, n_jobs=1).data
    with_nitrogen = np.array(["am" in g for g in data.groups])
    assert with_nitrogen.any()
    with pytest.raises(DataError, match=r"N is in too few structures"):
        evaluate_split(
            data, np.flatnonzero(~with_nitrogen), np.flatnonzero(with_nitrogen), settings
        )


def test_every_structure_is_predicted_once_by_a_model_that_has_not_seen_it(data) -> None:
    held = cross_validate(data, FAST, folds=3)
    np.testing.assert_array_equal(held.indices, np.arange(len(data)))
    scores = held.scores
    assert scores.n == len(data)
    assert scores.mae <= scores.rmse <= np.abs(held.error).max()
    assert scores.mae > 0


def test_test_labels_do_not_reach_the_training(data) -> None:
    known, asked = splits(data, "random", 3, 0)[0]
    first = evaluate_split(data, known, asked, FAST)
    spoiled = data.select(np.arange(len(data)))
    spoiled.delta[asked] += 100.0
    second = evaluate_split(spoiled, known, asked, FAST)
    np.testing.assert_allclose(second.error, first.error - 100.0)


def test_composition_split_keeps_compositions_apart(data) -> None:
    for known, asked in splits(data, "composition", 4, 0):
        assert not {data.groups[i] for i in known} & {data.groups[i] for i in asked}


def test_methods_see_the_same_folds(data) -> None:
    found = compare(data, {"a": FAST, "b": FAST}, folds=2)
    np.testing.assert_array_equal(found["a"].error, found["b"].error)


def test_learning_curve_goes_down(data) -> None:
    rows = learning_curve(data, FAST, sizes=[10, 40], repeats=2)
    assert [r["size"] for r in rows] == [10, 40]
    assert rows[1]["mae"] < rows[0]["mae"]


def test_tune_finds_the_better_length_scale(water_frames) -> None:
    frames = water_clusters(40, seed=9)
    settings = TrainingSettings(n_components=3, metric_iterations=5, k=3, folds=2)
    data = prepare(frames, settings=settings, baseline="none", n_jobs=1).data
    candidates = {
        str(s): TrainingSettings(
            n_components=3,
            metric_iterations=5,
            k=3,
            folds=2,
            sparse=SparseSettings(length_scale=s, environments=60),
        )
        for s in (0.01, 10.0)
    }
    best, table = tune(data, candidates, folds=2)
    assert best == "10.0"
    assert table["10.0"]["random"] < table["0.01"]["random"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: splits(d, "alphabetical", 2, 0), "split must be"),
        (lambda d: splits(d, "random", 1, 0), "folds asked for"),
        (lambda d: splits(d, "composition", 50, 0), "between 2 and 4"),
        (lambda d: learning_curve(d, FAST, sizes=[1000]), "training sizes must lie"),
        (lambda d: learning_curve(d, FAST, sizes=[]), "sizes must be a list"),
        (lambda d: learning_curve(d, FAST, sizes=5), "sizes must be a list"),
        (lambda d: learning_curve(d, FAST, sizes=["5"]), r"sizes\[0\] must be a whole"),
        (lambda d: learning_curve(d, FAST, sizes=[5], repeats=0), "repeats must be"),
        (lambda d: learning_curve(d, FAST, sizes=[5], test_fraction=-1), "test_fraction must be"),
        (lambda d: splits(d, "random", "5", 0), "folds must be"),
        (lambda d: splits(d, "random", 5, -1), "seed must be"),
        (lambda d: cross_validate(d, None), "settings must be of type TrainingSettings"),
        (lambda d: cross_validate(None, FAST), "data must be of type TrainingData"),
        (lambda d: compare(d, [FAST]), "methods must be of type Mapping"),
        (lambda d: tune(d, {"a": None}), "each of candidates must be"),
    ],
)
def test_impossible_requests(data, call, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        call(data)


def test_scores_of_known_numbers() -> None:
    held = Held(
        np.arange(4),
        np.array([0.1, -0.2, 0.3, -0.4]),
        np.array([1.0, 2.0, 3.0, 4.0]),
        np.array([0.15, 0.15, 0.35, 0.35]),
        np.array([0.5, 2.0, 0.1, 0.2]),
        1.0,
        0.004,
    )
    scores = held.scores
    assert scores.mae == pytest.approx(0.25)
    assert scores.coverage == 0.5
    assert scores.spearman == pytest.approx(1.0)
    assert scores.novel == 0.25
    assert scores.predict_milliseconds == pytest.approx(1.0)


def test_plots_are_written_or_the_reason_told(data, tmp_path) -> None:
    held = cross_validate(data, FAST, folds=2)
    plot_held_out(tmp_path / "a.png", held, data.delta, data.batch.sizes, "test")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    rows = [{"size": 10, "mae": 0.1, "mae_sd": 0.01}, {"size": 20, "mae": 0.05, "mae_sd": 0.01}]
    plot_learning_curves(tmp_path / "b.pdf", {"x": rows})
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(SettingsError, match="plots are written as"):
        plot_learning_curves(tmp_path / "b.nonsense", {"x": rows})
