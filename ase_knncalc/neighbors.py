"""The k-NN term: exact nearest neighbours in the learned metric, and what they say.

Structures are projected once with the metric; distances are then Euclidean in few dimensions, so
that one matrix product finds exact neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ase_knncalc.errors import SettingsError, TrainingError
from ase_knncalc.settingcheck import is_real, not_negative, one_of, settle, whole

FloatArray = np.ndarray
IntArray = np.ndarray

WEIGHTS = ("distance", "uniform", "kernel", "kriging")

# Points are stored in float32: a distance below this fraction of the norm is zero.
_ZERO = 1e-6
# Distances held at a time; blocks for each neighbour that a row of them is cut into to find it.
_BLOCK_BYTES = 64 * 2**20
_BLOCKS = 16


@dataclass(frozen=True)
class KNNSettings:
    """How neighbours are weighted.

    Parameters
    ----------
    k
        Number of neighbours.
    weights
        ``"distance"``: 1/d over the k nearest (the published method). ``"uniform"``: their mean.
        ``"kernel"``: all training structures within ``bandwidth``, weighted with a Wendland
        function of the distance, with a prior of zero; smooth, so that forces exist.
        ``"kriging"``: Gaussian-process interpolation of the k nearest, prior of zero.
    bandwidth
        Distance in the metric: support of the kernel, or length scale of kriging.
    nugget
        Weight of the prior against the neighbours (in kernel weights, or as noise variance
        relative to the signal for kriging): the larger, the sooner the term fades.
    """

    k: int = 10
    weights: str = "distance"
    bandwidth: float | None = None
    nugget: float = 0.0

    def __post_init__(self) -> None:
        settle(self, k=whole(1), weights=one_of(WEIGHTS), nugget=not_negative)
        width = self.bandwidth
        needed = self.weights in ("kernel", "kriging") or width is not None
        # The square of what is smaller, or larger, overflows.
        if needed and (width is None or not is_real(width) or not 1e-12 <= width <= 1e18):
            raise SettingsError(
                f"weights={self.weights!r} need a positive bandwidth, got {width!r}"
            )
        if width is not None:
            object.__setattr__(self, "bandwidth", float(width))

    @property
    def smooth(self) -> bool:
        """Whether the term is continuously differentiable."""
        return self.weights == "kernel"

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain values."""
        return asdict(self)


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


class NeighborIndex:
    """Exact Euclidean nearest neighbours of points held in float32.

    All distances come from one matrix product in float32, with a bound of its rounding; the few
    points that may be among the nearest are then measured in float64. In the 50 dimensions of a
    metric that is faster than any tree, and than a library's exact index for many queries at once
    (``benchmarks/speed.py``).

    Parameters
    ----------
    points
        Projected training structures, shape (n, n_components).
    """

    def __init__(self, points: FloatArray) -> None:
        self.points = np.ascontiguousarray(points, dtype=np.float32)
        # The product with one vector reads the points once: dimension by dimension that is twice
        # as fast as point by point. The factor is that of 2 p·z in the square of a difference.
        self._by_dimension = np.ascontiguousarray(-2.0 * self.points.T)
        self._squares = np.einsum("ij,ij->i", self.points, self.points)
        self._largest = float(self._squares.max(initial=0.0))

    def __len__(self) -> int:
        return len(self.points)

    def __reduce__(self) -> tuple[type[NeighborIndex], tuple[FloatArray]]:
        return NeighborIndex, (self.points,)

    def approximate_squares(self, z: FloatArray) -> FloatArray:
        """Squared distances of points (…, n_components) to all points in float32, shape (…, n)."""
        z32 = z.astype(np.float32)
        squares = np.asarray(z32 @ self._by_dimension)
        squares += self._squares
        squares += np.einsum("...j,...j->...", z32, z32)[..., None]
        return squares

    def tolerance(self, z: FloatArray) -> float:
        """Bound of the error of :meth:`approximate_squares` at one point."""
        scale = float(z @ z) + self._largest
        return 4.0 * float(np.finfo(np.float32).eps) * np.sqrt(self.points.shape[1]) * scale

    def exact(self, z: FloatArray, candidates: IntArray) -> FloatArray:
        """Distances to some points in float64; what is zero within storage precision is zero."""
        difference = self.points[candidates].astype(np.float64) - z
        distances = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        distances[distances <= _ZERO * max(1.0, float(np.sqrt(z @ z)))] = 0.0
        return distances

    def query(
        self, z: FloatArray, k: int, squares: FloatArray | None = None
    ) -> tuple[FloatArray, IntArray]:
        """The k nearest points of ``z`` (n_components,), exact, ties broken by index.

        Parameters
        ----------
        z, k
            Place, and number of neighbours.
        squares
            Its :meth:`approximate_squares` where they are known already.

        Returns
        -------
        distances, indices : ndarrays, shape (min(k, n),)
        """
        z = np.asarray(z, dtype=np.float64)
        k = min(k, len(self))
        if k == len(self):
            candidates = np.arange(len(self))
        else:
            if squares is None:
                squares = self.approximate_squares(z)
            candidates = np.flatnonzero(squares <= _at_least(squares, k) + 2 * self.tolerance(z))
        distances = self.exact(z, candidates)
        order = np.lexsort((candidates, distances))[:k]
        return distances[order], candidates[order]

    def query_many(self, z: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
        """The k nearest points of each of several places (m, n_components).

        Returns
        -------
        distances, indices : ndarrays, shape (m, min(k, n))
            Bit for bit those of :meth:`query`.
        """
        z = np.asarray(z, dtype=np.float64)
        distances = np.empty((len(z), min(k, len(self))))
        indices = np.empty(distances.shape, dtype=np.intp)
        for i, place, squares in self.scan(z):
            distances[i], indices[i] = self.query(place, k, squares)
        return distances, indices

    def scan(self, z: FloatArray) -> Iterator[tuple[int, FloatArray, FloatArray]]:
        """Number, place and approximate squares of each of several places, a block at a time."""
        block = max(1, _BLOCK_BYTES // (4 * max(1, len(self))))
        for start in range(0, len(z), block):
            part = z[start : start + block]
            squares = self.approximate_squares(part)
            for i, place in enumerate(part):
                yield start + i, place, squares[i]


def _at_least(values: FloatArray, k: int) -> float:
    """An upper bound of the k-th smallest of more than k values, and close to it.

    The k-th smallest minimum of blocks: k blocks hold a value that small. Finding it takes a
    tenth of the time that partitioning all values does.
    """
    width = len(values) // (_BLOCKS * k)
    if width < 2:
        return float(np.partition(values, k - 1)[k - 1])
    whole = len(values) // width * width
    minima = values[:whole].reshape(-1, width).min(axis=1)
    return float(np.partition(minima, k - 1)[k - 1])


def wendland(q: FloatArray) -> FloatArray:
    """Wendland's C4 function (1 − q)⁶ (35 q² + 18 q + 3)/3 on [0, 1], zero beyond.

    References
    ----------
    H. Wendland, Adv. Comput. Math. 4, 389 (1995).
    """
    q = np.minimum(q, 1.0)
    return np.asarray((1 - q) ** 6 * (35 * q**2 + 18 * q + 3) / 3)


def wendland_slope(q: FloatArray) -> FloatArray:
    """(dφ/dq)/q of :func:`wendland`: finite at zero, so gradients have no singular point."""
    q = np.minimum(q, 1.0)
    return np.asarray(-56.0 / 3.0 * (1 - q) ** 5 * (5 * q + 1))


def rank_weights(distances: FloatArray, weights: str) -> FloatArray:
    """Normalised weights of the k nearest by rank, shape (…, k).

    ``"distance"`` gives all weight to neighbours at distance zero where there are any.
    """
    if weights == "uniform":
        return np.full_like(distances, 1.0 / distances.shape[-1])
    zero = distances == 0.0
    w = np.where(zero.any(axis=-1, keepdims=True), zero, 1.0 / np.where(zero, 1.0, distances))
    return np.asarray(w / w.sum(axis=-1, keepdims=True))


def kriging_weights(points: FloatArray, z: FloatArray, settings: KNNSettings) -> FloatArray:
    """Weights of simple kriging (prior mean zero) with a Matérn-3/2 covariance, shape (k,)."""
    from scipy.linalg import cho_factor, cho_solve

    assert settings.bandwidth is not None
    stacked = np.vstack([points, z[None]])
    # From differences: the covariance of far-off points close together stays positive definite.
    difference = stacked[:, None] - stacked
    d = np.sqrt(3.0 * np.einsum("ijk,ijk->ij", difference, difference)) / settings.bandwidth
    covariance = (1 + d) * np.exp(-d)
    k = len(points)
    noisy = covariance[:k, :k] + (settings.nugget + 1e-8) * np.eye(k)
    return np.asarray(cho_solve(cho_factor(noisy, lower=True), covariance[:k, k]))


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
