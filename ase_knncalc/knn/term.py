"""The k-NN term K: what the nearest neighbours in the learned metric say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.errors import TrainingError
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.weights import (
    KNNSettings,
    kriging_weights,
    rank_weights,
    wendland,
    wendland_slope,
)


@dataclass(frozen=True)
class KNNEstimate:
    """What the neighbours of one structure say.

    Attributes
    ----------
    mean : float
        Correction K in eV.
    spread : float
        Root of the weighted mean square of the neighbours' residuals, eV.
    distances, weights : ndarray, shape (k,)
        Of the k nearest, ascending by distance; weights are those in the mean, and
        sum to 1 at most (what is missing is the weight of the prior, zero).
    indices : ndarray of int, shape (k,)
    gradient : ndarray, shape (n_components,), or None
        dK/dz, z the projected structure; only with ``weights="kernel"``.
    """

    mean: float
    spread: float
    distances: FloatArray
    weights: FloatArray
    indices: IntArray
    gradient: FloatArray | None = None


class KNNTerm:
    """Residuals at projected training structures, and their interpolation.

    Parameters
    ----------
    index
        The projected training structures.
    residuals
        What the trend left over at each of them (cross-validated), eV, shape (n,).
    settings
        Number and weights of neighbours.
    """

    def __init__(self, index: NeighborIndex, residuals: FloatArray, settings: KNNSettings) -> None:
        if len(index) != len(residuals):
            raise TrainingError(f"{len(residuals)} residuals for {len(index)} structures")
        if settings.weights == "kriging":
            import scipy.linalg  # noqa: F401 - before its threads are limited
        self.index = index
        self.residuals = np.asarray(residuals, dtype=np.float64)
        self.settings = settings

    def __len__(self) -> int:
        return len(self.index)

    def evaluate(self, z: FloatArray, exclude: IntArray | None = None) -> KNNEstimate:
        """Correction, spread and neighbours of one projected structure.

        Parameters
        ----------
        z
            Projected structure, shape (n_components,).
        exclude
            Indices of training structures that do not count (for cross-validation).
        """
        z = np.asarray(z, dtype=np.float64)
        return self._evaluate(z, self.index.approximate_squares(z), exclude)

    def smooth_mean(self, z: FloatArray) -> tuple[float, FloatArray]:
        """Mean and gradient of :meth:`evaluate` alone, of ``weights="kernel"``."""
        found = self._kernel_mean(z, self.index.approximate_squares(z), np.zeros(0), None)
        return found[0], found[2]

    def evaluate_many(self, z: FloatArray) -> list[KNNEstimate]:
        """Bit for bit what :meth:`evaluate` gives for each of several structures (m, …)."""
        z = np.asarray(z, dtype=np.float64)
        return [self._evaluate(place, squares) for _, place, squares in self.index.scan(z)]

    def _evaluate(
        self, z: FloatArray, squares: FloatArray, exclude: IntArray | None = None
    ) -> KNNEstimate:
        k = min(self.settings.k, len(self))
        distances, indices = self.index.query(
            z, k if exclude is None else k + len(exclude), squares
        )
        if exclude is not None:
            keep = ~np.isin(indices, exclude)
            distances, indices = distances[keep][:k], indices[keep][:k]
            if not len(indices):
                return KNNEstimate(0.0, self._overall_spread(), distances, distances, indices)
        near = self.residuals[indices]
        by_rank = rank_weights(distances, "distance")
        spread = float(np.sqrt(by_rank @ near**2))
        gradient = None
        if self.settings.weights == "kernel":
            mean, weights, gradient = self._kernel_mean(z, squares, distances, exclude)
        elif self.settings.weights == "kriging":
            weights = kriging_weights(
                self.index.points[indices].astype(np.float64), z, self.settings
            )
            mean = float(weights @ near)
        else:
            weights = rank_weights(distances, self.settings.weights)
            mean = float(weights @ near)
        return KNNEstimate(mean, spread, distances, weights, indices, gradient)

    def _overall_spread(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))

    def _kernel_mean(
        self,
        z: FloatArray,
        squares: FloatArray,
        distances: FloatArray,
        exclude: IntArray | None,
    ) -> tuple[float, FloatArray, FloatArray]:
        """Σ φ r / (Σ φ + ν) over all points within the support, and its gradient in z."""
        h = self.settings.bandwidth
        assert h is not None
        inside = np.flatnonzero(squares <= h * h + self.index.tolerance(z))
        if exclude is not None:
            inside = inside[~np.isin(inside, exclude)]
        difference = z - self.index.points[inside].astype(np.float64)
        q = np.sqrt(np.einsum("ij,ij->i", difference, difference)) / h
        # Only what is inside for certain: sums must not depend on the rounding of the squares.
        within = q < 1.0
        inside, difference, q = inside[within], difference[within], q[within]
        phi = wendland(q)
        total = phi.sum() + max(self.settings.nugget, 1e-12)
        mean = float(phi @ self.residuals[inside]) / total
        slope = wendland_slope(q) * (self.residuals[inside] - mean) / (h * h * total)
        return mean, wendland(distances / h) / total, slope @ difference

    def leave_out(self, groups: list[IntArray] | None = None) -> list[KNNEstimate]:
        """Estimate at every training structure from the others.

        Parameters
        ----------
        groups
            Index arrays that are left out together; each structure alone by default.
        """
        estimates: list[KNNEstimate | None] = [None] * len(self)
        for members in groups or [np.array([i]) for i in range(len(self))]:
            for i in members:
                estimates[i] = self.evaluate(self.index.points[i].astype(np.float64), members)
        return [e for e in estimates if e is not None]
