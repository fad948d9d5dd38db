"""Real spherical harmonics and their derivatives.

Y_lm(u) = N_lm Π_lm(z) · Re or Im (x + iy)^|m| with Π_lm the |m|-th derivative of the Legendre
polynomial P_l: polynomials in x, y and z, without poles where the spherical angles have them.
"""

from __future__ import annotations

from math import factorial, pi, sqrt

import numpy as np

from ase_knncalc._lib.arrays import FloatArray


def spherical_harmonics(directions: FloatArray, l_max: int) -> tuple[FloatArray, FloatArray]:
    """Values and derivatives at unit vectors, orthonormal on the sphere.

    Parameters
    ----------
    directions
        Unit vectors, shape (n, 3).
    l_max
        Highest degree.

    Returns
    -------
    values : ndarray, shape (n, (l_max + 1)²)
        Degree l and order m at l² + l + m.
    derivatives : ndarray, shape (n, (l_max + 1)², 3)
        By the components of the direction, taken as free; only their part across the direction
        means anything.
    """
    x, y, z = directions.T
    n = len(directions)
    cosines, sines = [np.ones(n)], [np.zeros(n)]
    for _ in range(l_max):
        cosines.append(x * cosines[-1] - y * sines[-1])
        sines.append(x * sines[-1] + y * cosines[-2])
    legendre = _legendre(z, l_max)
    values = np.empty((n, (l_max + 1) ** 2))
    derivatives = np.zeros((n, (l_max + 1) ** 2, 3))
    for degree in range(l_max + 1):
        for m in range(degree + 1):
            norm = sqrt((2 * degree + 1) / (4 * pi) * factorial(degree - m) / factorial(degree + m))
            norm *= sqrt(2) if m else 1.0
            value, slope = norm * legendre[degree, m], norm * legendre[degree, m + 1]
            # Derivatives of Re and Im (x + iy)^m: m times those of the power below, turned.
            plus, minus = degree * (degree + 1) + m, degree * (degree + 1) - m
            values[:, plus] = value * cosines[m]
            derivatives[:, plus, 2] = slope * cosines[m]
            if not m:
                continue
            values[:, minus] = value * sines[m]
            derivatives[:, minus, 2] = slope * sines[m]
            derivatives[:, plus, 0] = m * value * cosines[m - 1]
            derivatives[:, plus, 1] = -m * value * sines[m - 1]
            derivatives[:, minus, 0] = m * value * sines[m - 1]
            derivatives[:, minus, 1] = m * value * cosines[m - 1]
    return values, derivatives


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
