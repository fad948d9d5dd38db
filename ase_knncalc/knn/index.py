"""Exact nearest neighbours of projected structures.

Structures are projected once with the metric; distances are then Euclidean in few dimensions, so
that one matrix product finds exact neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray

# Points are stored in float32: a distance below this fraction of the norm is zero.
_ZERO = 1e-6
# Distances held at a time; blocks for each neighbour that a row of them is cut into to find it.
_BLOCK_BYTES = 64 * 2**20
_BLOCKS = 16


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
        return 4.0 * float(np.finfo(np.float32).eps) * math.sqrt(self.points.shape[1]) * scale

    def exact(self, z: FloatArray, candidates: IntArray) -> FloatArray:
        """Distances to some points in float64; what is zero within storage precision is zero."""
        difference = self.points[candidates].astype(np.float64) - z
        distances: FloatArray = np.sqrt(np.einsum("ij,ij->i", difference, difference))
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
