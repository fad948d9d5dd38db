"""The kernel-induced distance as a Euclidean one, so that a model can use it as its metric.

With landmark environments z of each element, K their kernel matrix and K = L Lᵀ, the coordinates
φ(x) = L⁻¹ Σ_i k(z, x_i) make |φ(x) − φ(y)|² approach k(x, x) + k(y, y) − 2 k(x, y) from below, k
the local Gaussian kernel summed over pairs of atoms of the same element; landmarks are chosen by
pivoted Cholesky decomposition, which takes next what is worst described so far.

References
----------
arXiv:2509.11728: the distance. C. Williams, M. Seeger, NIPS 13, 682 (2000): Nyström approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.kernels import gaussian, gaussian_of, kernel_blocks, raised

# Environments of an element among which landmarks are chosen.
_POOL = 10_000
# What landmarks leave of another one below this is rounding.
_EXHAUSTED = 1e-9
# Added to the diagonal of K, so that its factor exists in float64.
_JITTER = 1e-12


@dataclass(frozen=True)
class KernelMap:
    """Coordinates of structures in which distances are those that the local kernel induces.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    sigma
        σ of the Gaussian, in units of the descriptor, shape ().
    normalized
        1 where the kernel is divided by √(k(x, x) k(y, y)), so that it does not grow with the
        number of atoms; else 0, shape ().
    landmarks
        Descriptor rows, those of an element together, shape (m, n_features).
    counts
        How many of them each element has, shape (n_elements,).
    """

    elements: tuple[int, ...]
    sigma: FloatArray
    normalized: IntArray
    landmarks: FloatArray
    counts: IntArray
    _points: list[FloatArray] = field(init=False, repr=False, compare=False)
    _means: list[FloatArray] = field(init=False, repr=False, compare=False)
    _factors: list[FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        import scipy.linalg  # noqa: F401 - before its threads are limited

        if self.sigma.shape != () or self.normalized.shape != () or self.landmarks.ndim != 2:
            raise SettingsError("kernel_map: sigma, normalized or landmarks have the wrong shape")
        if not self.sigma >= 1e-12:
            raise SettingsError(f"kernel_map: sigma must be positive, got {self.sigma}")
        if not np.isfinite(self.landmarks).all():
            raise SettingsError("kernel_map: landmarks hold NaN or infinity")
        m = len(self.landmarks)
        fits = self.counts.shape == (len(self.elements),) and self.counts.dtype.kind in "iu"
        if not fits or np.any(self.counts < 0) or np.any(self.counts > m):
            raise SettingsError(f"kernel_map: counts must be from 0 to {m}, one of each element")
        if self.counts.sum() != m:
            raise SettingsError(f"kernel_map: {m} landmarks, but counts add up to another number")
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        means, points, factors = [], [], []
        for a, b in pairwise(starts):
            rows = self.landmarks[a:b].astype(np.float64)
            # Distances do not depend on the origin, but digits do.
            mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
            scaled = (rows - mean) / float(self.sigma)
            means.append(mean)
            points.append(raised(scaled))
            factors.append(_factor(scaled))
        for name, value in (("_means", means), ("_points", points), ("_factors", factors)):
            object.__setattr__(self, name, value)

    @property
    def n_columns(self) -> int:
        """Number of coordinates."""
        return len(self.landmarks)

    def features(self, batch: FeatureBatch) -> FloatArray:
        """Coordinates of structures, shape (n_structures, n_columns)."""
        from scipy.linalg import solve_triangular

        found = np.empty((len(batch), self.n_columns))
        for block in kernel_blocks(batch, self.elements, self._scaled, self._points):
            parts = [
                solve_triangular(factor, s.T, lower=True).T if len(factor) else s
                for factor, s in zip(self._factors, block.sums(), strict=True)
            ]
            found[block.rows] = np.hstack(parts)
        if self.normalized:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300)
        return found

    def _scaled(self, element: int, rows: FloatArray) -> FloatArray:
        return np.asarray((rows.astype(np.float64) - self._means[element]) / float(self.sigma))


def _factor(points: FloatArray) -> FloatArray:
    kernel = gaussian(points, points)
    kernel[np.diag_indices_from(kernel)] += _JITTER
    try:
        return np.asarray(np.linalg.cholesky(kernel))
    except np.linalg.LinAlgError:
        raise SettingsError("kernel_map: two landmarks are the same") from None


def fit_kernel_map(
    batch: FeatureBatch,
    elements: Sequence[int],
    *,
    sigma: float,
    normalized: bool,
    n_landmarks: int,
    seed: int,
) -> KernelMap:
    """Choose landmarks among the environments of training structures.

    Parameters
    ----------
    batch
        Of the training structures.
    elements
        Atomic numbers, ascending.
    sigma, normalized
        See :class:`KernelMap`.
    n_landmarks
        Most of each element.
    seed
        Of the sample that they are chosen from, where an element has many environments.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for number in elements:
        atoms = np.flatnonzero(batch.numbers == number)
        if len(atoms) > _POOL:
            atoms = np.sort(rng.choice(atoms, _POOL, replace=False))
        rows = np.asarray(batch.local[atoms], dtype=np.float32)
        scaled = (rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)) / sigma
        chosen.append(rows[pivots(scaled, n_landmarks)] if len(rows) else rows)
    return KernelMap(
        elements=tuple(elements),
        sigma=np.array(float(sigma)),
        normalized=np.array(int(normalized)),
        landmarks=np.concatenate(chosen),
        counts=np.array([len(c) for c in chosen]),
    )


def pivots(points: FloatArray, most: int) -> IntArray:
    """Landmarks among points (n, n_features) in units of σ, by pivoted Cholesky decomposition.

    Each is the point that lies furthest, in feature space, from the span of those before.

    Returns
    -------
    ndarray of int, shape (m,), m ≤ ``most``
        Fewer where the rest lies in the span within rounding.
    """
    most = min(most, len(points))
    high, factor = raised(points), np.zeros((most, len(points)))
    rest = np.ones(len(points))
    chosen: list[int] = []
    for m in range(most):
        pivot = int(np.argmax(rest))
        if rest[pivot] < _EXHAUSTED:
            break
        row = gaussian_of(points[pivot : pivot + 1], high)[0]
        row -= factor[:m, pivot] @ factor[:m]
        factor[m] = row / np.sqrt(rest[pivot])
        rest -= factor[m] ** 2
        rest[pivot] = 0.0
        chosen.append(pivot)
    return np.array(chosen, dtype=np.intp)
