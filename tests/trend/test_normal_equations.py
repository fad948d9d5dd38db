"""Normal equations of energies and forces: folds left out, penalties, variances."""

from __future__ import annotations

import numpy as np
import pytest

from ase_knncalc.errors import TrainingError
from ase_knncalc.trend.normal_equations import FREE_SCALE, FoldSums, NormalEquations
from ase_knncalc.trend.posterior import prediction_leverage

FOLDS = 3


def problem(seed: int, n: int = 60, m: int = 12):
    rng = np.random.default_rng(seed)
    free = np.column_stack([rng.integers(1, 5, n), rng.integers(0, 3, n)]).astype(float)
    columns = rng.normal(size=(n, m))
    y = free @ [-2000.0, 300.0] + columns @ rng.normal(size=m) + rng.normal(size=n) * 0.1
    weights = rng.uniform(0.5, 2.0, n)
    folds = rng.integers(0, FOLDS, n)
    rows, targets = rng.normal(size=(90, m)), rng.normal(size=90)
    row_folds = np.repeat(np.arange(FOLDS), 30)
    sums = FoldSums.zeros(FOLDS, m)
    for k in range(FOLDS):
        sums.add(k, rows[row_folds == k], targets[row_folds == k])
    return free, columns, y, weights, folds, rows, targets, row_folds, sums


def dense(everything, free, columns, y, weights, rows, targets, weight, penalty):
    """The same fit as one least-squares problem with the penalty as rows."""
    m, f = columns.shape[1], free.shape[1]
    root = np.sqrt(weights)
    # The penalty pulls the offsets to where free columns alone put them, all structures in.
    every = np.sqrt(everything[2])
    offsets = np.linalg.lstsq(every[:, None] * everything[0], every * everything[1], rcond=None)[0]
    matrix = np.vstack(
        [
            root[:, None] * np.hstack([FREE_SCALE * free, columns]),
            np.sqrt(weight) * np.hstack([np.zeros((len(rows), f)), rows]),
            np.sqrt(penalty) * np.eye(f + m),
        ]
    )
    rest = root * (y - free @ offsets)
    right = np.concatenate([rest, np.sqrt(weight) * targets, np.zeros(f + m)])
    found = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return offsets + FREE_SCALE * found[:f], found[f:], np.linalg.inv(matrix.T @ matrix)


@pytest.mark.parametrize("without", [None, 0, 2])
def test_a_fold_left_out_is_a_refit(without) -> None:
    free, columns, y, weights, folds, rows, targets, row_folds, sums = problem(1)
    equations = NormalEquations(free, columns, y, weights, folds, sums)
    found = equations.solve(0.4, 0.05, without)
    keep = folds != without
    kept_rows = row_folds != without
    offsets, coefficients, inverse = dense(
        (free, y, weights),
        free[keep],
        columns[keep],
        y[keep],
        weights[keep],
        rows[kept_rows],
        targets[kept_rows],
        0.4,
        0.05,
    )
    np.testing.assert_allclose(found.coefficients, coefficients, rtol=1e-6, atol=1e-7)
    asked = np.flatnonzero(~keep) if without is not None else np.arange(5)
    np.testing.assert_allclose(
        equations.residuals(found, asked),
        y[asked] - free[asked] @ offsets - columns[asked] @ coefficients,
        atol=1e-6,
    )
    both = np.hstack([FREE_SCALE * free[asked], columns[asked]])
    np.testing.assert_allclose(
        found.leverage(free[asked], columns[asked]),
        np.einsum("ij,jk,ik->i", both, inverse, both),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        prediction_leverage(free[asked], columns[asked], *found.variance_factors(2)),
        found.leverage(free[asked], columns[asked]),
        rtol=1e-9,
    )


def test_one_energy_left_out_is_a_refit() -> None:
    free, columns, y, weights, folds, _, _, _, sums = problem(2)
    equations = NormalEquations(free, columns, y, weights, folds, sums)
    residuals, leverage = equations.leave_one_out(equations.solve(0.4, 0.05))
    for i in (0, 17, 59):
        keep = np.arange(len(y)) != i
        other = NormalEquations(
            free[keep], columns[keep], y[keep], weights[keep], folds[keep], sums
        )
        refit = other.solve(0.4, 0.05)
        expected = y[i] - free[i] @ refit.free - columns[i] @ refit.coefficients
        # The penalty on the offsets counts from another start in the refit.
        assert residuals[i] == pytest.approx(expected, abs=1e-4)
        assert leverage[i] == pytest.approx(
            float(refit.leverage(free[[i]], columns[[i]])[0]), rel=1e-6
        )


def test_rows_taken_off_are_as_if_never_added() -> None:
    rng = np.random.default_rng(3)
    rows, targets = rng.normal(size=(20, 4)), rng.normal(size=20)
    once, twice = FoldSums.zeros(2, 4), FoldSums.zeros(2, 4)
    once.add(1, rows[:12], targets[:12])
    twice.add(1, rows, targets)
    twice.add(1, rows[12:], targets[12:], -1.0)
    np.testing.assert_allclose(twice.grams, once.grams, atol=1e-12)
    np.testing.assert_allclose(twice.targets, once.targets, atol=1e-12)


def test_equations_without_a_solution_are_an_error_that_says_what_to_do() -> None:
    free, columns, y, weights, folds, *_, sums = problem(4)
    sums.grams[0] -= 1e6 * np.eye(len(sums.grams[0]))
    equations = NormalEquations(free, columns, y, weights, folds, sums)
    with pytest.raises(TrainingError, match=r"no solution with a penalty of 0\.05"):
        equations.solve(1.0, 0.05)


def test_a_gram_matrix_that_rounding_spoils_gets_a_higher_penalty() -> None:
    free, columns, y, weights, folds, *_, sums = problem(5, n=6, m=40)
    sums.grams[:] = 0.0
    sums.targets[:] = 0.0
    sums.grams[0] -= 1e-6 * np.eye(40)
    equations = NormalEquations(free, columns, y, weights, folds, sums)
    assert equations.solve(1.0, 1e-7).penalty == pytest.approx(1e-5)
