"""The metric of environments that a first trend teaches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc import load_model, save_model
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import ModelFileError
from ase_knncalc.evaluation.report.judged import judge_held_out
from ase_knncalc.trend import sparse_fit
from ase_knncalc.trend.choice import choose_environments
from ase_knncalc.trend.local_metric import (
    metric_root,
    pilot_sample,
    slope_products,
    unseen_fold,
)
from ase_knncalc.trend.sparse import SparseSettings

N, ATOMS, FEATURES = 240, 3, 8
PLAIN = SparseSettings(environments=120, length_scale=3.0, penalties=(1e-5, 1e-4, 1e-3))
LEARNED = replace(PLAIN, metric_exponent=0.5)


def batch_of(local: np.ndarray) -> FeatureBatch:
    starts = np.arange(0, len(local) + 1, ATOMS)
    numbers = np.full(len(local), 8)
    return FeatureBatch(numbers, local, starts, np.zeros(len(starts) - 1, dtype=np.intp))


@pytest.fixture(scope="module")
def task():
    """Energies that two of eight directions of the descriptor decide, and not the largest."""
    rng = np.random.default_rng(3)
    local = rng.normal(size=(N * ATOMS, FEATURES)) * np.geomspace(1.5, 0.6, FEATURES)
    of_atom = np.tanh(2.0 * local[:, -1]) + local[:, -2] ** 2
    return batch_of(local.astype(np.float32)), of_atom.reshape(N, ATOMS).sum(axis=1)


def fitted(task, settings, monkeypatch, **options):
    batch, delta = task
    monkeypatch.setattr(sparse_fit, "_METRIC_FROM", 100)
    groups = [str(i // 4) for i in range(len(delta))]
    return sparse_fit.fit_sparse(
        batch, delta, (8,), groups=groups, weights=None, settings=settings, seed=0, **options
    )


def test_what_matters_is_found(task, monkeypatch) -> None:
    """Structures that the metric has not seen are predicted better in it."""
    plain, learned = (fitted(task, s, monkeypatch) for s in (PLAIN, LEARNED))
    assert plain.fair is None
    fair = learned.fair
    assert 0.1 < fair.mean() < 0.3
    error = [np.abs(f.leave_group_out[fair]).mean() for f in (plain, learned)]
    assert error[1] < 0.6 * error[0]
    projection = learned.trend.environments.projections[0]
    weights = np.linalg.norm(projection, axis=0)
    assert set(np.argsort(weights)[-2:]) == {FEATURES - 2, FEATURES - 1}


def test_structures_of_the_first_fold_teach_it_nothing(task, monkeypatch) -> None:
    batch, delta = task
    first = fitted(task, LEARNED, monkeypatch)
    changed = np.where(first.fair, delta + 5.0, delta)
    second = fitted((batch, changed), LEARNED, monkeypatch)
    for name in ("projections",):
        a, b = (getattr(f.trend.environments, name) for f in (first, second))
        np.testing.assert_array_equal(a, b)
    moved = fitted((batch, np.where(first.fair, delta, delta**2)), LEARNED, monkeypatch)
    a, b = (f.trend.environments.projections for f in (first, moved))
    assert not np.allclose(a, b)


def test_an_element_of_the_unseen_fold_alone(task, monkeypatch) -> None:
    """The first trend cannot know it: its metric is that of the descriptor as it is."""
    batch, delta = task
    unseen = fitted(task, LEARNED, monkeypatch).fair
    numbers = batch.numbers.copy()
    numbers[np.repeat(unseen, ATOMS) & (np.arange(len(numbers)) % ATOMS == 0)] = 16
    mixed = FeatureBatch(numbers, batch.local, batch.starts, batch.charges)
    groups = [str(i // 4) for i in range(N)]
    fit = sparse_fit.fit_sparse(
        mixed, delta, (8, 16), groups=groups, weights=None, settings=LEARNED, seed=0
    )
    np.testing.assert_array_equal(fit.fair, unseen)
    assert np.isfinite(fit.leave_group_out).all()
    learned, plain = (np.linalg.norm(p, axis=0) for p in fit.trend.environments.projections)
    assert learned.max() > 2 * np.median(learned)
    np.testing.assert_allclose(plain, plain[0], rtol=1e-3)


def test_one_group_gets_no_metric(task, monkeypatch) -> None:
    """Nothing could be left out together: no error would be fair."""
    batch, delta = task
    monkeypatch.setattr(sparse_fit, "_METRIC_FROM", 100)
    fit = sparse_fit.fit_sparse(
        batch, delta, (8,), groups=["one"] * N, weights=None, settings=LEARNED, seed=0
    )
    assert fit.fair is None


def test_the_unseen_fold_is_no_more_than_half() -> None:
    assert unseen_fold(np.zeros(9, dtype=np.intp)) is None
    np.testing.assert_array_equal(unseen_fold(np.array([0, 1, 2, 0])), [True, False, False, True])
    assert unseen_fold(np.array([0] * 5 + [1] * 3 + [2])).nonzero()[0].tolist() == [8]


def test_few_structures_get_no_metric(task) -> None:
    batch, delta = task
    fit = sparse_fit.fit_sparse(
        batch, delta, (8,), groups=None, weights=None, settings=LEARNED, seed=0
    )
    assert fit.fair is None


def test_products_are_those_of_the_slopes(task) -> None:
    batch, _ = task
    environments = choose_environments(batch, (8,), PLAIN, 0)
    coefficients = np.random.default_rng(1).normal(size=len(environments.points))
    step = 1e-3

    def energies(local: np.ndarray) -> np.ndarray:
        each = FeatureBatch(
            batch.numbers, local, np.arange(len(local) + 1), np.zeros(len(local), dtype=np.intp)
        )
        return environments.sums(each) @ coefficients

    local = batch.local.astype(np.float64)
    slopes = np.column_stack(
        [
            (energies(local + step * axis) - energies(local - step * axis)) / (2 * step)
            for axis in np.eye(FEATURES)
        ]
    )
    (found,) = slope_products(environments, coefficients, batch)
    np.testing.assert_allclose(found, slopes.T @ slopes / len(slopes), rtol=1e-3, atol=1e-3)


@given(st.integers(1, 8), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_root_of_the_metric(size: int, exponent: float, seed: int) -> None:
    """Its square is the metric, up to a factor; it knows no units of the energy."""
    a = np.random.default_rng(seed).normal(size=(size + 2, size))
    products = a.T @ a
    root = metric_root(products, exponent)
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    np.testing.assert_allclose(metric_root(7.0 * products, exponent), root, atol=1e-9)
    power = 1.0 / exponent
    values = np.linalg.eigvalsh(root @ root) ** power
    expected = np.linalg.eigvalsh(products)
    np.testing.assert_allclose(values, expected / expected[-1], atol=1e-7)


def test_without_slopes_nothing_is_learned() -> None:
    np.testing.assert_array_equal(metric_root(np.zeros((3, 3)), 0.5), np.eye(3))


def test_the_first_trend_sees_labels_and_every_group() -> None:
    groups = ["a"] * 50 + ["b"] * 5 + ["c"]
    sizes = np.arange(len(groups))
    labelled = sizes % 10 == 3
    seen = sizes != 55
    found = pilot_sample(groups, sizes, seen, labelled, 14, seed=0)
    assert len(found) == 14
    assert set(np.flatnonzero(labelled & seen)) <= set(found.tolist())
    assert 55 not in found
    assert {"a", "b"} == {groups[i] for i in found}
    # One of each group in turn, the smallest first.
    assert {0, 50} <= set(found.tolist())
    # Of very many labels, the first of each group.
    few = pilot_sample(groups, sizes, seen, np.ones_like(seen), 2, seed=0)
    assert few.tolist() == [0, 50]


def test_a_model_says_what_nothing_fair_is_known_of(water_model, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sparse_fit, "_METRIC_FROM", 20)
    model = water_model(trend="sparse", sparse=SparseSettings(environments=60, metric_exponent=0.5))
    fair = model.held_out.fair
    assert 0 < fair.mean() < 1
    errors = np.abs(model.held_out.errors[fair])
    assert model.held_out.largest_of(1.0) == errors.max()
    assert model.info.errors["mae"] == pytest.approx(errors.mean(), rel=1e-6)
    assert len(judge_held_out(model).error) == fair.sum()
    save_model(model, tmp_path / "model.h5")
    again = load_model(tmp_path / "model.h5", baseline=None)
    np.testing.assert_array_equal(again.held_out.fair, fair)
    none = replace(model, held_out=replace(model.held_out, fair=np.zeros_like(fair)))
    save_model(none, tmp_path / "none.h5")
    with pytest.raises(ModelFileError, match="of no structure anything fair is known"):
        load_model(tmp_path / "none.h5", baseline=None)
