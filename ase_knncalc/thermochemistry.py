"""Gibbs energies of clusters in the gas phase: see :mod:`ase_knncalc.analysis.thermochemistry`."""

from __future__ import annotations

from ase_knncalc.analysis.thermochemistry import (
    Minimum,
    Thermochemistry,
    binding_gibbs_energy,
    gibbs_energy,
    minimum_of,
    rotor,
    wavenumbers,
)

__all__ = [
    "Minimum",
    "Thermochemistry",
    "binding_gibbs_energy",
    "gibbs_energy",
    "minimum_of",
    "rotor",
    "wavenumbers",
]
