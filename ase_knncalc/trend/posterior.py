"""The posterior variance of what a ridge regression predicts."""

from __future__ import annotations

import numpy as np

from ase_knncalc._lib.arrays import FloatArray


def prediction_leverage(
    free: FloatArray,
    columns: FloatArray,
    free_map: FloatArray,
    shift: FloatArray,
    factor: FloatArray,
) -> FloatArray:
    """Variance of predictions at new samples in units of the noise variance, shape (n,)."""
    rows = prediction_rows(free, columns, free_map, shift, factor)
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def prediction_rows(
    free: FloatArray,
    columns: FloatArray,
    free_map: FloatArray,
    shift: FloatArray,
    factor: FloatArray,
) -> FloatArray:
    """Rows whose products are the covariance of predictions in units of the noise variance.

    Shape (n, rank + n_columns); arguments as for :meth:`RidgeProblem.variance_factors`.
    """
    return rows_of_products(free, columns @ factor, free_map, shift)


def rows_of_products(
    free: FloatArray, products: FloatArray, free_map: FloatArray, shift: FloatArray
) -> FloatArray:
    """:func:`prediction_rows` where the product of columns and factor is known."""
    q = free @ free_map
    return np.hstack([q, products - q @ shift])
