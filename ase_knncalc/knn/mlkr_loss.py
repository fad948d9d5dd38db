"""Leave-one-out kernel regression, and the loss of MLKR (see `mlkr`) with its gradient."""

from __future__ import annotations

import numpy as np

from ase_knncalc._lib.arrays import FloatArray

# Squares of more than this could overflow float32. Every softmax is a maximum long before.
_MAX_COORDINATE = 1e15


def leave_one_out(
    points: FloatArray, targets: FloatArray, *, batch_size: int = 256, gradient: bool = True
) -> tuple[float, FloatArray | None]:
    """Squared leave-one-out error of Gaussian kernel regression, and its gradient.

    Parameters
    ----------
    points
        Z, shape (n, n_components), n ≥ 2, best centred. Their dtype, float32 or float64, is that
        of the matrix products; sums over blocks are in float64.
    targets
        y, shape (n,). In float32 they should be centred and of order one.
    batch_size
        Rows per block: two arrays of (batch_size, n) are held.
    gradient
        Whether to compute the gradient.

    Returns
    -------
    loss : float
        Σ_i (ŷ_i − y_i)², in units of ``targets`` squared.
    gradient : ndarray (n, n_components), float64, or None
        ∂L/∂Z.
    """
    n, c = points.shape
    dtype = points.dtype
    largest = float(np.abs(points).max())
    if largest > _MAX_COORDINATE:
        points = points * dtype.type(_MAX_COORDINATE / largest)
    squared = np.einsum("ij,ij->i", points, points)
    y = targets.astype(dtype)
    y_and_one = np.stack([y, np.ones_like(y)], axis=1)
    points_and_one = np.concatenate([points, np.ones((n, 1), dtype)], axis=1)
    # 2 z_i·z_j − ‖z_j‖² is −‖z_i − z_j‖² but for a constant of the row, which softmax ignores:
    # one product gives the exponents.
    right = np.concatenate([points.T, squared[None]], axis=0)
    batch_size = min(batch_size, n)
    kernel_buffer = np.empty((batch_size, n), dtype)
    weight_buffer = np.empty((batch_size, n), dtype) if gradient else None

    loss = 0.0
    total = np.zeros((n, c + 1))  # (W + Wᵀ) Z, and (W + Wᵀ) 1 in the last column
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        m = rows.stop - start
        left = np.concatenate([2 * points[rows], -np.ones((m, 1), dtype)], axis=1)
        kernel = np.matmul(left, right, out=kernel_buffer[:m])
        kernel[np.arange(m), np.arange(start, rows.stop)] = -np.inf
        kernel -= kernel.max(axis=1, keepdims=True)
        np.exp(kernel, out=kernel)
        sums = kernel @ y_and_one
        predicted = sums[:, 0] / sums[:, 1]
        error = predicted.astype(np.float64) - y[rows]
        loss += float(error @ error)
        if weight_buffer is None:
            continue
        weights = np.subtract(y, predicted[:, None], out=weight_buffer[:m])
        weights *= kernel
        factor = (error / sums[:, 1]).astype(dtype)[:, None]  # W = factor · weights
        total[rows] += factor * (weights @ points_and_one)
        total += weights.T @ (factor * points_and_one[rows])
    if not gradient:
        return loss, None
    return loss, 4.0 * (total[:, :c] - total[:, c:] * points)


def mlkr_loss(
    components: FloatArray, X: FloatArray, y: FloatArray, *, batch_size: int = 256
) -> tuple[float, FloatArray]:
    """Loss of MLKR and its gradient with respect to the linear map.

    Parameters
    ----------
    components
        A, shape (n_components, n_features).
    X
        Samples, shape (n, n_features), best centred; float32 or float64, which is also the
        precision of the computation.
    y
        Targets, shape (n,).
    batch_size
        As in :func:`leave_one_out`.

    Returns
    -------
    loss : float
        Σ_i (ŷ_i − y_i)².
    gradient : ndarray (n_components, n_features), float64
        ∂L/∂A. The cost is O(n² n_components + n n_components n_features).
    """
    loss, slope = leave_one_out(X @ components.T.astype(X.dtype), y, batch_size=batch_size)
    assert slope is not None
    return loss, (slope.T.astype(X.dtype) @ X).astype(np.float64)
