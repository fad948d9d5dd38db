"""Selection of structures to label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers.factories import tiny, water_clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import ChargeError, SettingsError, UnknownElementError
from ase_knncalc.sampling import select_frames
from ase_knncalc.sampling.selection import (
    STRATEGIES,
    Pool,
    farthest_points,
    kernel_rows,
    select,
    survey,
    variance_reduction,
    within_window,
)


def made_up(n: int, seed: int, known: int = 5) -> Pool:
    rng = np.random.default_rng(seed)
    return Pool(
        energy_std=rng.uniform(0.01, 1.0, n),
        novelty=rng.uniform(0.0, 3.0, n),
        points=rng.normal(size=(n, 3)),
        known=rng.normal(size=(known, 3)),
        rows=rng.normal(size=(n, 6)),
        energies=rng.normal(size=n),
        groups=[f"{i % 3}w" for i in range(n)],
    )


@settings(max_examples=60, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    size=st.integers(1, 40),
    n=st.integers(0, 50),
    seed=st.integers(0, 1000),
    known=st.integers(0, 5),
    window=st.one_of(st.none(), st.floats(0.0, 2.0)),
)
def test_what_holds_for_every_strategy(strategy, size, n, seed, known, window) -> None:
    pool = made_up(size, seed, known)
    chosen = select(pool, n, strategy, seed=seed, energy_window=window)
    allowed = within_window(pool, window)
    assert len(chosen) == min(n, len(allowed))
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen.tolist()) <= set(allowed.tolist())
    np.testing.assert_array_equal(
        chosen, select(pool, n, strategy, seed=seed, energy_window=window)
    )
    # The budget decides where to stop, not what is chosen first.
    fewer = select(pool, n // 2, strategy, seed=seed, energy_window=window)
    np.testing.assert_array_equal(fewer, chosen[: len(fewer)])


@settings(max_examples=30, deadline=None)
@given(strategy=st.sampled_from(STRATEGIES[1:]), seed=st.integers(0, 1000))
def test_order_of_the_pool_does_not_matter(strategy, seed) -> None:
    pool = made_up(25, seed)
    order = np.random.default_rng(seed + 1).permutation(25)
    shuffled = replace(
        pool,
        energy_std=pool.energy_std[order],
        novelty=pool.novelty[order],
        points=pool.points[order],
        rows=pool.rows[order],
    )
    chosen = select(pool, 6, strategy)
    np.testing.assert_array_equal(order[select(shuffled, 6, strategy)], chosen)


def test_random_depends_on_the_seed_only() -> None:
    pool = made_up(50, 0)
    assert (
        select(pool, 10, "random", seed=1).tolist() != select(pool, 10, "random", seed=2).tolist()
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 12))
def test_farthest_points_are_farthest(seed, n) -> None:
    rng = np.random.default_rng(seed)
    points, known = rng.normal(size=(20, 4)), rng.normal(size=(3, 4))
    chosen = farthest_points(points, known, n)
    there = known
    for i in chosen:
        distances = np.linalg.norm(points[:, None] - there[None], axis=2).min(axis=1)
        assert distances[i] == pytest.approx(distances.max(), rel=1e-6)
        there = np.vstack([there, points[i]])


def test_copies_are_not_chosen_twice() -> None:
    rng = np.random.default_rng(0)
    pool = made_up(10, 0)
    twice = Pool(
        *(np.concatenate([x, x]) for x in (pool.energy_std, pool.novelty, pool.points)),
        known=pool.known,
        rows=np.concatenate([pool.rows, pool.rows]) * 100,
    )
    for strategy in ("diversity", "combined", "variance"):
        chosen = select(twice, 5, strategy, seed=int(rng.integers(100)))
        assert len(set((chosen % 10).tolist())) == 5, strategy
    assert len(set((select(twice, 6, "energy_std") % 10).tolist())) == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 6))
def test_variance_reduction_is_that_of_bayesian_regression(seed, n) -> None:
    rng = np.random.default_rng(seed)
    rows, reference = rng.normal(size=(8, 5)), rng.normal(size=(12, 5))
    chosen = variance_reduction(rows, reference, n)
    precision = np.eye(5)

    def mean_std(matrix: np.ndarray) -> float:
        variance = np.einsum("ij,jk,ik->i", reference, np.linalg.inv(matrix), reference)
        return float(np.sqrt(variance).mean())

    left = set(range(8))
    for i in chosen.tolist():
        after = {j: mean_std(precision + np.outer(rows[j], rows[j])) for j in left}
        assert after[i] == pytest.approx(min(after.values()), rel=1e-8)
        left.remove(i)
        precision = precision + np.outer(rows[i], rows[i])


def test_window_counts_from_the_lowest_of_each_composition() -> None:
    pool = replace(
        made_up(4, 0), energies=np.array([0.0, 0.3, -9.0, -8.0]), groups=["a", "a", "b", "b"]
    )
    assert within_window(pool, 0.5).tolist() == [0, 1, 2]
    assert within_window(pool, None).tolist() == [0, 1, 2, 3]


def turned(atoms: Atoms, seed: int) -> Atoms:
    """The same structure in another orientation, its atoms in another order."""
    rng = np.random.default_rng(seed)
    copy = atoms[rng.permutation(len(atoms))]
    copy.positions = copy.positions @ Rotation.random(random_state=seed).as_matrix().T
    return copy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_structure_is_chosen_once_and_a_known_one_never(
    tiny_model, water_frames, strategy
) -> None:
    new = water_clusters(3, seed=4)
    known = [water_frames[5], turned(water_frames[7], 1)]
    pool = [*new, *known, *(turned(a, 2) for a in new), *(a.copy() for a in new)]
    with pytest.warns(UserWarning, match="of 11 structures") as told:
        chosen, found = select_frames(tiny_model, pool, 9, strategy, n_jobs=1)
    assert sorted(i % 11 for i in chosen) == [0, 1, 2]
    assert found.left_out.tolist() == [False] * 3 + [True] * 8
    assert [str(w.message) for w in told] == [
        "of 11 structures 2 are in the model's training data and 6 repeat others of them: these "
        "are left out, as their labels would teach nothing"
    ]
    with pytest.warns(UserWarning, match="of 2 structures 2 are in the model's training data:"):
        chosen, _ = select_frames(tiny_model, known, 2, strategy, n_jobs=1)
    assert not len(chosen)


def test_two_states_of_one_geometry_are_two_structures(water_frames) -> None:
    frames = [a.copy() for a in water_frames]
    for atoms in frames:
        del atoms.info["composition"]  # it says that they are neutral
    for atoms in frames[::2]:
        atoms.info["charge"] = 2
    model = tiny(frames)
    pool = [water_clusters(1, seed=4)[0] for _ in range(2)]
    pool[1].info["charge"] = 2
    chosen, _ = select_frames(model, pool, 2, n_jobs=1)
    assert sorted(chosen.tolist()) == [0, 1]


def test_what_is_left_out_counts_for_the_energy_window() -> None:
    pool = replace(
        made_up(4, 0),
        energies=np.array([0.0, 0.3, 0.9, 1.2]),
        groups=list("aaaa"),
        left_out=np.array([True, False, False, False]),
    )
    assert within_window(pool, 1.0).tolist() == [1, 2]
    assert within_window(pool, None).tolist() == [1, 2, 3]


def test_what_the_model_does_not_cover_is_named(tiny_model) -> None:
    salt, ion = molecule("NaCl"), water_clusters(1, seed=4)[0]
    salt.info["name"], ion.info["name"] = "salt", "ion"
    ion.info.update(charge=1, multiplicity=2)
    with pytest.raises(UnknownElementError, match=r"salt \(frame 1\): .*train anew"):
        select_frames(tiny_model, [water_clusters(1, seed=4)[0], salt], 2, n_jobs=1)
    with pytest.raises(ChargeError, match=r"ion \(frame 0\): .*train anew"):
        select_frames(tiny_model, [ion], 2, n_jobs=1)


def test_errors_say_what_to_do() -> None:
    pool = made_up(5, 0)
    with pytest.raises(SettingsError, match="strategy must be one of random"):
        select(pool, 2, "best")
    for n in (-1, None, 2.0):
        with pytest.raises(SettingsError, match=r"n must be (at least 0|a whole number)"):
            select(pool, n)
    for window in (-1.0, "1 eV", np.nan):
        with pytest.raises(SettingsError, match="energy_window must be a"):
            select(pool, 2, energy_window=window)
    with pytest.raises(SettingsError, match="baseline"):
        select(replace(pool, energies=None), 2, energy_window=1.0)
    with pytest.raises(SettingsError, match="diversity or combined"):
        select(replace(pool, rows=None), 2, "variance")


def test_survey_of_a_model(tiny_model, water_frames) -> None:
    frames = water_clusters(12, seed=4)
    batch = featurize(tiny_model.descriptor, [(a.numbers, a.positions, 0) for a in frames])
    pool = survey(tiny_model, batch, baseline_energies=np.zeros(12))
    found = tiny_model.predict(frames)
    np.testing.assert_allclose(pool.energy_std, found.energy_std)
    np.testing.assert_allclose(pool.energies, found.delta)
    np.testing.assert_allclose(
        np.einsum("ij,ij->i", pool.rows, pool.rows), tiny_model.trend.evaluate(batch).leverage
    )
    for strategy in STRATEGIES:
        assert len(select(pool, 4, strategy)) == 4
    bare = tiny(water_frames, trend="none")
    assert survey(bare, batch).rows.shape == (12, 0)


def test_rows_of_the_sparse_trend(water_frames) -> None:
    model = tiny(water_frames, trend="sparse")
    batch = featurize(model.descriptor, [(a.numbers, a.positions, 0) for a in water_frames[:8]])
    rows = model.trend.posterior_rows(batch)
    np.testing.assert_allclose(
        np.einsum("ij,ij->i", rows, rows), model.trend.evaluate(batch).leverage
    )


def test_kernel_rows_are_the_posterior_of_the_kernel(water_frames) -> None:
    model = tiny(water_frames, trend="sparse")
    batch = featurize(model.descriptor, [(a.numbers, a.positions, 0) for a in water_frames])
    known, pool = batch.select(range(20)), batch.select(range(20, 60))
    few = kernel_rows(known, pool, model.elements)
    prior = kernel_rows(batch.select([]), pool, model.elements)
    again = kernel_rows(known, known, model.elements)

    def variance(rows: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", rows, rows)

    # Labels lower the variance, most of all where they are: there it is that of the noise.
    assert np.median(variance(few)) < 0.1 * np.median(variance(prior))
    assert variance(again).max() < 1.01
