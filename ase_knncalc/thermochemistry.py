"""Gibbs energies of clusters in the gas phase: see :mod:`ase_knncalc.analysis.thermochemistry`."""

from __future__ import annotations

from ase_knncalc.analysis.thermochemistry import (
    Thermochemistry,
    binding_gibbs_energy,
    gibbs_energy,
    rotor,
    wavenumbers,
)

__all__ = ["Thermochemistry", "binding_gibbs_energy", "gibbs_energy", "rotor", "wavenumbers"]
