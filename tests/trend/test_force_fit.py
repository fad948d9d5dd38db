"""The sparse trend with forces: records that are no minima, rows thinned, folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.factories import pair_energy, water_clusters

from ase_knncalc.descriptors import PowerSpectrum, compress, featurize
from ase_knncalc.trend.choice import choose_environments
from ase_knncalc.trend.force_fit import folds_of
from ase_knncalc.trend.force_labels import CurvatureLabels, ForceLabels
from ase_knncalc.trend.force_rows import ForceRows
from ase_knncalc.trend.sparse import SparseSettings
from ase_knncalc.trend.sparse_fit import fit_sparse

SETTINGS = SparseSettings(
    environments=60,
    variance_environments=30,
    length_scale=4.0,
    penalties=(1e-4,),
    force_weights=(0.3,),
)


def slope(atoms) -> np.ndarray:
    """Negative gradient of :func:`pair_energy`, shape (n_atoms, 3)."""
    forces = np.zeros((len(atoms), 3))
    for i, c in np.ndindex(len(atoms), 3):
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, c] += sign * 1e-4
            values.append(pair_energy(moved))
        forces[i, c] = -(values[0] - values[1]) / 2e-4
    return forces


@pytest.fixture(scope="module")
def task():
    """Water clusters whose labels are all right, each its own group."""
    frames = water_clusters(60, seed=5, largest=3)
    base = PowerSpectrum((1, 8), n_radial=4, n_pair=8, l_max=2)
    descriptor = compress(base, [(a.numbers, a.positions) for a in frames], 60)
    batch = featurize(descriptor, [(a.numbers, a.positions, 0) for a in frames])
    delta = np.array([a.info["reference_energy"] for a in frames])
    return frames, descriptor, batch, delta, [slope(a) for a in frames]


def fitted(task, forces, assumed, **options):
    frames, descriptor, batch, delta, _ = task
    labels = ForceLabels(
        np.arange(len(frames)),
        [a.numbers for a in frames],
        [a.positions for a in frames],
        forces,
        assumed,
    )
    defaults = {
        "settings": SETTINGS,
        "groups": [str(i) for i in range(len(frames))],
        "weights": None,
    }
    return fit_sparse(
        batch,
        delta,
        (1, 8),
        seed=0,
        descriptor=descriptor,
        forces=labels,
        folds=4,
        **(defaults | options),
    )


def test_records_that_are_no_minima_are_found_and_their_forces_left_out(task) -> None:
    """As if two of the records had been written with another structure's geometry."""
    forces = [f.copy() for f in task[4]]
    wrong = [12, 43]
    for i in wrong:
        forces[i][0] += [5.0, -3.0, 1.0]
        forces[i][1] -= [5.0, -3.0, 1.0]
    everywhere = np.ones(len(forces), dtype=bool)
    found = fitted(task, forces, everywhere)
    assert set(wrong) <= set(found.not_minima.tolist())
    assert len(found.not_minima) <= 6
    # Computed forces are not doubted: they are labels.
    assert not len(fitted(task, forces, ~everywhere).not_minima)


def test_forces_left_out_are_as_if_they_had_not_been_there(task) -> None:
    forces = [f.copy() for f in task[4]]
    forces[12][0] += [3.0, -1.0, 0.5]
    found = fitted(task, forces, np.ones(len(forces), dtype=bool))
    keep = np.setdiff1d(np.arange(len(forces)), found.not_minima)
    frames, descriptor, batch, delta, _ = task
    labels = ForceLabels(
        keep,
        [frames[i].numbers for i in keep],
        [frames[i].positions for i in keep],
        [forces[i] for i in keep],
        np.zeros(len(keep), dtype=bool),
    )
    without = fit_sparse(
        batch,
        delta,
        (1, 8),
        groups=[str(i) for i in range(60)],
        weights=None,
        settings=SETTINGS,
        seed=0,
        descriptor=descriptor,
        forces=labels,
        folds=4,
    )
    np.testing.assert_allclose(found.trend.predict(batch), without.trend.predict(batch), atol=1e-7)


def test_random_combinations_stand_for_all_rows_on_average(task) -> None:
    frames, descriptor, batch, *_ = task
    from ase_knncalc.trend.choice import choose_environments

    environments = choose_environments(batch, (1, 8), SETTINGS, 0)
    whiteners = environments.whiteners()
    labels = ForceLabels(
        np.array([0]), [frames[2].numbers], [frames[2].positions], [task[4][2]], np.array([False])
    )

    def gram(most: int, seed: int) -> np.ndarray:
        rows = ForceRows(environments, descriptor, whiteners, whiteners, most)
        blocks = rows.blocks(labels, np.array([0]), 1, np.array([seed]))
        return sum(block.T @ block for _, _, block, _, _ in blocks)

    whole = gram(0, 0)
    mean = np.mean([gram(6, seed) for seed in range(400)], axis=0)
    assert np.linalg.norm(gram(6, 1) - whole) > 0.2 * np.linalg.norm(whole)
    assert np.linalg.norm(mean - whole) < 0.1 * np.linalg.norm(whole)


def test_held_out_forces_are_those_of_a_fit_without_the_group(task) -> None:
    """With one group a fold, held-out energies are those of a refit."""
    frames, descriptor, batch, delta, forces = task
    groups = [str(i % 4) for i in range(len(frames))]
    found = fitted(task, forces, np.zeros(len(forces), dtype=bool), groups=groups)
    keep = np.array([i for i in range(len(frames)) if i % 4 != 1])
    labels = ForceLabels(
        np.arange(len(keep)),
        [frames[i].numbers for i in keep],
        [frames[i].positions for i in keep],
        [forces[i] for i in keep],
        np.zeros(len(keep), dtype=bool),
    )
    left = np.array([i for i in range(len(frames)) if i % 4 == 1])
    other = fit_sparse(
        batch.select(keep),
        delta[keep],
        (1, 8),
        groups=None,
        weights=None,
        settings=SETTINGS,
        seed=0,
        descriptor=descriptor,
        forces=labels,
        folds=2,
    )
    expected = delta[left] - other.trend.predict(batch.select(left))
    # The other fit chose its environments among fewer structures.
    assert np.corrcoef(found.leave_group_out[left], expected)[0, 1] > 0.8


def test_combinations_of_rows_stand_for_all(task) -> None:
    """Their products are on average those of all rows, and their targets go with them."""
    frames, descriptor, batch, _, forces = task
    environments = choose_environments(batch, (1, 8), SETTINGS, 0)
    whiteners = environments.whiteners()
    chosen = [i for i, a in enumerate(frames) if len(a) == 9][:3]

    def products(computed: int, assumed: int, kind: bool, seed: int = 0):
        rows = ForceRows(environments, descriptor, whiteners, whiteners, computed, assumed)
        labels = ForceLabels(
            np.array(chosen),
            [frames[i].numbers for i in chosen],
            [frames[i].positions for i in chosen],
            [forces[i] for i in chosen],
            np.full(len(chosen), kind),
        )
        folds = np.zeros(len(chosen), dtype=int)
        seeds = seed + np.arange(len(chosen))
        (block,) = rows.blocks(labels, folds, 1, seeds)
        return block[2].T @ block[2], block[2].T @ block[4], len(block[2])

    gram, target, n = products(0, 0, True)
    assert n == 27 * len(chosen)
    assert products(9, 0, True)[2] == n
    assert products(9, 0, False)[2] == 9 * len(chosen)
    assert products(0, 9, True)[2] == 9 * len(chosen)
    several = [products(0, 9, True, seed) for seed in range(0, 400, 4)]
    mean = np.mean([s[0] for s in several], axis=0)
    assert np.linalg.norm(mean - gram) < 0.15 * np.linalg.norm(gram)
    assert np.linalg.norm(several[0][0] - gram) > 2 * np.linalg.norm(mean - gram)
    mean_target = np.mean([s[1] for s in several], axis=0)
    assert np.linalg.norm(mean_target - target) < 0.2 * np.linalg.norm(target)
    again = products(0, 9, True, 4)
    np.testing.assert_array_equal(again[0], several[1][0])


def test_folds_keep_groups_together() -> None:
    groups = ["a", "b", "a", "c", "d", "b", "e"]
    folds = folds_of(groups, 7, 3)
    for group in set(groups):
        assert len({int(f) for f, g in zip(folds, groups, strict=True) if g == group}) == 1
    assert set(folds.tolist()) == {0, 1, 2}
    assert set(folds_of(["a"] * 4, 4, 3).tolist()) == {0}
    assert len(set(folds_of(None, 10, 5).tolist())) == 5


def test_rows_of_curvatures_are_second_derivatives_of_the_kernel_sums(task) -> None:
    """Against differences of force rows along the same displacements."""
    frames, descriptor, batch, _, _ = task
    environments = choose_environments(batch, (1, 8), SETTINGS, 0)
    rows = ForceRows(environments, descriptor, environments.whiteners(), environments.whiteners())
    rng = np.random.default_rng(2)
    chosen = [3, 7, 8]
    moves = [rng.normal(size=(2, len(frames[i]), 3)) for i in chosen]
    moves = [m / np.linalg.norm(m, axis=(1, 2))[:, None, None] for m in moves]
    mixing = [np.array([[0.3, 0.0], [0.1, -0.2]]) for _ in chosen]
    labels = CurvatureLabels(
        np.array(chosen),
        [frames[i].numbers for i in chosen],
        [frames[i].positions for i in chosen],
        moves,
        mixing,
        [np.zeros(2) for _ in chosen],
    )
    (block,) = rows.curvature_blocks(labels, np.zeros(3, dtype=int), 1)
    expected = []
    for i, along, mix in zip(chosen, moves, mixing, strict=True):
        second = []
        for u in along:
            slopes = []
            for sign in (1, -1):
                moving = descriptor.moving(frames[i].numbers, frames[i].positions + sign * 1e-4 * u)
                slopes.append(u.ravel() @ environments.slopes(frames[i].numbers, moving))
            second.append((slopes[0] - slopes[1]) / 2e-4)
        expected.append(mix @ np.array(second))
    plain = np.concatenate(expected)
    whitened = np.hstack(
        [
            plain[:, b] @ w
            for b, w in zip(environments.blocks, environments.whiteners(), strict=True)
        ]
    )
    scale = np.abs(whitened).max()
    np.testing.assert_allclose(block[2], whitened, atol=2e-3 * scale)


def test_rows_and_energies_of_large_structures_weigh_less(task) -> None:
    """18 atoms with an exponent of 2: (15 / 18)² of the weight, and 9 atoms the whole."""
    frames, descriptor, batch, _, forces = task
    environments = choose_environments(batch, (1, 8), SETTINGS, 0)
    whiteners = environments.whiteners()
    i, j = [i for i, a in enumerate(frames) if len(a) == 9][:2]
    both = frames[i].copy()
    both.extend(frames[j])
    both.positions[9:] += 30.0

    def products(numbers, positions, delta, exponent: float) -> np.ndarray:
        rows = ForceRows(environments, descriptor, whiteners, whiteners, size_exponent=exponent)
        labels = ForceLabels(np.zeros(1, int), [numbers], [positions], [delta], np.zeros(1, bool))
        (block,) = rows.blocks(labels, np.zeros(1, int), 1)
        return block[2].T @ np.column_stack([block[2], block[4]])

    pair = both.numbers, both.positions, np.concatenate([forces[i], forces[j]])
    np.testing.assert_allclose(products(*pair, 2.0), (15 / 18) ** 2 * products(*pair, 0.0))
    one = frames[i].numbers, frames[i].positions, forces[i]
    np.testing.assert_array_equal(products(*one, 2.0), products(*one, 0.0))

    away = (np.arange(18) > 8)[:, None]
    pairs = [(both.numbers, both.positions - (28.0 - 0.1 * k) * away, 0) for k in range(9)]
    singles = [(a.numbers, a.positions, 0) for a in frames[:20]]
    mixed = featurize(descriptor, pairs + singles)
    delta = np.random.default_rng(0).normal(size=len(mixed))

    def energies(weights, exponent: float) -> np.ndarray:
        settings = replace(SETTINGS, size_exponent=exponent)
        fit = fit_sparse(
            mixed, delta, (1, 8), groups=None, weights=weights, settings=settings, seed=0
        )
        return fit.trend.predict(mixed)

    given = np.minimum(1.0, 15 / mixed.sizes) ** 2
    np.testing.assert_allclose(energies(None, 2.0), energies(given, 0.0), atol=1e-12)
    assert np.abs(energies(None, 2.0) - energies(None, 0.0)).max() > 1e-6
