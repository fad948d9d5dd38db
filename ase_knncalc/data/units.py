"""Detecting energies that are in another unit than they should be, when that is beyond doubt.

Total energies are sums over atoms to within a percent, and 27.2 or 23.06 is not within a percent
of 1. That shows two mistakes:

- *Some frames in another unit than the rest*: against a robust element-wise fit of the column, they
  are off by one of the known factors.
- *The whole column in another unit*: all-electron total energies are nearly the same for every
  method (H₂SO₄: −700.1 Hartree), so that a column in Hartree, kcal/mol or kJ/mol lies at a known
  multiple of a table of atomic energies.

Energies without such additivity (heats of formation, binding energies, ...) and those of
valence electrons only (xTB) pass these two. A third shows in the differences between two levels:

- *The reference in another unit than the baseline*: once element contributions are taken off, both
  vary alike from structure to structure. Where one varies 23 times as much as the other, Δ is no
  correction but a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from ase_knncalc.data.keys import ENERGY_UNITS
from ase_knncalc.errors import DataError

# One eV in other units.
_PER_EV = {unit: 1.0 / size for unit, size in ENERGY_UNITS.items()}

# Roughly what an atom adds to an all-electron total energy, Hartree. For 14,776 clusters of H, C,
# N, O and S at ωB97X-D/6-31++G(d,p) the sums are right to 0.4 %; the others are estimates.
_ATOM_IN_MOLECULE = {
    1: -0.585, 2: -2.90, 3: -7.49, 4: -14.67, 5: -24.72, 6: -38.05, 7: -54.75, 8: -75.20,
    9: -99.80, 10: -128.9, 11: -162.2, 12: -200.0, 13: -242.4, 14: -289.4, 15: -341.3, 16: -398.1,
    17: -460.2, 18: -527.5,
}  # fmt: skip

_TABLE_TOLERANCE = 0.015
_MIN_FRAMES = 8
_MIN_SHARE = 0.6
# Squared, of the two levels' variation from structure to structure.
_MIN_CORRELATION = 0.8


@dataclass(frozen=True)
class UnitSuspicion:
    """Frames whose energies are beyond doubt in another unit than the other frames'."""

    indices: tuple[int, ...]
    factor: float
    """Their energies are those that the other frames predict, times this."""
    looks_like: str
    """Such as ``"Hartree among eV"``."""


def check_units(frames: Sequence[Atoms]) -> None:
    """Refuse frames whose energies are in mixed or wrong units.

    Parameters
    ----------
    frames
        Structures with ``info["reference_energy"]`` and ``info["baseline_energy"]`` (each where it
        is known), meant to be in eV.

    Raises
    ------
    DataError
        Beyond doubt, some or all of one kind of energies are not in eV. The message gives the
        unit that they look like, and the first of the frames.
    """
    counts, elements = _count_elements(frames)
    for level in ("reference", "baseline"):
        energies = np.array([a.info.get(f"{level}_energy", np.nan) for a in frames], dtype=float)
        wrong = column_unit(energies, counts, elements)
        if wrong is not None:
            raise DataError(
                f"the {level} energies look like total energies in {wrong}, not in eV (all of "
                f"them are {_PER_EV[wrong]:.5g} times what the elements suggest); say so with "
                f"KeyMap(energy_unit={wrong!r}), or convert them to eV"
            )
        for found in mixed_units(energies, counts):
            names = [str(frames[i].info.get("name", i)) for i in found.indices[:3]]
            size = found.factor if found.factor > 1 else 1.0 / found.factor
            relation = "larger" if found.factor > 1 else "smaller"
            raise DataError(
                f"{level} energies of {len(found.indices)} of {len(frames)} frames are {relation} "
                f"by a factor of {size:.6g} than the other frames suggest: {found.looks_like}? "
                f"Convert them to eV or leave them out (the first: {', '.join(names)})"
            )


def check_spread(frames: Sequence[Atoms]) -> None:
    """Refuse reference energies that vary as they do in another unit than eV.

    Parameters
    ----------
    frames
        Structures with ``info["reference_energy"]``, meant to be in eV, and
        ``info["baseline_energy"]``, known to be in eV.

    Raises
    ------
    DataError
        Beyond doubt, the reference energies are not in eV; says how it shows.
    """
    counts, _ = _count_elements(frames)
    charges = np.array([[float(a.info.get("charge", 0))] for a in frames])
    reference, baseline = (
        np.array([a.info.get(f"{level}_energy", np.nan) for a in frames], dtype=float)
        for level in ("reference", "baseline")
    )
    found = spread_unit(reference, baseline, np.hstack([counts, charges, np.abs(charges)]))
    if found is not None:
        raise DataError(
            f"the reference energies look like {found[0]}, not eV: element contributions taken "
            f"off, they vary {found[1]:.4g} times as much as the baseline energies, where about 1 "
            f"is expected; say so with KeyMap(energy_unit={found[0]!r}), or convert them to eV"
        )


def spread_unit(
    reference: np.ndarray, baseline: np.ndarray, composition: np.ndarray
) -> tuple[str, float] | None:
    """Unit of reference energies that surely is not eV, from how they vary.

    Parameters
    ----------
    reference, baseline
        Energies, shape (n_frames,); NaN where there is none.
    composition
        Counts of elements and charges, shape (n_frames, n_columns): what is fitted and taken off.

    Returns
    -------
    unit : str
    slope : float
        Variation of the reference against that of the baseline.
    """
    known = np.isfinite(reference) & np.isfinite(baseline)
    x, y, columns = baseline[known], reference[known], composition[known]
    # Again without the worst: a few bad labels must not hide what all others show.
    for _ in range(3):
        if len(x) < _MIN_FRAMES + np.linalg.matrix_rank(columns):
            return None
        x_rest, y_rest = (v - columns @ np.linalg.lstsq(columns, v, rcond=None)[0] for v in (x, y))
        variance = float(x_rest @ x_rest)
        # Below a tenth of a kcal/mol nothing is left to compare.
        if variance < len(x) * 0.004**2:
            return None
        slope = float(x_rest @ y_rest) / variance
        miss = np.abs(y_rest - slope * x_rest)
        share = 1.0 - float(miss @ miss) / max(float(y_rest @ y_rest), 1e-300)
        if share > _MIN_CORRELATION:
            break
        keep = miss <= np.quantile(miss, 0.9)
        x, y, columns = x[keep], y[keep], columns[keep]
    else:
        return None
    if slope <= 0:
        return None
    slope /= np.sqrt(share)  # what does not correlate has lowered it
    off = {unit: abs(np.log(slope / factor)) for unit, factor in _PER_EV.items() if unit != "eV"}
    unit = min(off, key=off.__getitem__)
    return (unit, float(slope)) if off[unit] < 0.4 else None


def ratio_unit(energies: np.ndarray, expected: np.ndarray) -> str | None:
    """Unit of total energies that are all a known factor away from what they should be in eV."""
    large = np.abs(expected) > 1.0
    if not large.any():
        return None
    ratios = energies[large] / expected[large]
    for unit, factor in _PER_EV.items():
        if unit != "eV" and np.all(np.abs(ratios / factor - 1.0) < _TABLE_TOLERANCE):
            return unit
    return None


def _count_elements(frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of each element, shape (n_frames, n_elements), and the elements' numbers."""
    elements = np.unique(np.concatenate([np.zeros(0, int), *(a.numbers for a in frames)]))
    counts = np.zeros((len(frames), len(elements)))
    for row, atoms in zip(counts, frames, strict=True):
        present, number = np.unique(atoms.numbers, return_counts=True)
        row[np.searchsorted(elements, present)] = number
    return counts, elements.astype(int)


def column_unit(energies: np.ndarray, counts: np.ndarray, elements: np.ndarray) -> str | None:
    """Unit of a whole column of all-electron total energies if it surely is not eV.

    Parameters
    ----------
    energies
        Shape (n_frames,); NaN where there is none.
    counts
        Atoms of each element, shape (n_frames, n_elements).
    elements
        Atomic numbers, shape (n_elements,).

    Returns
    -------
    str or None
        ``"Hartree"``, ``"kcal/mol"``, ``"kJ/mol"``, or None if that is not beyond doubt.
    """
    if any(z not in _ATOM_IN_MOLECULE for z in elements.tolist()):
        return None
    expected = counts @ np.array([_ATOM_IN_MOLECULE[z] for z in elements.tolist()]) * units.Hartree
    # Hydrogen alone varies by a tenth between molecules.
    heavy = counts[:, elements > 1].sum(axis=1) > 0
    known = np.isfinite(energies) & heavy
    if not known.any():
        return None
    ratios = energies[known] / expected[known]
    # Valence-only energies come to any ratio below one, depending on the elements. One formula may
    # hit that of Hartree by chance; two of different make-up will not.
    compositions = counts[known] / counts[known].sum(axis=1, keepdims=True)
    n_compositions = len(np.unique(np.round(compositions, 6), axis=0))
    for unit, factor in _PER_EV.items():
        if unit == "eV" or (factor < 1 and n_compositions < 2):
            continue
        if np.all(np.abs(ratios / factor - 1.0) < _TABLE_TOLERANCE):
            return unit
    return None


def mixed_units(energies: np.ndarray, counts: np.ndarray) -> list[UnitSuspicion]:
    """Frames whose energies are in another unit than those of most others.

    Most frames must follow an element-wise sum within 2 %; those are looked at which miss it by
    the factor between two units, to within three times that scatter.

    Parameters
    ----------
    energies
        Shape (n_frames,); NaN where there is none.
    counts
        Atoms of each element, shape (n_frames, n_elements).

    Returns
    -------
    list of UnitSuspicion
        Empty unless beyond doubt.
    """
    known = np.flatnonzero(np.isfinite(energies) & (energies != 0.0))
    if len(known) < _MIN_FRAMES:
        return []
    predicted = _additive_fit(energies[known], counts[known])
    ratios = energies[known] / np.where(predicted == 0.0, np.nan, predicted)
    usual = np.abs(ratios - 1.0) < 0.1
    if usual.mean() < _MIN_SHARE:
        return []
    scatter = float(np.quantile(np.abs(ratios[usual] - 1.0), 0.95))
    if scatter > 0.02:
        return []
    found: dict[tuple[str, str], list[int]] = {}
    tolerance = max(0.005, 3.0 * scatter)
    for place in np.flatnonzero(~usual):
        pair = _unit_pair(float(ratios[place]), tolerance)
        if pair is not None:
            found.setdefault(pair, []).append(int(known[place]))
    return [
        UnitSuspicion(tuple(indices), _PER_EV[odd] / _PER_EV[rest], f"{odd} among {rest}")
        for (odd, rest), indices in found.items()
    ]


def all_electron_energy(numbers: Sequence[int]) -> float:
    """About the total energy of a molecule, Hartree; NaN with elements beyond argon."""
    return sum(_ATOM_IN_MOLECULE.get(int(z), np.nan) for z in numbers)


def _unit_pair(ratio: float, tolerance: float) -> tuple[str, str] | None:
    """Units (of the odd frame, of the rest) whose factor is ``ratio``; those with eV first."""
    pairs = [(odd, rest) for odd in _PER_EV for rest in _PER_EV if odd != rest]
    for odd, rest in sorted(pairs, key=lambda pair: "eV" not in pair):
        if abs(ratio * _PER_EV[rest] / _PER_EV[odd] - 1.0) < tolerance:
            return odd, rest
    return None


def _additive_fit(energies: np.ndarray, counts: np.ndarray, rounds: int = 50) -> np.ndarray:
    """Sum over atoms that most energies follow: least absolute relative deviations.

    Iteratively reweighted least squares on energies per atom, so that neither large structures
    nor frames in a wrong unit pull the fit.
    """
    atoms = counts.sum(axis=1)
    x = counts / atoms[:, None]
    y = energies / atoms
    weights = np.ones(len(y))
    coefficients = np.zeros(x.shape[1])
    for _ in range(rounds):
        root = np.sqrt(weights)
        new = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
        settled = np.allclose(new, coefficients, rtol=1e-8, atol=1e-12)
        coefficients = new
        if settled:
            break
        deviation = np.abs(y - x @ coefficients)
        weights = 1.0 / np.maximum(deviation, 1e-6 * np.abs(y).max() + 1e-12)
    return counts @ coefficients
