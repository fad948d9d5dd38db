"""Real spherical harmonics and their derivatives.

Y_lm(u) = N_lm Π_lm(z) · Re or Im (x + iy)^|m| with Π_lm the |m|-th derivative of the Legendre
polynomial P_l: polynomials in x, y and z, without poles where the spherical angles have them.
"""

from __future__ import annotations

from functools import cache, cached_property
from math import factorial, pi, sqrt
from typing import NamedTuple

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray


class Harmonics:
    """Values at unit vectors, orthonormal on the sphere, and derivatives when asked for.

    Parameters
    ----------
    directions
        Unit vectors, shape (n, 3).
    l_max
        Highest degree.

    Attributes
    ----------
    values : ndarray, shape (n, (l_max + 1)²)
        Degree l and order m at l² + l + m.
    """

    def __init__(self, directions: FloatArray, l_max: int) -> None:
        x, y, z = np.ascontiguousarray(directions.T)
        self._of = of = _table(l_max)
        # Re and Im (x + iy)^m, and derivatives of the Legendre polynomials.
        self._turns = turns = np.zeros((2, l_max + 1, len(x)))
        turns[0, 0] = 1.0
        for m in range(l_max):
            turns[0, m + 1] = x * turns[0, m] - y * turns[1, m]
            turns[1, m + 1] = x * turns[1, m] + y * turns[0, m]
        self._legendre = _legendre(z, l_max)
        self._factors = of.norms * self._legendre[of.degrees, of.orders]
        self.values = np.ascontiguousarray((self._factors * turns[of.parts, of.orders]).T)

    @cached_property
    def derivatives(self) -> FloatArray:
        """Shape (n, (l_max + 1)², 3).

        By the components of the direction, taken as free; only their part across the direction
        means anything.
        """
        of, turns = self._of, self._turns
        out = np.empty((3, *self._factors.shape))
        # Derivatives of Re and Im (x + iy)^m: m times those of the power below, turned.
        below = of.slopes * self._factors
        np.multiply(below, turns[of.parts, of.below], out=out[0])
        np.multiply(of.signs * below, turns[1 - of.parts, of.below], out=out[1])
        slopes = of.norms * self._legendre[of.degrees, of.orders + 1]
        np.multiply(slopes, turns[of.parts, of.orders], out=out[2])
        return np.ascontiguousarray(out.transpose(2, 1, 0))


class _Table(NamedTuple):
    """Of each harmonic: degree, |m|, whether Im is its part, N_lm, |m| − 1, |m|, sign of ∂y."""

    degrees: IntArray
    orders: IntArray
    parts: IntArray
    norms: FloatArray
    below: IntArray
    slopes: FloatArray
    signs: FloatArray


@cache
def _table(l_max: int) -> _Table:
    pairs = [(degree, m) for degree in range(l_max + 1) for m in range(-degree, degree + 1)]
    degrees, orders = np.array([d for d, _ in pairs]), np.array([abs(m) for _, m in pairs])
    parts = np.array([int(m < 0) for _, m in pairs])
    norms = [
        sqrt((2 * d + 1) / (4 * pi) * factorial(d - abs(m)) / factorial(d + abs(m)))
        * (sqrt(2) if m else 1.0)
        for d, m in pairs
    ]
    return _Table(
        degrees,
        orders,
        parts,
        np.array(norms)[:, None],
        np.maximum(orders - 1, 0),
        orders[:, None].astype(np.float64),
        np.where(parts, 1.0, -1.0)[:, None],
    )


def harmonic_norms(l_max: int) -> FloatArray:
    """N_lm of each harmonic, shape ((l_max + 1)²,)."""
    return _table(l_max).norms[:, 0]


def _legendre(z: FloatArray, l_max: int) -> FloatArray:
    """Derivatives d^m P_l / dz^m, shape (l_max + 1, l_max + 2, n); zero for m > l."""
    out = np.zeros((l_max + 1, l_max + 2, len(z)))
    out[0, 0] = 1.0
    for degree in range(1, l_max + 1):
        below = out[degree - 2] if degree > 1 else np.zeros_like(out[0])
        out[degree, 0] = ((2 * degree - 1) * z * out[degree - 1, 0] - (degree - 1) * below[0]) / (
            degree
        )
        out[degree, 1:] = below[1:] + (2 * degree - 1) * out[degree - 1, :-1]
    return out
