"""The empirical dispersion of ωB97X-D."""

from __future__ import annotations

import numpy as np
from ase import units

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import UnknownElementError

# Grimme, J. Comput. Chem. 2006, 27, 1787, Table 1, H to Xe: C6 in J nm^6/mol, radii R0 in Å.
_C6 = np.array(
    [np.nan, 0.14, 0.08, 1.61, 1.61, 3.13, 1.75, 1.23, 0.70, 0.75, 0.63]
    + [5.71, 5.71, 10.79, 9.23, 7.84, 5.57, 5.07, 4.61]
    + [10.80] * 12
    + [16.99, 17.10, 16.37, 12.64, 12.47, 12.01]
    + [24.67] * 12
    + [37.32, 38.71, 38.44, 31.74, 31.50, 29.99]
)
_R0 = np.array(
    [np.nan, 1.001, 1.012, 0.825, 1.408, 1.485, 1.452, 1.397, 1.342, 1.287, 1.243]
    + [1.144, 1.364, 1.639, 1.716, 1.705, 1.683, 1.639, 1.595]
    + [1.485, 1.474]
    + [1.562] * 10
    + [1.650, 1.727, 1.760, 1.771, 1.749, 1.727]
    + [1.628, 1.606]
    + [1.639] * 10
    + [1.672, 1.804, 1.881, 1.892, 1.892, 1.881]
)


def chai_head_gordon_dispersion(
    numbers: FloatArray, positions: FloatArray
) -> tuple[float, FloatArray]:
    """Empirical dispersion of ωB97X-D and its gradient.

    E = −Σ_{i<j} C6_ij / r^6 · 1/(1 + a (r/R_ij)^−12), with a = 6, C6_ij the geometric mean and
    R_ij the sum of the D2 values (Chai and Head-Gordon, PCCP 2008, 10, 6615, eqs. 5 and 6;
    Grimme, J. Comput. Chem. 2006, 27, 1787).

    Parameters
    ----------
    numbers : ndarray of int, shape (n,)
        Atomic numbers, H to Xe.
    positions : ndarray, shape (n, 3)
        Å.

    Returns
    -------
    energy : float
        eV.
    gradient : ndarray, shape (n, 3)
        eV/Å.

    Raises
    ------
    UnknownElementError
        For an element beyond xenon.
    """
    numbers = np.asarray(numbers, dtype=np.intp)
    positions = np.asarray(positions, dtype=np.float64)
    if numbers.size and (numbers.min() < 1 or numbers.max() >= len(_C6)):
        raise UnknownElementError(
            f"atomic number {int(numbers.max())} has no D2 dispersion parameters; wB97X-D covers "
            "H to Xe: use another functional"
        )
    first, second = np.triu_indices(len(numbers), 1)
    # J nm^6/mol to eV Å^6.
    c6 = np.sqrt(_C6[numbers[first]] * _C6[numbers[second]]) * 1e6 * units.J / units.mol
    a_r12 = 6.0 * (_R0[numbers[first]] + _R0[numbers[second]]) ** 12
    vectors = positions[first] - positions[second]
    r2 = np.einsum("ij,ij->i", vectors, vectors)
    r6 = r2**3
    # r^6/(r^12 + a R^12) is the damped r^-6 without the pole at r = 0.
    denominator = r6**2 + a_r12
    energy = -float(np.sum(c6 * r6 / denominator))
    slope = -c6 * 6.0 * r2**2 * (a_r12 - r6**2) / denominator**2  # dE/dr / r
    pair = slope[:, None] * vectors
    gradient = np.zeros_like(positions)
    np.add.at(gradient, first, pair)
    np.add.at(gradient, second, -pair)
    return energy, gradient
