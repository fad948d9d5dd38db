"""Curvatures of the reference from its harmonic frequencies, along modes of the baseline.

Of a minimum the reference's frequencies are known where its Hessian is not. Its modes are much like
those of the baseline: each of the baseline's, in ascending order, is given the frequency of the
same place. Stiff modes count one by one. Soft ones mix: of them only the sum of the squares over a
window of the spectrum is used, which does not depend on how modes mix within it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_masses_common
from ase.units import _amu, _c, _e, _hbar, invcm, kB

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.baselines import Baseline
from ase_knncalc.labels.baseline import baseline_labels
from ase_knncalc.trend.force_labels import CurvatureLabels

# cm⁻¹: modes between two of them are summed, those above the last stand alone.
_WINDOWS = (0.0, 100.0, 200.0, 400.0, 700.0, 1000.0)
# The weight of a curvature is the amplitude of its mode at this temperature (K), so that a row is a
# force (eV/Å) at a displacement that the mode has in life, and at most so long (Å).
_TEMPERATURE = 300.0
_LONGEST = 0.3
# Å, and a tighter SCF, for second differences of the baseline's energy.
_STEP = 0.005
# Moments of inertia below this are those of a line, amu Å².
LINE = 1e-3
# √(eV/Å²/amu) in cm⁻¹.
_WAVENUMBER = float(np.sqrt(_e / _amu) * 1e10 / (2.0 * np.pi * _c * 100.0))


@dataclass(frozen=True)
class Curvatures:
    """Rows of one structure, see :class:`~ase_knncalc.trend.force_labels.CurvatureLabels`."""

    displacements: FloatArray
    mixing: FloatArray
    delta: FloatArray


def curvatures(
    numbers: IntArray, positions: FloatArray, hessian: FloatArray, frequencies: FloatArray
) -> Curvatures | None:
    """Rows of one minimum of the reference.

    Parameters
    ----------
    numbers, positions
        Shapes (n,) and (n, 3), Å.
    hessian
        Of the baseline at that geometry, eV/Å², shape (3 n, 3 n).
    frequencies
        Harmonic ones of the reference, cm⁻¹.

    Returns
    -------
    Curvatures or None
        None where the frequencies are not those of a minimum of so many atoms.
    """
    reference = np.sort(np.asarray(frequencies, dtype=np.float64))
    masses = atomic_masses_common[numbers]
    modes, squares = vibrations(masses, positions, hessian)
    if len(reference) != len(squares) or not len(squares) or reference[0] <= 0:
        return None
    # Cartesian displacements of mass-weighted modes: v = M^(−1/2) e.
    moved = modes / np.sqrt(np.repeat(masses, 3))
    lengths = np.linalg.norm(moved, axis=1)
    differences = (reference / _WAVENUMBER) ** 2 - squares
    amplitudes = np.minimum(_amplitudes(reference) * lengths, _LONGEST)
    windows = np.digitize(reference, _WINDOWS) - 1
    windows[windows == len(_WINDOWS) - 1] = len(_WINDOWS) + np.arange(
        int((windows == len(_WINDOWS) - 1).sum())
    )
    mixing, delta = [], []
    for window in np.unique(windows):
        members = windows == window
        # vᵀHv times this has the weight of one mode: of a sum of k the mean over √k.
        scale = (amplitudes / lengths**2)[members].mean() / np.sqrt(members.sum())
        mixing.append(np.where(members, scale * lengths**2, 0.0))
        delta.append(scale * differences[members].sum())
    unit = (moved / lengths[:, None]).reshape(len(moved), -1, 3)
    return Curvatures(unit, np.array(mixing), np.array(delta))


def vibrations(
    masses: FloatArray, positions: FloatArray, hessian: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mass-weighted modes, translations and rotations projected out.

    Parameters
    ----------
    masses, positions
        Shapes (n,) and (n, 3), amu and Å.
    hessian
        Symmetric, eV/Å², shape (3 n, 3 n).

    Returns
    -------
    modes : ndarray, shape (k, 3 n)
        Orthonormal.
    squares : ndarray, shape (k,)
        ω², eV/Å²/amu, ascending.
    """
    roots = np.sqrt(np.repeat(masses, 3))
    centred = positions - masses @ positions / masses.sum()
    motions = [np.tile(axis, len(masses)) for axis in np.eye(3)]
    motions += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    vectors, values, _ = np.linalg.svd(np.array(motions).T * roots[:, None], full_matrices=True)
    # Squares of the last values are moments of inertia; atoms in a line turn about two axes only.
    inner = vectors[:, int(np.sum(values**2 > LINE)) :]
    squares, own = np.linalg.eigh(inner.T @ (hessian / np.outer(roots, roots)) @ inner)
    return (inner @ own).T, squares


def in_wavenumbers(squares: FloatArray) -> FloatArray:
    """cm⁻¹ of squares of frequencies (eV/Å²/amu); imaginary ones are negative."""
    return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) * _WAVENUMBER)


def _amplitudes(wavenumbers: FloatArray) -> FloatArray:
    """Root mean square of a harmonic oscillator's normal coordinate, Å √amu, quantum mechanics."""
    energies = wavenumbers * invcm
    # <q²> = ħ / 2ω · coth(ħω / 2kT)
    zero = _hbar / (2.0 * 2.0 * np.pi * _c * 100.0 * wavenumbers) / _amu * 1e20
    return np.asarray(np.sqrt(zero / np.tanh(energies / (2.0 * kB * _TEMPERATURE))))


def baseline_hessians(
    frames: Sequence[Atoms],
    baseline: Baseline,
    *,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> list[FloatArray | None]:
    """Hessians of the baseline, eV/Å², (3 n, 3 n) each; None where a calculation failed.

    From central differences of forces, which are labels like others: kept in the cache.
    """
    moved = []
    for atoms in frames:
        for i in range(3 * len(atoms)):
            for sign in (1.0, -1.0):
                other = Atoms(atoms.numbers, atoms.positions, info=dict(atoms.info))
                other.positions.flat[i] += sign * _STEP
                moved.append(other)
    found = baseline_labels(
        moved,
        baseline,
        forces=[True] * len(moved),
        cache=cache,
        n_jobs=n_jobs,
        progress=progress,
    )
    hessians: list[FloatArray | None] = []
    at = 0
    for atoms in frames:
        n = 3 * len(atoms)
        forces = found.forces[at : at + 2 * n]
        at += 2 * n
        if any(f is None for f in forces):
            hessians.append(None)
            continue
        rows = np.array([np.ravel(f) for f in forces if f is not None])
        half = (rows[1::2] - rows[::2]) / (2.0 * _STEP)
        hessians.append((half + half.T) / 2.0)
    return hessians


def curvature_labels(
    rows: Sequence[int],
    frames: Sequence[Atoms],
    hessians: Sequence[FloatArray | None],
    frequencies: Sequence[FloatArray],
) -> CurvatureLabels | None:
    """Labels of structures at places ``rows`` of the training data; frequencies in cm⁻¹.

    Structures whose frequencies are not those of a minimum of so many atoms are left out.
    """
    found = []
    for row, atoms, hessian, known in zip(rows, frames, hessians, frequencies, strict=True):
        if hessian is None:
            continue
        made = curvatures(atoms.numbers, atoms.positions, hessian, known)
        if made is not None:
            found.append((row, atoms, made))
    if not found:
        return None
    return CurvatureLabels(
        np.array([row for row, _, _ in found], dtype=np.intp),
        [atoms.numbers for _, atoms, _ in found],
        [atoms.positions for _, atoms, _ in found],
        [made.displacements for _, _, made in found],
        [made.mixing for _, _, made in found],
        [made.delta for _, _, made in found],
    )
