"""Which metrics of the k-NN term there are, and fitting one of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.knn.metrics import LinearMetric
from ase_knncalc.settings import TrainingSettings


def fit_metric(
    summed: FloatArray, residuals: FloatArray, settings: TrainingSettings, most: int | None = None
) -> tuple[LinearMetric, dict[str, Any]]:
    """Map of the k-NN term for residuals (n,) at global descriptors (n, n_features), and its story.

    ``most`` limits the structures that MLKR learns from further than the settings do.
    """
    if settings.metric == "mlkr":
        rows, rng = metric_rows(len(summed), settings, most)
        return _learned_metric(summed[rows], residuals[rows], settings, rng)
    mean = summed.mean(axis=0)
    n_features = summed.shape[1]
    rank = min(settings.n_components, n_features)
    if settings.metric == "euclidean" or settings.metric.startswith("kernel"):
        components = np.eye(n_features)
    elif settings.metric == "pca":
        components = np.linalg.svd(summed - mean, full_matrices=False)[2][:rank]
    else:
        rng = np.random.default_rng(settings.seed)
        components = rng.normal(size=(rank, n_features)) / np.sqrt(n_features)
    return LinearMetric(_stored(components), mean), {"kind": settings.metric}


def metric_rows(n: int, settings: TrainingSettings, most: int | None) -> tuple[IntArray, Any]:
    """Structures that MLKR learns from, and the generator for its own random choices."""
    rng = np.random.RandomState(settings.seed)
    samples = min(settings.metric_samples, most or settings.metric_samples)
    return (np.arange(n) if n <= samples else np.sort(rng.permutation(n)[:samples])), rng


def _learned_metric(
    summed: FloatArray, residuals: FloatArray, settings: TrainingSettings, rng: Any
) -> tuple[LinearMetric, dict[str, Any]]:
    from sklearn.exceptions import ConvergenceWarning

    from ase_knncalc.knn.mlkr import MLKR

    metric = MLKR(
        n_components=settings.n_components,
        max_iter=settings.metric_iterations,
        max_samples=max(2, len(summed)),
        random_state=rng,
    )
    with warnings.catch_warnings():
        # Stopping early regularises the metric; whether it converged is in the provenance.
        warnings.simplefilter("ignore", ConvergenceWarning)
        metric.fit(summed, residuals)
    details = {
        "kind": "mlkr",
        "iterations": int(metric.n_iter_),
        "converged": bool(metric.converged_),
        "loss": [float(metric.loss_history_[0]), float(metric.loss_history_[-1])],
    }
    mean = np.asarray(metric.mean_, dtype=np.float64)
    return LinearMetric(_stored(metric.components_), mean), details


def _stored(components: FloatArray) -> FloatArray:
    """What a file will hold: a model predicts the same before and after it was saved."""
    return np.ascontiguousarray(components, dtype=np.float32).astype(np.float64)
