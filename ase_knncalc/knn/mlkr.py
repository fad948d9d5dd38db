"""The metric of the k-NN term: metric learning for kernel regression (MLKR) [1]_.

A linear map A is learned such that a Gaussian kernel regression in the mapped space predicts each
training target from the others with the least squared error:

    L(A) = Σ_i (ŷ_i − y_i)²,   ŷ_i = Σ_{j≠i} p_ij y_j,
    p_ij = k_ij / Σ_{l≠i} k_il,   k_ij = exp(−‖A(x_i − x_j)‖²),   p_ii = 0

(no factor 1/2 or 1/σ² in the exponent: the scale of A is the inverse width of the kernel). With
z_i = A x_i and W_ij = (ŷ_i − y_i) p_ij (y_j − ŷ_i), the gradient is

    ∂L/∂Z = 4 [W Z + Wᵀ Z − diag(W 1 + Wᵀ 1) Z],   ∂L/∂A = (∂L/∂Z)ᵀ X

A block of rows of W adds to W Z in its own rows and to Wᵀ Z in all rows, so that one pass over row
blocks is enough and the n × n matrices never exist.

References
----------
.. [1] K. Q. Weinberger, G. Tesauro, *Metric Learning for Kernel Regression*, Proceedings of the
   Eleventh International Conference on Artificial Intelligence and Statistics (AISTATS),
   PMLR 2, 612–619 (2007).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from scipy.optimize import OptimizeResult, minimize
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ase_knncalc._lib.arguments import Count, NotNegative, OneOf, Whole, checked
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.knn.mlkr_loss import leave_one_out, mlkr_loss

Callback = Callable[[int, float, FloatArray], Any]
# Directions with a smaller share of the largest standard deviation are rounding, not data.
_RANK_TOLERANCE = 1e-6
# The scale of the start is looked for on a grid of factors 2, on this many samples at most.
_SCALE_GRID = 2.0 ** np.arange(-1, 14)
_SCALE_SAMPLES = 3000
# The start has a kernel twice as wide as the best one: its gradient then reaches more than the
# few nearest pairs. With whiten=0.5 this lowered the validation error a little (0.371 to 0.362).
_WIDENING = 2.0
# Progress of L-BFGS comes in fits and starts: convergence is judged over this many iterations.
_PATIENCE = 5


class MLKR(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Metric learning for kernel regression, with memory linear in the number of samples.

    The loss is minimised with L-BFGS in principal coordinates scaled by σ^(−whiten), which is a
    preconditioner: it leaves the loss of a metric as it is, but decides which metrics are near
    the start. With ``max_iter`` it acts as regularisation. Features are centred, not scaled.

    Parameters
    ----------
    n_components
        Most dimensions of the mapped space. Reduced to the numerical rank of the centred samples,
        which is at most min(n_samples − 1, n_features).
    init
        ``"pca"``: the leading principal components with standard deviations ∝ σ^(1 − whiten), in
        a scale found by a line search over the loss. Or an array (m, n_features), taken as it is
        (within the span of the samples); m then replaces ``n_components``.
    whiten
        Exponent between 0 and 1. 0 is L-BFGS in the features themselves from plain PCA (as
        metric-learn does), 1 full whitening. See Notes for errors.
    max_iter
        Most L-BFGS iterations. 0 gives the start.
    tol
        Converged when the loss fell by less than this fraction over five iterations.
    max_samples
        If there are more samples, a random subset of this size is learned from.
    batch_size
        Rows of the kernel matrix in memory at a time; no influence on the result but rounding.
    dtype
        ``"float32"`` or ``"float64"``: precision of the matrix products.
    random_state
        Seed of the subsets.
    callback
        Called after each iteration as ``callback(iteration, loss, components)``, with the loss
        as in ``loss_history_``. If it raises ``StopIteration``, fitting ends with what was
        reached; after any other exception the estimator is as it was before ``fit``.
    verbose
        1 prints the loss of each iteration.
    warm_start
        Start from ``components_`` of the previous fit, if there was one.

    Attributes
    ----------
    components_ : ndarray (n_components\_, n_features)
        The map A. Euclidean distances of A x are the learned metric, in units of kernel widths.
    n_components_ : int
        Dimensions of the mapped space.
    mean_ : ndarray (n_features,)
        Mean of the samples learned from, subtracted before mapping.
    n_iter_ : int
        L-BFGS iterations done.
    loss_history_ : ndarray (n_iter\_ + 1,)
        Mean squared leave-one-out error, in units of y², of the start and after each iteration.
    converged_ : bool
        Whether ``tol`` was reached.
    sample_indices_ : ndarray (n_used,)
        Rows of X learned from, ascending.
    n_features_in_ : int
        Features seen in ``fit``.

    Raises
    ------
    SettingsError
        From ``fit``, if a parameter has a value that makes no sense.
    DataError
        From ``fit``, if all samples are equal.
    ValueError
        From ``fit`` and ``transform``, for NaN, wrong shapes and the like (scikit-learn's checks).

    Warns
    -----
    ConvergenceWarning
        If ``max_iter`` was reached first, or the line search failed.

    Notes
    -----
    Memory is O(n n_features + batch_size n); time per iteration O(n² n_components).

    The defaults were chosen by cross-validation within 1,347 sulfuric acid–water clusters (Δ =
    ωB97X-D − GFN1-xTB binding energy, global FCHL19; mean absolute error of 10-NN with weights
    1/d after 100 iterations, kcal/mol). From plain PCA, preconditioned with σ^(−whiten): 0.60 for
    ``whiten=0``, 0.50 for 0.25, 0.44 for 0.5, 0.42 for 0.75, 0.68 for 1. With the start of
    ``whiten=0.5`` as it is here 0.36, which did not fall in further iterations. Not used for the
    choice: multibase clusters, 3,000 learned from and 800 predicted from 3,700: Euclid 1.96,
    ``whiten=0`` 1.32, 0.25 1.07, 0.5 0.81, 0.75 0.79.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5)) * [1, 1, 5, 5, 5]
    >>> y = np.sin(X[:, 0]) + X[:, 1]
    >>> metric = MLKR(n_components=2, max_iter=200).fit(X, y)
    >>> bool(metric.loss_history_[-1] < 0.2 * metric.loss_history_[0])
    True
    >>> metric.transform(X).shape
    (200, 2)
    """

    def __init__(
        self,
        n_components: int = 50,
        *,
        init: str | FloatArray = "pca",
        whiten: float = 0.5,
        max_iter: int = 100,
        tol: float = 1e-3,
        max_samples: int = 25000,
        batch_size: int = 256,
        dtype: str = "float32",
        random_state: Any = 0,
        callback: Callback | None = None,
        verbose: int = 0,
        warm_start: bool = False,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.whiten = whiten
        self.max_iter = max_iter
        self.tol = tol
        self.max_samples = max_samples
        self.batch_size = batch_size
        self.dtype = dtype
        self.random_state = random_state
        self.callback = callback
        self.verbose = verbose
        self.warm_start = warm_start

    def fit(self, X: FloatArray, y: FloatArray) -> MLKR:
        """Learn the metric.

        Parameters
        ----------
        X
            Samples, shape (n_samples, n_features), at least two.
        y
            Targets, shape (n_samples,).

        Returns
        -------
        MLKR
            This estimator.
        """
        self._check_settings()
        before = dict(self.__dict__)
        try:
            self._fit(X, y)
        except BaseException:
            # An interrupted or failed fit must not mix the new shape with the old metric.
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def transform(self, X: FloatArray) -> FloatArray:
        r"""Map samples into the learned space.

        Parameters
        ----------
        X
            Samples, shape (n_samples, n_features).

        Returns
        -------
        ndarray (n_samples, n_components\_)
            (X − mean) Aᵀ, in the precision of X.
        """
        check_is_fitted(self, "components_")
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        projected = (X - self.mean_) @ self.components_.T
        return np.asarray(projected, dtype=X.dtype)

    def _fit(self, X: FloatArray, y: FloatArray) -> None:
        X, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], y_numeric=True, ensure_min_samples=2
        )
        rng = check_random_state(self.random_state)
        indices = _subset(len(X), self.max_samples, rng)
        X, y = X[indices], y[indices].astype(np.float64)
        mean = X.mean(axis=0, dtype=np.float64)
        basis, spread = _principal_axes(X, mean)
        whitening = (spread / spread[0]) ** -self.whiten / spread[0]
        samples = ((X - mean) @ (basis.T * whitening)).astype(self.dtype)

        y_scale = float(y.std())
        constant = y_scale <= 8 * np.finfo(np.float64).eps * float(np.abs(y).max())
        targets = (y - y.mean()) / (1.0 if constant else y_scale)

        given = self._given_start(X.shape[1])
        if given is None:
            start = np.eye(min(self.n_components, len(spread)), len(spread))
            # Without a slope there is nothing a scale could be chosen by.
            scale = 1.0 if constant else self._find_scale(samples, targets, len(start), rng)
        else:
            # The size of a given map is meant. It only sets the length of the first step here.
            start = given @ basis.T / whitening
            scale = float(np.abs(start).max()) or 1.0
            start /= scale
        back = (basis.T * (whitening * scale)).T  # optimised coordinates → features

        found: FloatArray
        if constant:
            found, history, n_iter, converged = start, [0.0], 0, True
        else:
            found, history, n_iter, converged = self._minimise(
                start, samples * samples.dtype.type(scale), targets, back, y_scale**2
            )
        self.components_ = found @ back
        self.n_components_ = self._n_features_out = len(found)
        self.mean_ = mean
        self.n_iter_ = n_iter
        self.loss_history_ = np.array(history) * y_scale**2
        self.converged_ = converged
        self.sample_indices_ = indices

    def _minimise(
        self,
        start: FloatArray,
        samples: FloatArray,
        targets: FloatArray,
        back: FloatArray,
        unit: float,
    ) -> tuple[FloatArray, list[float], int, bool]:
        """L-BFGS from ``start``: the map, the loss history, iterations, and convergence."""
        shape, n = start.shape, len(samples)
        history: list[float] = []
        reason = ""

        def objective(flat: FloatArray) -> tuple[float, FloatArray]:
            loss, slope = mlkr_loss(
                flat.reshape(shape), samples, targets, batch_size=self.batch_size
            )
            if not history:
                history.append(loss / n)
            return loss / n, slope.ravel() / n

        def after_iteration(intermediate_result: OptimizeResult) -> None:
            nonlocal reason
            loss = float(intermediate_result.fun)
            history.append(loss)
            iteration = len(history) - 1
            if self.verbose:
                print(f"[MLKR] iteration {iteration:4d}  loss {loss * unit:.6g}", flush=True)
            if self.callback is not None:
                try:
                    self.callback(
                        iteration, loss * unit, intermediate_result.x.reshape(shape) @ back
                    )
                except StopIteration:
                    reason = "callback"
                    raise
            if iteration >= _PATIENCE and history[-1 - _PATIENCE] - loss <= self.tol * loss:
                reason = "tol"
                raise StopIteration

        if self.max_iter == 0:
            objective(start.ravel())
            return start, history, 0, False
        result = minimize(
            objective,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            callback=after_iteration,
            # The loss is relative to the variance of y: below these it is zero or stationary.
            options={"maxiter": self.max_iter, "ftol": 1e-14, "gtol": 1e-9, "maxfun": 10**7},
        )
        converged = reason == "tol" or (not reason and result.status == 0)
        if not converged and reason != "callback":
            why = "max_iter" if result.status == 1 else f"the optimiser: {result.message}"
            warnings.warn(
                f"MLKR stopped before convergence after {len(history) - 1} iterations (by {why}) "
                f"at a mean squared leave-one-out error of {history[-1] * unit:.6g}; expected a "
                f"relative change below tol={self.tol:g}. If that matters, raise max_iter "
                f"(now {self.max_iter}) or tol; early stopping often gives the better metric.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return result.x.reshape(shape), history, len(history) - 1, converged

    def _find_scale(
        self, samples: FloatArray, targets: FloatArray, n_components: int, rng: Any
    ) -> float:
        """Scale of the start: the best on a grid by leave-one-out loss, made wider."""
        chosen = _subset(len(samples), _SCALE_SAMPLES, rng)
        points, y = samples[chosen, :n_components], targets[chosen]
        losses = [
            leave_one_out(
                points * points.dtype.type(factor), y, batch_size=self.batch_size, gradient=False
            )[0]
            for factor in _SCALE_GRID
        ]
        return float(_SCALE_GRID[int(np.argmin(losses))]) / _WIDENING

    def _given_start(self, n_features: int) -> FloatArray | None:
        """Start from a previous fit or the user's array, shape (m, n_features), or None."""
        if self.warm_start and hasattr(self, "components_"):
            start: FloatArray = self.components_
            origin = "warm_start: components_ of the previous fit"
        elif isinstance(self.init, str):
            return None
        else:
            start, origin = np.asarray(self.init, dtype=np.float64), "init"
        if start.ndim != 2 or len(start) == 0 or start.shape[1] != n_features:
            raise SettingsError(
                f"{origin} has shape {start.shape}, expected (n_components, {n_features}) for "
                f"samples with {n_features} features; pass the right array, or init='pca' and "
                "warm_start=False"
            )
        if not np.isfinite(start).all():
            raise SettingsError(f"{origin} holds NaN or infinity; pass finite numbers")
        return start

    def _check_settings(self) -> None:
        kinds = {
            "n_components": Count,
            "max_iter": Whole,
            "max_samples": Annotated[int, Ge(2)],
            "batch_size": Count,
            "tol": NotNegative,
            "whiten": Annotated[float, Ge(0), Le(1)],
            "dtype": OneOf(("float32", "float64")),
        }
        for name, kind in kinds.items():
            checked(name, getattr(self, name), kind)
        if isinstance(self.init, str) and self.init != "pca":
            raise SettingsError(
                f"init must be 'pca' or an array (n_components, n_features), got {self.init!r}"
            )
        if self.callback is not None and not callable(self.callback):
            raise SettingsError(f"callback must be callable or None, got {self.callback!r}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _subset(n: int, most: int, rng: Any) -> IntArray:
    """Ascending indices of all of n, or of a random subset."""
    if n <= most:
        return np.arange(n)
    return np.sort(rng.permutation(n)[:most])


def _principal_axes(X: FloatArray, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Principal axes (rank, n_features) of samples, with standard deviations (rank,), falling."""
    centred = X - mean
    n, n_features = X.shape
    if n <= n_features:
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        spread = singular / np.sqrt(n)
    else:
        variances, vectors = np.linalg.eigh(centred.T @ centred / n)
        spread = np.sqrt(np.maximum(variances[::-1], 0))
        axes = vectors.T[::-1]
    # Rounding of the input spreads equal features, too.
    noise = 4 * float(np.finfo(X.dtype).eps) * float(np.abs(X).max())
    rank = int((spread > max(_RANK_TOLERANCE * float(spread[0]), noise)).sum())
    if rank == 0:
        raise DataError(
            f"all {n} samples are equal in all {n_features} features; expected at least two "
            "different samples: a metric cannot be learned from one point"
        )
    return axes[:rank], spread[:rank]
