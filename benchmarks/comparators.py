"""Methods to compare with, for benchmarks only: what the package does not offer, or not alone.

Each function learns from ``train`` and predicts Δ of ``test``, both described with the same
descriptor, and returns a :class:`Comparison`. All of them see Δ without element and charge offsets
(``trend="none"``), which are added again. The k-nearest-neighbour methods differ only in their
distance: k = 10 and weights 1/d, as published (arXiv 2509.11728).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from kernel_distance import KernelIndex, local_kernel
from qmllib.kernels import get_local_kernel, get_local_symmetric_kernel
from scipy.linalg import cho_factor, cho_solve

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.weights import rank_weights
from ase_knncalc.labels.training_data import TrainingData
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training.metric import fit_metric
from ase_knncalc.trend.base import Trend
from ase_knncalc.trend.kinds import fit_trend

Search = Callable[[FeatureBatch, int], tuple[FloatArray, IntArray]]

SIGMA = 20.0  # of the local kernel, in units of FCHL19
PENALTY = 1e-8  # of kernel ridge regression, in units of the kernel


class Comparison(NamedTuple):
    """What a method predicts, and what that cost.

    Attributes
    ----------
    delta : ndarray, shape (n_test,)
        Predicted reference minus baseline energy, eV.
    std : ndarray, shape (n_test,), or None
        Standard deviation of the neighbours' labels, eV, where the method has neighbours.
    train_cpu_seconds : float
        Processor time of training, descriptors excluded.
    predict_ms_per_structure : float
        Wall time of prediction, descriptors excluded.
    """

    delta: FloatArray
    std: FloatArray | None
    train_cpu_seconds: float
    predict_ms_per_structure: float


def offsets(train: TrainingData) -> tuple[Trend, FloatArray]:
    """Element and charge offsets by least squares, and what they leave over, eV, shape (n,)."""
    elements = train.descriptor.elements
    trend = fit_trend("none", train.batch, train.delta, elements, weights=train.weights).trend
    return trend, train.delta - trend.predict(train.batch)


# --- kernel regressors --------------------------------------------------------------------------


def local_krr(
    train: TrainingData,
    test: TrainingData,
    *,
    sigma: float = SIGMA,
    penalty: float = PENALTY,
    library: str = "qmllib",
) -> Comparison:
    """Kernel ridge regression with the full local kernel: the accuracy to reach, at its cost.

    ``library`` is what computes the kernel: ``"qmllib"``, as the literature does, or ``"blas"``,
    this package's :func:`local_kernel`, the same numbers by matrix products.
    """
    start = time.process_time()
    trend, residuals = offsets(train)
    elements = train.descriptor.elements
    if library == "qmllib":
        known = padded(train.batch)
        kernel = get_local_symmetric_kernel(*known, sigma)
    elif library == "blas":
        kernel = local_kernel(train.batch, train.batch, elements, sigma)
    else:
        raise ValueError(f"library must be qmllib or blas, got {library!r}")
    kernel[np.diag_indices_from(kernel)] += penalty
    coefficients = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), residuals)
    train_seconds = time.process_time() - start

    start = time.perf_counter()
    if library == "qmllib":
        rows, numbers = padded(test.batch)
        # qmllib returns one row for each structure of its second argument.
        cross = get_local_kernel(known[0], rows, known[1], numbers, sigma)
    else:
        cross = local_kernel(test.batch, train.batch, elements, sigma)
    delta = trend.predict(test.batch) + cross @ coefficients
    return Comparison(delta, None, train_seconds, _milliseconds(start, test))


def mlkr_regressor(
    train: TrainingData, test: TrainingData, settings: TrainingSettings | None = None
) -> Comparison:
    """The regressor that MLKR trains: the Gaussian kernel mean in the learned metric."""
    settings = settings or TrainingSettings(trend="none")
    start = time.process_time()
    trend, residuals = offsets(train)
    metric, _ = fit_metric(train.batch.summed(), residuals, replace(settings, metric="mlkr"))
    points = metric.project(train.batch.summed())
    train_seconds = time.process_time() - start

    start = time.perf_counter()
    asked = metric.project(test.batch.summed())
    exponents = 2 * asked @ points.T - (points**2).sum(axis=1)
    # Far from all points every kernel is zero in floating point, but their ratios are not.
    exponents -= exponents.max(axis=1, keepdims=True)
    weights = np.exp(exponents)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = weights @ residuals
    variance = np.maximum(weights @ residuals**2 - mean**2, 0.0)
    delta = trend.predict(test.batch) + mean
    return Comparison(delta, np.sqrt(variance), train_seconds, _milliseconds(start, test))


# --- k nearest neighbours -----------------------------------------------------------------------


def knn_linear(
    train: TrainingData,
    test: TrainingData,
    metric: str,
    settings: TrainingSettings | None = None,
) -> Comparison:
    """Euclidean distance of global descriptors, as they are or after a linear map.

    ``metric`` is ``"euclidean"``, ``"mlkr"`` (the published method), ``"pca"`` or ``"random"``;
    the latter two of the rank that MLKR has.
    """
    settings = replace(settings or TrainingSettings(trend="none"), metric=metric)

    def learn(residuals: FloatArray) -> Search:
        summed = train.batch.summed()
        linear, _ = fit_metric(summed, residuals, settings)
        index = NeighborIndex(linear.project(summed))

        def search(batch: FeatureBatch, k: int) -> tuple[FloatArray, IntArray]:
            found = [index.query(z, k) for z in linear.project(batch.summed())]
            return np.array([d for d, _ in found]), np.array([i for _, i in found])

        return search

    return _knn(train, test, settings.k, learn)


def knn_euclid(train: TrainingData, test: TrainingData) -> Comparison:
    """Euclidean distance of global descriptors."""
    return knn_linear(train, test, "euclidean")


def knn_mlkr(train: TrainingData, test: TrainingData) -> Comparison:
    """The metric learned by MLKR: the published method."""
    return knn_linear(train, test, "mlkr")


def knn_pca(train: TrainingData, test: TrainingData) -> Comparison:
    """As many principal components as MLKR has dimensions."""
    return knn_linear(train, test, "pca")


def knn_random(train: TrainingData, test: TrainingData) -> Comparison:
    """As many random projections as MLKR has dimensions."""
    return knn_linear(train, test, "random")


def knn_kernel(
    train: TrainingData,
    test: TrainingData,
    *,
    k: int = 10,
    sigma: float = SIGMA,
    normalize: bool = False,
) -> Comparison:
    """Distance induced by the local kernel, plain (the paper's third) or normalised."""
    return _knn(
        train,
        test,
        k,
        lambda _: KernelIndex(train.batch, train.descriptor.elements, sigma, normalize).query,
    )


def knn_predict(
    distances: FloatArray, indices: IntArray, labels: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean with weights 1/d and standard deviation about it, (m,) each, of neighbours (m, k)."""
    weights = rank_weights(distances, "distance")
    near = labels[indices]
    mean = (weights * near).sum(axis=1)
    return mean, np.sqrt((weights * (near - mean[:, None]) ** 2).sum(axis=1))


METHODS: dict[str, Callable[[TrainingData, TrainingData], Comparison]] = {
    "KRR, local kernel": local_krr,
    "MLKR's own regressor": mlkr_regressor,
    "k-NN, Euclidean": knn_euclid,
    "k-NN, MLKR (published)": knn_mlkr,
    "k-NN, PCA": knn_pca,
    "k-NN, random projections": knn_random,
    "k-NN, kernel-induced": knn_kernel,
    "k-NN, kernel-induced, normalised": lambda a, b: knn_kernel(a, b, normalize=True),
}
"""All comparators with their defaults, by the name for tables."""


def padded(batch: FeatureBatch) -> tuple[FloatArray, list[list[int]]]:
    """Descriptors (n_structures, most_atoms, n_features) and atomic numbers for qmllib."""
    rows = np.zeros((len(batch), int(batch.sizes.max()), batch.local.shape[1]))
    numbers = []
    for s, size in enumerate(batch.sizes):
        atoms = slice(batch.starts[s], batch.starts[s + 1])
        rows[s, :size] = batch.local[atoms]
        numbers.append(batch.numbers[atoms].tolist())
    return rows, numbers


def _knn(
    train: TrainingData, test: TrainingData, k: int, learn: Callable[[FloatArray], Search]
) -> Comparison:
    start = time.process_time()
    trend, residuals = offsets(train)
    search = learn(residuals)
    train_seconds = time.process_time() - start

    start = time.perf_counter()
    mean, std = knn_predict(*search(test.batch, k), residuals)
    delta = trend.predict(test.batch) + mean
    return Comparison(delta, std, train_seconds, _milliseconds(start, test))


def _milliseconds(start: float, test: TrainingData) -> float:
    return 1000 * (time.perf_counter() - start) / len(test)
