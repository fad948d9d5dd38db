"""Thermochemistry without a Hessian: what is learned of vibrations, and what is computed exactly.

Translation, rotation and spin follow from geometry and masses. Learned are sums over vibrations,
for each treatment of soft modes: the zero-point energy, and at a few temperatures the enthalpy
(zero-point energy included), T·S and their difference, all in eV. They are smooth functions of the
temperature, so that a polynomial through these nodes gives them in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import SettingsError
from ase_knncalc.heads.result import Quantity
from ase_knncalc.heads.vibrations import TREATMENTS, vibrational_sums

LOWEST = 100.0
"""Wavenumber below which modes are soft in what is learned, cm⁻¹."""

COLDEST, HOTTEST = 200.0, 400.0
# Chebyshev's points: no polynomial through five others is as near everywhere.
NODES = 300.0 - 100.0 * np.cos(np.pi * np.arange(5) / 4)

QUANTITIES = ("enthalpy", "heat", "gibbs")


def _keys() -> list[tuple[str, str, int]]:
    """Treatment, quantity and node of each output; the zero-point energy has none (−1)."""
    found = []
    for treatment in TREATMENTS:
        # Grimme's way changes the entropy alone.
        kinds = QUANTITIES if treatment != "grimme" else QUANTITIES[1:]
        if treatment != "grimme":
            found.append((treatment, "zero_point", -1))
        found += [(treatment, kind, node) for kind in kinds for node in range(len(NODES))]
    return found


KEYS = _keys()
OUTPUTS = tuple(
    f"{treatment}/{quantity}" + (f"/{NODES[node]:.1f}" if node >= 0 else "")
    for treatment, quantity, node in KEYS
)
_PLACES = {key: i for i, key in enumerate(KEYS)}


def thermal_targets(wavenumbers: Sequence[FloatArray]) -> FloatArray:
    """What is learned of structures with these harmonic wavenumbers, eV, (n, len(OUTPUTS))."""
    targets = np.zeros((len(wavenumbers), len(OUTPUTS)))
    for row, modes in zip(targets, wavenumbers, strict=True):
        of = {t: vibrational_sums(modes, NODES, t, LOWEST) for t in TREATMENTS}
        for i, (treatment, quantity, node) in enumerate(KEYS):
            sums = of[treatment]
            heat = NODES[node] * sums.entropy[node]
            enthalpy = sums.zero_point + sums.energy[node]
            row[i] = {
                "zero_point": sums.zero_point,
                "enthalpy": enthalpy,
                "heat": heat,
                "gibbs": enthalpy - heat,
            }[quantity]
    return targets


def require_temperature(temperature: float) -> None:
    """Raise :class:`SettingsError` outside of what was learned."""
    if not COLDEST <= temperature <= HOTTEST:
        raise SettingsError(
            f"thermochemistry was learned from {COLDEST:g} to {HOTTEST:g} K, got {temperature:g} "
            "K: vibrations of the model's own surface have no such limit (knncalc thermo "
            "--hessian)"
        )


def node_weights(temperature: float) -> FloatArray:
    """Of the polynomial through the nodes, shape (len(NODES),)."""
    differences = temperature - NODES
    if np.any(differences == 0.0):
        return np.asarray((differences == 0.0).astype(np.float64))
    barycentric = (-1.0) ** np.arange(len(NODES))
    barycentric[[0, -1]] /= 2.0
    weights = barycentric / differences
    return np.asarray(weights / weights.sum())


def thermal_values(
    values: FloatArray,
    stds: FloatArray,
    multiples: FloatArray,
    temperature: float,
    treatment: str,
    *,
    atoms: int,
) -> dict[str, Quantity]:
    """Zero-point energy, enthalpy, T·S ("heat") and Gibbs energy of vibrations, eV.

    Parameters
    ----------
    values, stds, multiples
        Of the outputs, for one structure, shape (len(OUTPUTS),).
    temperature
        K.
    treatment
        Of soft modes.
    atoms
        How many there are: one does not vibrate.
    """
    weights = node_weights(temperature)
    found = {}
    for quantity in ("zero_point", *QUANTITIES):
        of_entropy = quantity in ("heat", "gibbs")
        own = "harmonic" if treatment == "grimme" and not of_entropy else treatment
        if quantity == "zero_point":
            i = _PLACES[own, quantity, -1]
            one = Quantity(float(values[i]), float(stds[i]), float(multiples[i]))
        else:
            places = [_PLACES[own, quantity, node] for node in range(len(NODES))]
            one = Quantity(
                float(weights @ values[places]),
                float(np.interp(temperature, NODES, stds[places])),
                float(np.interp(temperature, NODES, multiples[places])),
            )
        found[quantity] = one if atoms > 1 else Quantity(0.0, 0.0)
    return found
