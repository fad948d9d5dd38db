"""Loops that numpy does badly for one small structure, compiled by numba where it is installed.

Products of few rows with a matrix that is read once, and the power spectrum's two passes. They do
what :mod:`ase_knncalc.descriptors.power_spectrum` says, in float64, with sums in another order:
only calculators that follow a trajectory use them, so that single points do not depend on numba,
without which importing this is an ImportError.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are what numba infers; matrices may be float32, sums are not.
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from ase_knncalc._lib.arrays import FloatArray

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    # Sums may be reordered, so that they fill the registers; nothing else of "fast" mathematics.
    options = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True}
    try:
        return numba.njit(function, cache=True, **options)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in
        return numba.njit(function, **options)  # type: ignore[no-any-return]


@_compiled
def products(x, matrix):
    """x[:, :k] @ matrix.T for a few rows x and a matrix (n, k), both contiguous, shape (m, n)."""
    m = len(x)
    n, k = matrix.shape
    out = np.zeros((m, n))
    # Columns whose part of x stays in the nearest cache.
    for low in range(0, k, 512):
        high = min(k, low + 512)
        for r in range(0, n, 2):
            q = min(r + 1, n - 1)  # the same row, where it is the last alone
            a = 0
            while a + 2 < m:
                s0 = s1 = s2 = t0 = t1 = t2 = 0.0
                for f in range(low, high):
                    v, w = np.float64(matrix[r, f]), np.float64(matrix[q, f])
                    s0 += x[a, f] * v
                    s1 += x[a + 1, f] * v
                    s2 += x[a + 2, f] * v
                    t0 += x[a, f] * w
                    t1 += x[a + 1, f] * w
                    t2 += x[a + 2, f] * w
                out[a, r], out[a, q] = out[a, r] + s0, out[a, q] + t0
                out[a + 1, r], out[a + 1, q] = out[a + 1, r] + s1, out[a + 1, q] + t1
                out[a + 2, r], out[a + 2, q] = out[a + 2, r] + s2, out[a + 2, q] + t2
                a += 3
            while a < m:
                s0 = t0 = 0.0
                for f in range(low, high):
                    s0 += x[a, f] * np.float64(matrix[r, f])
                    t0 += x[a, f] * np.float64(matrix[q, f])
                out[a, r], out[a, q] = out[a, r] + s0, out[a, q] + t0
                a += 1
    return out


class _Raised(NamedTuple):
    """A matrix whose last column alone is none of float32, such as points with their squares."""

    first: FloatArray
    last: FloatArray
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]


def held(matrix: FloatArray) -> Any:
    """A matrix as :func:`product` reads it: contiguous, in float32 where that loses nothing."""
    single = np.ascontiguousarray(matrix, dtype=np.float32)
    if np.array_equal(single, matrix):
        return single
    if np.array_equal(single[:, :-1], matrix[:, :-1]):
        return _Raised(np.ascontiguousarray(single[:, :-1]), matrix[:, -1].copy(), matrix.shape)
    return np.ascontiguousarray(matrix)


def product(rows: FloatArray, matrix: Any) -> FloatArray:
    """Product rows @ matrix.T of a few contiguous rows and what :func:`held` gives."""
    if not isinstance(matrix, _Raised):
        return products(rows, matrix)  # type: ignore[no-any-return]
    found: FloatArray = products(rows, matrix.first)
    found += rows[:, -1:] * matrix.last
    return found


@_compiled
def _radial(r, centers, width, cutoff, decay, values, slopes):
    """Radial functions at one distance, and their slopes."""
    if r >= cutoff:
        values[:], slopes[:] = 0.0, 0.0
        return
    angle = np.pi * r / cutoff
    power, log_r = r**-decay, np.log(r)
    fade = power * (0.5 + 0.5 * np.cos(angle))
    of_fade = power * (-0.5 * np.pi / cutoff) * np.sin(angle) - fade * decay / r
    for n in range(len(centers)):
        offset = (log_r - centers[n]) / width
        gauss = np.exp(-0.5 * offset * offset)
        values[n] = gauss * fade
        slopes[n] = gauss * (of_fade - offset * (fade / (width * r)))


@_compiled
def _harmonics(u, l_max, norms, turns, legendre, values, slopes):
    """Spherical harmonics at a unit vector and derivatives by it, (n_harmonics,) and (…, 3)."""
    turns[0, 0], turns[1, 0] = 1.0, 0.0
    for m in range(l_max):
        turns[0, m + 1] = u[0] * turns[0, m] - u[1] * turns[1, m]
        turns[1, m + 1] = u[0] * turns[1, m] + u[1] * turns[0, m]
    legendre[:], legendre[0, 0] = 0.0, 1.0
    for d in range(1, l_max + 1):
        below = legendre[max(d - 2, 0)]
        legendre[d, 0] = (2 * d - 1) * u[2] * legendre[d - 1, 0] / d
        if d > 1:
            legendre[d, 0] -= (d - 1) * below[0] / d
        for m in range(1, d + 1):
            legendre[d, m] = (2 * d - 1) * legendre[d - 1, m - 1]
            if d > 1:
                legendre[d, m] += below[m]
    for d in range(l_max + 1):
        for m in range(-d, d + 1):
            at, order, part = d * d + d + m, abs(m), int(m < 0)
            factor = norms[at] * legendre[d, order]
            values[at] = factor * turns[part, order]
            lower = max(order - 1, 0)
            slopes[at, 0] = order * factor * turns[part, lower]
            slopes[at, 1] = (2 * part - 1) * order * factor * turns[1 - part, lower]
            slopes[at, 2] = norms[at] * legendre[d, order + 1] * turns[part, order]


@_compiled
def expand(kinds, positions, n_elements, radial, two_body, l_max, norms):
    """Coefficients of the densities, rows, and what pairs of atoms bring along for :func:`pull`.

    ``radial`` and ``two_body`` are (centers, width, cutoff, decay) of the radial functions, `kinds`
    the places of the atoms' elements; coefficients have the shape (n_atoms, n_harmonics,
    n_channels).
    """
    n, n_radial, n_pair = len(kinds), len(radial[0]), len(two_body[0])
    q, harmonics = n_elements * n_radial, (l_max + 1) ** 2
    head, length = n_elements * n_pair, q * (q + 1) // 2
    most = n * (n - 1) // 2
    pairs, lengths, units = np.empty((most, 2), np.intp), np.empty(most), np.empty((most, 3))
    value, slope = np.empty((most, n_radial)), np.empty((most, n_radial))
    of_two, two_slope = np.empty(n_pair), np.empty((most, n_pair))
    angular, turn = np.empty((most, harmonics)), np.empty((most, harmonics, 3))
    turns, legendre = np.empty((2, l_max + 1)), np.empty((l_max + 1, l_max + 2))
    c = np.zeros((n, harmonics, q))
    rows = np.zeros((n, head + (l_max + 1) * length))
    p = 0
    for i in range(n):
        for j in range(i + 1, n):
            u = units[p]
            u[:] = positions[j] - positions[i]
            r = np.sqrt(u[0] * u[0] + u[1] * u[1] + u[2] * u[2])
            if r >= max(radial[2], two_body[2]):
                continue
            u /= r
            pairs[p, 0], pairs[p, 1], lengths[p] = i, j, r
            _radial(r, radial[0], radial[1], radial[2], radial[3], value[p], slope[p])
            _radial(r, two_body[0], two_body[1], two_body[2], two_body[3], of_two, two_slope[p])
            _harmonics(u, l_max, norms, turns, legendre, angular[p], turn[p])
            of_i, of_j = kinds[j] * n_radial, kinds[i] * n_radial
            for d in range(l_max + 1):
                sign = 1.0 - 2.0 * (d % 2)
                for h in range(d * d, (d + 1) ** 2):
                    for k in range(n_radial):
                        c[i, h, of_i + k] += value[p, k] * angular[p, h]
                        c[j, h, of_j + k] += sign * value[p, k] * angular[p, h]
            rows[i, kinds[j] * n_pair : (kinds[j] + 1) * n_pair] += of_two
            rows[j, kinds[i] * n_pair : (kinds[i] + 1) * n_pair] += of_two
            p += 1
    for i in range(n):
        for d in range(l_max + 1):
            weight, at = (2 * d + 1) ** -0.5, head + d * length
            for a in range(q):
                for h in range(d * d, (d + 1) ** 2):
                    first = np.sqrt(2.0) * weight * c[i, h, a]
                    for k in range(q - a):
                        rows[i, at + k] += first * c[i, h, a + k]
                rows[i, at] *= np.sqrt(0.5)
                at += q - a
    return c, rows, (pairs[:p], lengths, units, value, slope, two_slope, angular, turn)


@_compiled
def pull(kinds, slopes, c, of_pairs, l_max, n_elements):
    """Gradient of Σ slopes · rows by the positions, shape (n_atoms, 3), after :func:`expand`."""
    pairs, lengths, units, value, slope, two_slope, angular, turn = of_pairs
    n, harmonics, q = c.shape
    n_radial, n_pair = value.shape[1], two_slope.shape[1]
    head, length = n_elements * n_pair, q * (q + 1) // 2
    by_c, square = np.zeros(c.shape), np.empty((q, q))
    for i in range(n):
        for d in range(l_max + 1):
            weight, at = (2 * d + 1) ** -0.5, head + d * length
            for a in range(q):
                square[a, a] = 2.0 * weight * slopes[i, at]
                for k in range(1, q - a):
                    square[a, a + k] = np.sqrt(2.0) * weight * slopes[i, at + k]
                    square[a + k, a] = square[a, a + k]
                at += q - a
            for h in range(d * d, (d + 1) ** 2):
                for a in range(q):
                    first = c[i, h, a]
                    for k in range(q):
                        by_c[i, h, k] += square[a, k] * first
    gradient = np.zeros((n, 3))
    across, part = np.empty(harmonics), np.empty(3)
    for p in range(len(pairs)):
        i, j = pairs[p]
        along = 0.0
        for k in range(n_pair):
            both = slopes[i, kinds[j] * n_pair + k] + slopes[j, kinds[i] * n_pair + k]
            along += both * two_slope[p, k]
        of_i, of_j = kinds[j] * n_radial, kinds[i] * n_radial
        for d in range(l_max + 1):
            sign = 1.0 - 2.0 * (d % 2)
            for h in range(d * d, (d + 1) ** 2):
                total = 0.0
                across[h] = 0.0
                for k in range(n_radial):
                    both = by_c[i, h, of_i + k] + sign * by_c[j, h, of_j + k]
                    across[h] += both * value[p, k]
                    total += both * slope[p, k]
                along += total * angular[p, h]
        for x in range(3):
            part[x] = 0.0
            for h in range(harmonics):
                part[x] += across[h] * turn[p, h, x]
        u = units[p]
        outward = part[0] * u[0] + part[1] * u[1] + part[2] * u[2]
        for x in range(3):
            moved = along * u[x] + (part[x] - outward * u[x]) / lengths[p]
            gradient[j, x] += moved
            gradient[i, x] -= moved
    return gradient
