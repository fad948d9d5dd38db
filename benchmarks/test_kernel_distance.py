"""The kernel-induced distance: its kernel, its bounds, and the exactness of the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_distance import KernelIndex, induced_distances, local_kernel, self_kernel

from ase_knncalc.data import read_dataset
from ase_knncalc.descriptors import FCHL19, FeatureBatch
from ase_knncalc.errors import DataError, SettingsError, TrainingError, UnknownElementError
from ase_knncalc.labels.training_data import compute_features

ELEMENTS = (1, 8, 16)


def random_batch(
    rng: np.random.Generator, n: int, dim: int = 5, scale: float = 1.0, elements=ELEMENTS
) -> FeatureBatch:
    """Structures of 1 to 6 random environments of random elements, so that many lack some."""
    sizes = rng.integers(1, 7, size=n)
    total = int(sizes.sum())
    return FeatureBatch(
        rng.choice(elements, size=total),
        (3.0 + scale * rng.normal(size=(total, dim))).astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.zeros(n, dtype=int),
    )


def plain_distances(
    a: FeatureBatch, b: FeatureBatch, sigma: float, normalize: bool = False
) -> np.ndarray:
    """The definition, written out."""

    def kernel(p: FeatureBatch, i: int, q: FeatureBatch, j: int) -> float:
        total = 0.0
        for s in range(p.starts[i], p.starts[i + 1]):
            for t in range(q.starts[j], q.starts[j + 1]):
                if p.numbers[s] == q.numbers[t]:
                    gap = p.local[s].astype(float) - q.local[t].astype(float)
                    total += np.exp(-(gap @ gap) / (2 * sigma**2))
        return total

    squared = np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            xx, yy, xy = kernel(a, i, a, i), kernel(b, j, b, j), kernel(a, i, b, j)
            squared[i, j] = 2 - 2 * xy / np.sqrt(xx * yy) if normalize else xx + yy - 2 * xy
    return np.sqrt(np.maximum(squared, 0))


def padded(batch: FeatureBatch) -> tuple[np.ndarray, list[list[int]]]:
    """Descriptors and atomic numbers as qmllib takes them."""
    rows = np.zeros((len(batch), int(batch.sizes.max()), batch.local.shape[1]))
    numbers = []
    for s, size in enumerate(batch.sizes):
        atoms = slice(batch.starts[s], batch.starts[s + 1])
        rows[s, :size] = batch.local[atoms]
        numbers.append(batch.numbers[atoms].tolist())
    return rows, numbers


def test_kernel_is_that_of_qmllib() -> None:
    from qmllib.kernels import get_local_kernel, get_local_symmetric_kernel

    rng = np.random.default_rng(0)
    a, b = random_batch(rng, 9), random_batch(rng, 6)
    (rows_a, numbers_a), (rows_b, numbers_b) = padded(a), padded(b)
    expected = get_local_kernel(rows_b, rows_a, numbers_b, numbers_a, 2.0)
    assert expected.shape in ((9, 6), (6, 9))
    expected = expected if expected.shape == (9, 6) else expected.T
    np.testing.assert_allclose(local_kernel(a, b, ELEMENTS, 2.0), expected, rtol=1e-10)
    own = np.diag(get_local_symmetric_kernel(rows_a, numbers_a, 2.0))
    np.testing.assert_allclose(self_kernel(a, ELEMENTS, 2.0), own, rtol=1e-10)


@pytest.mark.parametrize("normalize", [False, True])
def test_distances_follow_the_definition(normalize: bool) -> None:
    rng = np.random.default_rng(1)
    a, b = random_batch(rng, 5), random_batch(rng, 7)
    expected = plain_distances(a, b, 1.5, normalize)
    index = KernelIndex(b, ELEMENTS, 1.5, normalize)
    np.testing.assert_allclose(index.distances(a), expected, rtol=1e-9)
    kernel = local_kernel(a, b, ELEMENTS, 1.5)
    own = [self_kernel(x, ELEMENTS, 1.5) for x in (a, b)]
    found = induced_distances(kernel, *own, normalize=normalize)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    k=st.integers(1, 12),
    sigma=st.sampled_from([0.3, 2.0, 30.0]),
    landmarks=st.integers(1, 40),
    normalize=st.booleans(),
)
def test_query_is_exact_and_bounds_hold(
    seed: int, n: int, k: int, sigma: float, landmarks: int, normalize: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Few elements at times, so that queries have elements that the index never saw.
    batch = random_batch(rng, n, elements=ELEMENTS[: 1 + seed % 3])
    queries = FeatureBatch.concatenate([random_batch(rng, 4), batch.select([n // 2])])
    index = KernelIndex(batch, ELEMENTS, sigma, normalize, landmarks)
    everything = index.distances(queries)
    lower, upper = index.bounds(queries)
    assert (lower <= everything).all()
    assert (everything <= upper).all()

    distances, indices = index.query(queries, k)
    best = np.sort(everything, axis=1)[:, : min(k, n)]
    np.testing.assert_allclose(distances, best, rtol=1e-7, atol=1e-12)
    at = np.take_along_axis(everything, indices, axis=1)
    np.testing.assert_allclose(at, distances, rtol=1e-7, atol=1e-12)
    assert all(len(set(row)) == len(row) for row in indices.tolist())
    assert distances[-1, 0] == 0.0


def test_bounds_are_tight_where_landmarks_span_everything() -> None:
    rng = np.random.default_rng(2)
    batch, queries = random_batch(rng, 30), random_batch(rng, 10)
    index = KernelIndex(batch, ELEMENTS, 1.0, n_landmarks=1000)
    lower, upper = index.bounds(batch)
    np.testing.assert_allclose(upper, lower, rtol=1e-3, atol=1e-3)
    lower, upper = index.bounds(queries)
    wide_lower, wide_upper = KernelIndex(batch, ELEMENTS, 1.0, n_landmarks=2).bounds(queries)
    assert np.median(upper - lower) < 0.7 * np.median(wide_upper - wide_lower)


def test_a_search_takes_few_exact_distances() -> None:
    rng = np.random.default_rng(3)
    index = KernelIndex(random_batch(rng, 400, dim=3), ELEMENTS, 3.0)
    index.query(random_batch(rng, 20, dim=3), 5)
    assert 20 * 5 <= index.n_evaluations < 20 * 40


@pytest.mark.parametrize("normalize", [False, True])
def test_a_structure_is_at_distance_zero_of_itself(normalize: bool) -> None:
    batch = random_batch(np.random.default_rng(4), 40)
    distances, indices = KernelIndex(batch, ELEMENTS, 4.0, normalize).query(batch, 2)
    assert (distances[:, 0] == 0.0).all()
    np.testing.assert_array_equal(indices[:, 0], np.arange(40))
    assert (distances[:, 1] > 0.0).all()


def test_duplicates_come_in_their_order() -> None:
    batch = random_batch(np.random.default_rng(5), 6)
    twice = FeatureBatch.concatenate([batch, batch])
    distances, indices = KernelIndex(twice, ELEMENTS, 2.0).query(batch, 2)
    np.testing.assert_array_equal(indices, np.stack([np.arange(6), np.arange(6, 12)], axis=1))
    assert (distances == 0.0).all()


def test_the_normalised_kernel_does_not_see_size() -> None:
    one = random_batch(np.random.default_rng(6), 1)
    atoms = np.tile(np.arange(len(one.numbers)), 3)
    three = FeatureBatch(
        one.numbers[atoms], one.local[atoms], np.array([0, len(atoms)]), one.charges
    )
    assert KernelIndex(one, ELEMENTS, 2.0, normalize=True).query(three, 1)[0][0, 0] == 0.0
    # φ of three copies is 3 φ: the plain distance is 2 |φ|.
    plain = KernelIndex(one, ELEMENTS, 2.0).query(three, 1)[0][0, 0]
    assert plain == pytest.approx(2 * np.sqrt(self_kernel(one, ELEMENTS, 2.0)[0]))


@pytest.mark.parametrize("normalize", [False, True])
def test_structures_without_a_common_element(normalize: bool) -> None:
    rng = np.random.default_rng(7)
    water, sulfur = random_batch(rng, 1, elements=(8,)), random_batch(rng, 1, elements=(16,))
    distance = KernelIndex(water, ELEMENTS, 1.0, normalize).query(sulfur, 3)[0]
    assert distance.shape == (1, 1)
    own = [self_kernel(x, ELEMENTS, 1.0)[0] for x in (water, sulfur)]
    assert distance[0, 0] == pytest.approx(np.sqrt(2.0 if normalize else sum(own)))


def test_on_sulfuric_acid_and_water() -> None:
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("labelled data not found at 'shared/data' beside the project folder")
    frames = read_dataset(data / "saw_equilibrium.extxyz.gz", require_reference=False).frames
    chosen = [frames[i] for i in np.random.default_rng(9).permutation(len(frames))[:90]]
    batch = compute_features(FCHL19(ELEMENTS), chosen, n_jobs=1)
    known, asked = batch.select(range(70)), batch.select(range(70, 90))
    for normalize in (False, True):
        expected = induced_distances(
            local_kernel(asked, known, ELEMENTS, 20.0),
            self_kernel(asked, ELEMENTS, 20.0),
            self_kernel(known, ELEMENTS, 20.0),
            normalize=normalize,
        )
        index = KernelIndex(known, ELEMENTS, 20.0, normalize)
        distances, indices = index.query(asked, 5)
        order = np.argsort(expected, axis=1)[:, :5]
        np.testing.assert_array_equal(indices, order)
        # d² is a difference of sums of hundreds.
        np.testing.assert_allclose(
            distances, np.take_along_axis(expected, order, axis=1), rtol=1e-5
        )
        lower, upper = index.bounds(asked)
        assert (lower <= expected).all()
        assert (expected <= upper).all()
        assert index.n_evaluations < 20 * 10


def test_bad_input_is_told() -> None:
    batch = random_batch(np.random.default_rng(10), 5)
    index = KernelIndex(batch, ELEMENTS, 1.0)
    with pytest.raises(SettingsError, match=r"sigma must be above 0, got -1\.0"):
        KernelIndex(batch, ELEMENTS, -1.0)
    with pytest.raises(SettingsError, match="n_landmarks must be at least 1, got 0"):
        KernelIndex(batch, ELEMENTS, 1.0, n_landmarks=0)
    with pytest.raises(SettingsError, match="k must be at least 1, got 0"):
        index.query(batch, 0)
    with pytest.raises(TrainingError, match="no structures"):
        KernelIndex(batch.select([]), ELEMENTS, 1.0)
    with pytest.raises(UnknownElementError, match="N"):
        index.query(random_batch(np.random.default_rng(11), 3, elements=(7,)), 1)
    with pytest.raises(SettingsError, match="4 features, expected 5"):
        index.query(random_batch(np.random.default_rng(12), 3, dim=4), 1)
    broken = random_batch(np.random.default_rng(13), 3)
    broken.local[-1, 2] = np.nan
    with pytest.raises(DataError, match="structure 2 has NaN"):
        index.query(broken, 1)
    with pytest.raises(DataError, match="structure 2 has NaN"):
        KernelIndex(broken, ELEMENTS, 1.0)
