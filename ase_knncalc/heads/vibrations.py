"""Thermal sums of harmonic modes, and the rigid rotor that they are added to.

Treatments of soft modes are those of :mod:`ase_knncalc.analysis.thermochemistry`, which has the
references.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from ase import units

from ase_knncalc._lib.arrays import FloatArray

Treatment = Literal["truhlar", "grimme", "harmonic"]
TREATMENTS: tuple[str, ...] = get_args(Treatment)

# cm⁻¹. Oscillators softer than this are noise of finite differences, with an entropy without bound.
_NOISE = 1.0
# Of the free rotors that stand for soft modes, kg m² (Grimme 2012).
_LARGEST_MOMENT = 1e-44
# Of a moment of inertia, amu Å²: below it, a molecule is a line.
LINE = 1e-3
_ATMOSPHERE = 101325.0


def treated(wavenumbers: FloatArray, treatment: str, lowest: float | None) -> FloatArray:
    """Modes as oscillators (cm⁻¹): soft ones raised to ``lowest`` where Truhlar's way is taken."""
    if treatment == "truhlar" and lowest is not None:
        return np.maximum(wavenumbers, lowest)
    # Noise around zero is a soft mode.
    return np.maximum(np.abs(wavenumbers), _NOISE)


def oscillator_entropies(modes: FloatArray, temperature: float | FloatArray) -> FloatArray:
    """Entropy of harmonic oscillators (cm⁻¹) in units of k_B, in the shape of both broadcast."""
    quantum = modes * units.invcm / (units.kB * np.asarray(temperature))
    return np.asarray(quantum / np.expm1(quantum) - np.log1p(-np.exp(-quantum)))


def rotor_entropies_gained(
    modes: FloatArray, temperature: float | FloatArray, lowest: float
) -> FloatArray:
    """What soft modes as free rotors have more entropy than as oscillators, units of k_B."""
    # The moment of inertia of a free rotor that has this wavenumber, kg m².
    moment = units._hplanck / (8.0 * np.pi**2 * units._c * 100.0 * modes)
    moment = moment * _LARGEST_MOMENT / (moment + _LARGEST_MOMENT)
    kt = units._k * np.asarray(temperature)
    free = 0.5 + 0.5 * np.log(8.0 * np.pi**3 * moment * kt / units._hplanck**2)
    weight = 1.0 / (1.0 + (lowest / modes) ** 4)
    return np.asarray((1.0 - weight) * (free - oscillator_entropies(modes, temperature)))


@dataclass(frozen=True)
class VibrationalSums:
    """Of one structure at m temperatures.

    Attributes
    ----------
    zero_point : float
        eV.
    energy : ndarray, shape (m,)
        Thermal vibrational energy, the zero-point energy not included, eV.
    entropy : ndarray, shape (m,)
        eV/K.
    """

    zero_point: float
    energy: FloatArray
    entropy: FloatArray


def vibrational_sums(
    wavenumbers: FloatArray,
    temperatures: FloatArray,
    treatment: str = "truhlar",
    lowest: float | None = 100.0,
) -> VibrationalSums:
    """Sums over the modes of one structure.

    Parameters
    ----------
    wavenumbers
        cm⁻¹, shape (n_modes,); none of an atom.
    temperatures
        K, shape (m,).
    treatment, lowest
        Of soft modes, see :func:`ase_knncalc.thermochemistry.gibbs_energy`.
    """
    modes = treated(np.asarray(wavenumbers, dtype=np.float64), treatment, lowest)
    at = np.asarray(temperatures, dtype=np.float64)[:, None]
    quanta = modes * units.invcm
    entropy = oscillator_entropies(modes, at)
    if treatment == "grimme" and lowest is not None:
        entropy = entropy + rotor_entropies_gained(modes, at, lowest)
    return VibrationalSums(
        float(quanta.sum() / 2.0),
        np.asarray((quanta / np.expm1(quanta / (units.kB * at))).sum(axis=1)),
        np.asarray(units.kB * entropy.sum(axis=1)),
    )


def rigid_body(
    masses: FloatArray,
    positions: FloatArray,
    temperature: float,
    pressure: float = _ATMOSPHERE,
    *,
    symmetry: int = 1,
    multiplicity: int = 1,
) -> tuple[float, float]:
    """Enthalpy (eV) and entropy (eV/K) of translation, rotation and spin of an ideal gas.

    Parameters
    ----------
    masses, positions
        amu and Å, shapes (n_atoms,) and (n_atoms, 3).
    temperature, pressure
        K and Pa.
    symmetry
        Rotational symmetry number.
    multiplicity
        2S + 1.
    """
    kt = units._k * temperature
    mass = masses.sum() * units._amu
    waves = (2.0 * np.pi * mass * kt / units._hplanck**2) ** 1.5
    entropy = np.log(waves * kt / pressure) + 2.5 + np.log(multiplicity)
    halves = 5  # of kT: translation, and the work against the pressure
    moments = moments_of_inertia(masses, positions) if len(masses) > 1 else np.zeros(0)
    turning = moments[moments > LINE]
    if len(moments):
        # What turns about a line counts once, though two moments are alike.
        kinds = turning if len(turning) == 3 else turning[:1]
        scale = 8.0 * np.pi**2 * units._amu * 1e-20 * kt / units._hplanck**2
        if len(kinds) == 3:
            entropy += 0.5 * np.log(np.pi * np.prod(scale * kinds)) + 1.5
        else:
            entropy += float(np.log(scale * kinds[0])) + 1.0
        entropy -= np.log(symmetry)
        halves += len(turning)
    return 0.5 * halves * units.kB * temperature, float(units.kB * entropy)


def moments_of_inertia(masses: FloatArray, positions: FloatArray) -> FloatArray:
    """Principal moments, amu Å², ascending, shape (3,)."""
    centred = positions - masses @ positions / masses.sum()
    products = (masses[:, None] * centred).T @ centred
    return np.asarray(np.linalg.eigvalsh(np.trace(products) * np.eye(3) - products))
