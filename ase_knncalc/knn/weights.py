"""How neighbours are weighted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np

from ase_knncalc._lib.arguments import Count, Length, NotNegative, OneOf, Settings
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import SettingsError

WEIGHTS = ("distance", "uniform", "kernel", "kriging")


# Beyond this nugget the prior outweighs any neighbours: the term is off.
OFF = 1e6


@dataclass(frozen=True)
class KNNSettings(Settings):
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

    k: Count = 10
    weights: Annotated[str, OneOf(WEIGHTS)] = "distance"
    bandwidth: Length | None = None
    nugget: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bandwidth is None and self.weights in ("kernel", "kriging"):
            raise SettingsError(f"weights={self.weights!r} need a bandwidth, got None")

    @property
    def off(self) -> bool:
        """Whether the prior outweighs any neighbours, so that these are for comparison only."""
        return self.nugget >= OFF

    @property
    def smooth(self) -> bool:
        """Whether the term is continuously differentiable."""
        return self.weights == "kernel"

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain values."""
        return asdict(self)


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
