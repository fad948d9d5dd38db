"""The k-NN term: exactness, weights, limits and smoothness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc.errors import SettingsError, TrainingError
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.knn.weights import KNNSettings, rank_weights, wendland, wendland_slope


def make_term(seed: int = 0, n: int = 60, dim: int = 4, **options) -> KNNTerm:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, dim))
    return KNNTerm(NeighborIndex(points), rng.normal(size=n), KNNSettings(**options))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 200),
    dim=st.integers(1, 60),
    k=st.integers(1, 12),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
)
def test_query_is_exact(seed: int, n: int, dim: int, k: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(n, dim)) + offset).astype(np.float32)
    z = rng.normal(size=dim) + offset
    distances, indices = NeighborIndex(points).query(z, k)
    brute = np.sqrt(((points.astype(float) - z) ** 2).sum(axis=1))
    expected = np.argsort(brute, kind="stable")[:k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, brute[expected], rtol=1e-9, atol=1e-5 * offset + 1e-12)


def test_duplicates_share_the_weight_at_distance_zero() -> None:
    points = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    term = KNNTerm(NeighborIndex(points), np.array([1.0, 3.0, 10.0, 20.0]), KNNSettings(k=3))
    estimate = term.evaluate(np.zeros(2))
    assert estimate.mean == pytest.approx(2.0)
    np.testing.assert_allclose(estimate.weights, [0.5, 0.5, 0.0])


def test_one_over_d_weights() -> None:
    weights = rank_weights(np.array([1.0, 2.0, 4.0]), "distance")
    np.testing.assert_allclose(weights, np.array([4, 2, 1]) / 7)
    np.testing.assert_allclose(rank_weights(np.array([1.0, 5.0]), "uniform"), 0.5)


@pytest.mark.parametrize("weights", ["kernel", "kriging"])
def test_correction_fades_to_zero_far_away(weights: str) -> None:
    term = make_term(weights=weights, bandwidth=2.0, nugget=0.1)
    assert abs(term.evaluate(np.zeros(4)).mean) > 1e-3
    assert abs(term.evaluate(np.full(4, 1e3)).mean) < 1e-12


def test_kriging_interpolates_without_nugget() -> None:
    term = make_term(weights="kriging", bandwidth=2.0, k=30)
    z = term.index.points[7].astype(float)
    assert term.evaluate(z).mean == pytest.approx(term.residuals[7], abs=1e-4)


def test_kernel_gradient_is_the_derivative() -> None:
    term = make_term(weights="kernel", bandwidth=2.5, nugget=0.3)
    rng = np.random.default_rng(1)
    for _ in range(20):
        z = rng.normal(size=4)
        gradient = term.evaluate(z).gradient
        step = 1e-5
        numeric = [
            (term.evaluate(z + step * e).mean - term.evaluate(z - step * e).mean) / (2 * step)
            for e in np.eye(4)
        ]
        np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_kernel_is_continuously_differentiable_where_neighbours_enter() -> None:
    term = make_term(weights="kernel", bandwidth=1.0, nugget=0.2, n=200, dim=2)
    path = np.linspace(-2, 2, 4001)[:, None] * np.array([1.0, 0.3])
    gradients = np.array([term.evaluate(z).gradient for z in path])
    jumps = np.linalg.norm(np.diff(gradients, axis=0), axis=1)
    inside = [(np.linalg.norm(term.index.points - z, axis=1) < 1.0).sum() for z in path]
    assert len(set(inside)) > 3, "the path must cross changes of neighbours"
    assert jumps.max() < 20 * np.median(jumps) + 1e-3


def test_wendland_slope() -> None:
    q = np.linspace(0.01, 0.99, 50)
    numeric = (wendland(q + 1e-6) - wendland(q - 1e-6)) / 2e-6
    np.testing.assert_allclose(wendland_slope(q) * q, numeric, atol=1e-8)
    assert wendland(np.array([0.0, 1.0, 3.0])).tolist() == [1.0, 0.0, 0.0]


def test_excluded_structures_do_not_count() -> None:
    term = make_term(k=5)
    group = np.array([3, 4, 5])
    estimate = term.evaluate(term.index.points[3].astype(float), exclude=group)
    assert len(estimate.indices) == 5
    assert not set(group) & set(estimate.indices.tolist())
    everything = term.evaluate(np.zeros(4), exclude=np.arange(60))
    assert everything.mean == 0.0
    assert len(everything.indices) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "at least 1"),
        ({"k": 2.5}, "whole number"),
        ({"weights": "cosine"}, "must be one of"),
        ({"weights": "kernel"}, "'kernel' need a bandwidth"),
        ({"weights": "kriging", "bandwidth": -1.0}, "bandwidth must be at least 1e-12 or None"),
        ({"nugget": float("nan")}, "nugget"),
    ],
)
def test_bad_settings_are_told(options: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        KNNSettings(**options)


def test_lengths_must_match() -> None:
    with pytest.raises(TrainingError, match="residuals for"):
        KNNTerm(NeighborIndex(np.zeros((3, 2))), np.zeros(2), KNNSettings())
