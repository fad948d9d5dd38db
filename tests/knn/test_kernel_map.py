"""The kernel-induced distance as a metric of models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.factories import tiny, water_clusters

from ase_knncalc import find_in_training, load_model, save_model
from ase_knncalc.descriptors import FCHL19
from ase_knncalc.errors import SettingsError
from ase_knncalc.knn.kernel_map import KernelMap, fit_kernel_map, pivots
from ase_knncalc.labels.training_data import compute_features

ELEMENTS = (1, 8)
SIGMA = 5.0


@pytest.fixture(scope="module")
def batch(water_frames):
    return compute_features(FCHL19(ELEMENTS), water_frames, n_jobs=1)


def map_of(batch, normalized: bool = False, n_landmarks: int = 400) -> KernelMap:
    return fit_kernel_map(
        batch, ELEMENTS, sigma=SIGMA, normalized=normalized, n_landmarks=n_landmarks, seed=0
    )


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=2)


def induced(batch, normalized: bool = False) -> np.ndarray:
    """d² = k(x,x) + k(y,y) − 2 k(x,y), and k sums over pairs of atoms of one element."""
    squares = np.square(batch.local[:, None] - batch.local).sum(axis=2, dtype=np.float64)
    pairs = np.exp(-squares / (2 * SIGMA**2)) * (batch.numbers[:, None] == batch.numbers)
    starts = batch.starts[:-1]
    kernel = np.add.reduceat(np.add.reduceat(pairs, starts, axis=0), starts, axis=1)
    own = kernel.diagonal()
    if normalized:
        kernel = kernel / np.sqrt(own[:, None] * own)
        own = np.ones(len(own))
    return np.sqrt(np.maximum(own[:, None] + own - 2 * kernel, 0.0))


def test_pivots_stop_where_nothing_is_left() -> None:
    points = np.repeat(np.random.default_rng(8).normal(size=(7, 3)), 5, axis=0)
    chosen = pivots(points, 30)
    assert len(np.unique(points[chosen], axis=0)) == len(chosen) == 7


@pytest.mark.parametrize("normalized", [False, True])
def test_distances_are_those_that_the_kernel_induces(batch, normalized) -> None:
    exact = induced(batch, normalized)
    found = distances(map_of(batch, normalized).features(batch))
    np.testing.assert_allclose(found, exact, atol=2e-3 * exact.max())


def test_more_landmarks_are_nearer_to_the_exact_distance_and_from_below(batch) -> None:
    exact = induced(batch)
    worst = []
    for n in (3, 12, 100):
        short = exact - distances(map_of(batch, n_landmarks=n).features(batch))
        assert short.min() > -1e-6 * exact.max()
        worst.append(short.max())
    assert worst[0] > worst[1] > worst[2]


@pytest.mark.parametrize("metric", ["kernel", "kernel-normalised"])
@pytest.mark.parametrize("trend", ["none", "linear"])
def test_models_use_it_and_files_keep_it(
    water_frames, water_model, tmp_path, metric, trend
) -> None:
    model = water_model(trend=trend, metric=metric, kernel_width=SIGMA)
    known = model.predict(water_frames[7], baseline_energy=0.0)
    assert known.neighbors[0].name == water_frames[7].info["name"]
    assert known.neighbors[0].distance == 0.0
    assert find_in_training(model, water_frames[7]).structure == water_frames[7].info["name"]
    strange = find_in_training(model, water_clusters(4, seed=9)[3])
    assert strange.structure is None
    assert strange.displacement > 0.0
    save_model(model, tmp_path / "m.h5")
    loaded = load_model(tmp_path / "m.h5")
    for atoms in water_clusters(4, seed=9):
        a, b = (m.predict(atoms, baseline_energy=0.0) for m in (model, loaded))
        assert a.delta == b.delta
        assert a.neighbors == b.neighbors
        assert model.explain(atoms).features == [{}] * len(a.neighbors)
    with pytest.raises(SettingsError, match="kernel-induced distance"):
        loaded.predict(water_frames[0], forces=True)


def test_what_makes_no_sense_is_told(batch) -> None:
    good = map_of(batch, n_landmarks=10)
    for wrong in (
        {"sigma": np.array(0.0)},
        {"sigma": np.array([1.0, 2.0])},
        {"counts": np.array([10, 11])},
        {"counts": np.array([-1, 21])},
        {"landmarks": np.repeat(good.landmarks[:1], 20, axis=0) * np.nan},
    ):
        with pytest.raises(SettingsError, match="kernel_map"):
            replace(good, **wrong)
    with pytest.raises(SettingsError, match="kernel_width"):
        tiny(water_clusters(4), metric="kernel", kernel_width=0.0)
    with pytest.raises(SettingsError, match="metric must be one of"):
        tiny(water_clusters(4), metric="odd")
