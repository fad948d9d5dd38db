"""The choice of inducing environments, and of the projection of an element's environments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.sparse import SparseSettings


def choose_environments(
    batch: FeatureBatch,
    elements: tuple[int, ...],
    settings: SparseSettings,
    seed: int,
    roots: Sequence[FloatArray] | None = None,
) -> Environments:
    """Projections and inducing environments for the atoms of structures.

    ``roots`` are those of a learned metric, of each element, shape (n_features, n_features);
    without them components are scaled by :attr:`SparseSettings.whitening`.
    """
    rng = np.random.default_rng(seed)
    means, projections, chosen = [], [], []
    for e, number in enumerate(elements):
        atoms = np.flatnonzero(batch.numbers == number)
        if len(atoms) > settings.sample:
            atoms = atoms[np.sort(rng.choice(len(atoms), settings.sample, replace=False))]
        rows = batch.local[atoms]
        mean, projection = _principal_map(rows, settings, None if roots is None else roots[e])
        points = ((rows - mean) @ projection.T.astype(np.float64)).astype(np.float32)
        points = np.unique(points, axis=0)
        chosen.append(points[_selected(points, settings, rng)])
        means.append(mean)
        projections.append(projection)
    return Environments(
        elements=elements,
        length_scale=np.array(settings.length_scale),
        means=np.array(means),
        projections=np.array(projections),
        points=np.concatenate(chosen),
        counts=np.array([len(c) for c in chosen]),
        sharp_share=np.array(settings.sharp_share),
    )


def _principal_map(
    rows: FloatArray, settings: SparseSettings, root: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Mean (n_features,) and projection (rank, n_features) of environments.

    To their principal components, partially whitened, or those in a learned metric; the total
    variance is kept. Fewer than ``rank`` components are padded with zeros, so that all elements
    have one shape.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    total = float(np.trace(covariance))
    if root is not None:
        covariance = root @ covariance @ root
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    n = int(min(settings.rank, np.sum(values > values[0] * 1e-12))) if values[0] > 0 else 0
    projection = np.zeros((min(settings.rank, rows.shape[1]), rows.shape[1]), dtype=np.float32)
    if n:
        deviations = np.sqrt(values[:n])
        scale = np.ones(n) if root is not None else deviations**-settings.whitening
        scale *= np.sqrt(total / np.sum((deviations * scale) ** 2))
        axes = vectors[:, :n] * scale
        projection[:n] = (axes if root is None else root @ axes).T
    return mean, projection


def _selected(points: FloatArray, settings: SparseSettings, rng: np.random.Generator) -> IntArray:
    """Indices of the inducing environments among an element's points (n, rank)."""
    n = min(settings.environments, len(points))
    if settings.selection == "random" or n == len(points):
        return rng.permutation(len(points))[:n]
    if settings.selection == "kmeans":
        from sklearn.cluster import MiniBatchKMeans

        fit = MiniBatchKMeans(
            n, batch_size=4096, n_init=1, init="random", random_state=int(rng.integers(2**31))
        ).fit(points)
        centres = fit.cluster_centers_
        squares = np.einsum("ij,ij->i", points, points)
        nearest = [
            np.argmin(squares - 2 * block @ points.T, axis=1)
            for block in np.array_split(centres, max(1, n // 256))
        ]
        return rng.permutation(np.unique(np.concatenate(nearest)))
    squares = np.einsum("ij,ij->i", points, points)
    distance = np.full(len(points), np.inf, dtype=np.float32)
    chosen = [int(np.argmin(squares))]
    for _ in range(n - 1):
        last = points[chosen[-1]]
        distance = np.minimum(distance, squares + squares[chosen[-1]] - points @ (2 * last))
        distance[chosen[-1]] = -1.0
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)
