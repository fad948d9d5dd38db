"""Ridge regression: exact cross-validation against refitting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc._lib.rowstore import DiskRows
from ase_knncalc.errors import TrainingError
from ase_knncalc.trend import ridge
from ase_knncalc.trend.posterior import prediction_leverage
from ase_knncalc.trend.ridge import RidgeProblem


def problem_data(seed: int, n: int = 24, free: int = 2, columns: int = 6):
    rng = np.random.default_rng(seed)
    c = np.column_stack([np.ones(n), rng.integers(0, 4, n)])[:, :free].astype(float)
    phi = rng.normal(size=(n, columns))
    y = c.sum(axis=1) * 3 + phi @ rng.normal(size=columns) + 0.1 * rng.normal(size=n)
    groups = rng.integers(0, 6, n)
    weights = rng.uniform(0.5, 2.0, n)
    return c, phi, y, weights, groups


def refit(c, phi, y, weights, penalty, keep, ask):
    """Independent solution: augmented least squares on the rows kept."""
    root = np.sqrt(weights[keep])[:, None]
    top = np.hstack([root * c[keep], root * phi[keep]])
    bottom = np.hstack(
        [np.zeros((phi.shape[1], c.shape[1])), np.sqrt(penalty) * np.eye(phi.shape[1])]
    )
    target = np.concatenate([root[:, 0] * y[keep], np.zeros(phi.shape[1])])
    coef = np.linalg.lstsq(np.vstack([top, bottom]), target, rcond=None)[0]
    return np.hstack([c[ask], phi[ask]]) @ coef


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), log_penalty=st.floats(-4, 2))
def test_leave_one_out_and_group_out_equal_refits(seed: int, log_penalty: float) -> None:
    c, phi, y, weights, groups = problem_data(seed)
    penalty = 10.0**log_penalty
    fit = RidgeProblem(c, phi.copy(), y, weights, groups).solve(penalty)
    everything = np.arange(len(y))
    expected = refit(c, phi, y, weights, penalty, everything, everything)
    np.testing.assert_allclose(fit.fitted, expected, atol=1e-8)
    i = seed % len(y)
    keep = everything != i
    np.testing.assert_allclose(
        y[i] - fit.leave_one_out[i],
        refit(c, phi, y, weights, penalty, keep, [i])[0],
        rtol=1e-6,
        atol=1e-7,
    )
    keep = groups != groups[i]
    ask = np.flatnonzero(~keep)
    np.testing.assert_allclose(
        (y - fit.leave_group_out)[ask],
        refit(c, phi, y, weights, penalty, keep, ask),
        rtol=1e-5,
        atol=1e-6,
    )


def test_coefficients_reproduce_the_fit() -> None:
    c, phi, y, weights, groups = problem_data(1)
    fit = RidgeProblem(c, phi.copy(), y, weights, groups).solve(0.3)
    np.testing.assert_allclose(
        c @ fit.free_coefficients + phi @ fit.coefficients, fit.fitted, atol=1e-9
    )


def test_leverage_of_training_rows_matches_hat_matrix() -> None:
    c, phi, y, _, _ = problem_data(2)
    problem = RidgeProblem(c, phi.copy(), y)
    fit = problem.solve(0.3)
    leverage = prediction_leverage(c, phi, *problem.variance_factors(0.3))
    np.testing.assert_allclose(leverage / (1 - leverage), fit.leverage, rtol=1e-8)


def test_fewer_samples_than_columns_give_what_more_of_the_same_would() -> None:
    """Twice each sample at half weight is the same problem, solved the other way."""
    c, phi, y, weights, groups = problem_data(8, columns=15)
    few = slice(0, phi.shape[1] - 3)
    arrays = [c[few], phi[few], y[few], weights[few], np.asarray(groups)[few]]
    dual = RidgeProblem(arrays[0], arrays[1].copy(), *arrays[2:])
    twice = [np.concatenate([a, a]) for a in arrays]
    primal = RidgeProblem(twice[0], twice[1], twice[2], twice[3] / 2, twice[4])
    assert len(arrays[2]) < phi.shape[1] < len(twice[2]), "one of each kind"
    a, b = dual.solve(0.3), primal.solve(0.3)
    n = len(a.fitted)
    np.testing.assert_allclose(a.coefficients, b.coefficients, atol=1e-9)
    np.testing.assert_allclose(a.fitted, b.fitted[:n], atol=1e-9)
    np.testing.assert_allclose(a.leave_group_out, b.leave_group_out[:n], atol=1e-7)
    new = np.random.default_rng(1).normal(size=(5, phi.shape[1]))
    free = np.ones((5, c.shape[1]))
    np.testing.assert_allclose(
        prediction_leverage(free, new, *dual.variance_factors(0.3)),
        prediction_leverage(free, new, *primal.variance_factors(0.3)),
        rtol=1e-8,
    )


def test_rank_deficient_free_columns_are_solved_with_minimum_norm() -> None:
    c, phi, y, _, _ = problem_data(3)
    doubled = np.hstack([c, c[:, :1]])
    fit = RidgeProblem(doubled, phi.copy(), y).solve(0.3)
    reference = RidgeProblem(c, phi.copy(), y).solve(0.3)
    np.testing.assert_allclose(fit.fitted, reference.fitted, atol=1e-9)
    assert fit.free_coefficients[0] == pytest.approx(fit.free_coefficients[-1])


def test_best_has_the_lowest_score() -> None:
    c, phi, y, _, groups = problem_data(4)
    problem = RidgeProblem(c, phi.copy(), y, groups=groups)
    penalties = 10.0 ** np.arange(-5, 3)
    best = problem.best(penalties)
    assert best.score == min(problem.solve(p).score for p in penalties)


def test_too_few_samples_and_bad_penalty_are_told() -> None:
    with pytest.raises(TrainingError, match="at least 2"):
        RidgeProblem(np.ones((1, 1)), np.ones((1, 1)), np.ones(1))
    c, phi, y, _, _ = problem_data(5)
    with pytest.raises(TrainingError, match="positive"):
        RidgeProblem(c, phi, y).solve(0.0)
    with pytest.raises(TrainingError, match="group labels"):
        RidgeProblem(c, phi, y, groups=[1, 2])


def test_interpolation_is_not_mistaken_for_accuracy() -> None:
    """With more columns than samples a tiny penalty leaves no residual, and no knowledge either."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(12, 60))
    y = rng.normal(size=12)
    fit = RidgeProblem(np.ones((12, 1)), columns, y).best(10.0 ** np.arange(-14.0, 1.0))
    expected = []
    for i in range(12):
        kept = np.arange(12) != i
        other = RidgeProblem(np.ones((11, 1)), columns[kept], y[kept]).solve(fit.penalty)
        guess = other.free_coefficients[0] + columns[i] @ other.coefficients
        expected.append(y[i] - guess)
    np.testing.assert_allclose(fit.leave_one_out, expected, rtol=1e-3)
    assert np.abs(fit.leave_one_out).mean() > 0.3


@pytest.mark.parametrize("block_rows", [3, 7, 1000])
@pytest.mark.parametrize("columns", [3, 12])
def test_ways_of_leaving_groups_out_agree(monkeypatch, block_rows: int, columns: int) -> None:
    """Groups short or long against columns and against a block of rows, in memory and on disk."""
    c, phi, y, weights, _ = problem_data(8, n=60, columns=columns)
    groups = np.repeat(np.arange(6), [1, 2, 5, 9, 17, 26])[np.random.default_rng(9).permutation(60)]
    penalties = [0.1, 3.0]
    plain = RidgeProblem(c, phi, y, weights, groups).solve_all(penalties)
    monkeypatch.setattr(ridge, "_SMALL_GROUP", 3)
    monkeypatch.setattr(ridge, "_BLOCK_BYTES", 0)
    monkeypatch.setattr(ridge, "_BLOCK_ROWS", block_rows)
    on_disk = DiskRows(phi.shape, "float64")
    on_disk[:] = phi
    for table in (phi, on_disk):
        problem = RidgeProblem(c, table, y, weights, groups)
        for found, expected in zip(problem.solve_all(penalties), plain, strict=True):
            for name in ("fitted", "leave_one_out", "leverage", "coefficients"):
                np.testing.assert_allclose(getattr(found, name), getattr(expected, name), 1e-8)
            # The ceiling of leverages enters in another way.
            np.testing.assert_allclose(found.leave_group_out, expected.leave_group_out, 1e-3, 1e-5)
            np.testing.assert_allclose(found.group_leverage, expected.group_leverage, 1e-3)


def test_blocks_do_not_change_the_fit(monkeypatch) -> None:
    c, phi, y, weights, groups = problem_data(10, n=700, columns=5)
    one = RidgeProblem(c, phi, y, weights, groups).solve(0.2)
    monkeypatch.setattr(ridge, "_BLOCK_BYTES", 1)
    several = RidgeProblem(c, phi, y, weights, groups).solve(0.2)
    np.testing.assert_allclose(several.leave_one_out, one.leave_one_out, atol=1e-10)
    np.testing.assert_allclose(several.leave_group_out, one.leave_group_out, atol=1e-9)


def test_group_leverage_can_be_left_out() -> None:
    c, phi, y, weights, _ = problem_data(11, n=900, columns=4)
    problem = RidgeProblem(c, phi, y, weights, np.repeat([0, 1], [450, 450]))
    (fit,) = problem.solve_all([0.1], group_leverage=False)
    assert np.isnan(fit.group_leverage).all()
    np.testing.assert_array_equal(fit.leave_group_out, problem.solve(0.1).leave_group_out)
