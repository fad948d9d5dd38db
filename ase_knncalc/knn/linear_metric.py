"""A metric that is a linear map of global descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray

# Structures that are projected at a time.
_BLOCK = 10_000


@dataclass(frozen=True)
class LinearMetric:
    """A linear map of global descriptors, and how it came about.

    Attributes
    ----------
    components, mean : ndarray, shape (n_components, n_features) and (n_features,)
    details : dict
        For the provenance.
    """

    components: FloatArray
    mean: FloatArray
    details: dict[str, Any]

    def project(self, summed: FloatArray) -> FloatArray:
        """Points of structures, shape (n, n_components)."""
        points = np.empty((len(summed), len(self.components)))
        for start in range(0, len(summed), _BLOCK):
            rows = slice(start, start + _BLOCK)
            points[rows] = (summed[rows] - self.mean) @ self.components.T
        return points
