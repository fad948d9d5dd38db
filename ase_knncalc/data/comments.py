"""Energies, charges and spins in comment lines that are no list of keys and values.

Programs write them as they like: CREST a bare energy, xtb ``energy: -5.07 gnorm: 0.0002``, ORCA
``Coordinates from ORCA-job water E -76.4``, people ``charge -1, mult 1`` or just ``-1 1``. An
energy counts where its unit is known: because it is written, because the program has one only, or
because of two units the energies of atoms leave one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ase_knncalc.data.keys import ENERGY_UNITS, UNKNOWN_UNIT, unit_named
from ase_knncalc.data.units import all_electron_energy

_NUMBER = r"([+-]?\d+\.\d*(?:[eEdD][+-]?\d+)?)"
_UNIT = r"(hartrees?|eh|ha|a\.?u\.?|ev|kcal/mol|kj/mol)\b"
_BARE = re.compile(rf"\s*{_NUMBER}(?:\s*{_UNIT})?(?:\s+!.*|(?:\s+[+-]?\d+\.?\d*)*)\s*\Z", re.I)
_NAMED = re.compile(
    rf"\b(?:energy|etot|e_tot|scf[ _]done|scf|e)(?:\s*\([^)]*\))?\s*[:=]?\s*{_NUMBER}"
    rf"(?:\s*{_UNIT})?",
    re.I,
)
_HARTREE_PROGRAMS = re.compile(r"\bgnorm\b|\bxtb\b|\bcrest\b|\borca\b|\bgaussian\b", re.I)
_STATE = re.compile(r"\s*([+-]?\d)\s+(\d)\s*\Z")
_CHARGE = re.compile(r"\b(?:charge|chrg|q)\s*[:=]?\s*([+-]?\d+(?![.\d]))", re.I)
_MULTIPLICITY = re.compile(r"\bmult(?:iplicity)?\s*[:=]?\s*(\d+(?![.\d]))", re.I)
_UNPAIRED = re.compile(r"\buhf\s*[:=]?\s*(\d+(?![.\d]))", re.I)
_CHARGE_WORD = re.compile(r"\b(?:charge|chrg)\b", re.I)

# Of all-electron total energies, which are sums over atoms to within a percent.
_TOLERANCE = 0.02
# Hartree per valence electron, of GFN1- and GFN2-xTB: water 0.63, methane 0.52, benzene 0.53.
_PER_VALENCE_ELECTRON = (0.3, 1.0)


def free_comment(comment: str, numbers: Sequence[int]) -> dict[str, Any]:
    """What a line of free text says, as entries of ``info``.

    Parameters
    ----------
    comment
        Without ``key=value``.
    numbers
        Atomic numbers of the frame.

    Returns
    -------
    dict
        Some of ``energy``, ``energy_unit``, ``charge``, ``multiplicity`` and ``uhf``. A charge that
        is spoken of, but cannot be read, is the whole text.
    """
    found: dict[str, Any] = {}
    state = _STATE.match(comment)
    if state:
        return {"charge": int(state[1]), "multiplicity": int(state[2])}
    for key, pattern in (("charge", _CHARGE), ("multiplicity", _MULTIPLICITY), ("uhf", _UNPAIRED)):
        match = pattern.search(comment)
        if match:
            found[key] = int(match[1])
    if "charge" not in found and _CHARGE_WORD.search(comment):
        found["charge"] = comment.strip()
    match = _BARE.match(comment) or _NAMED.search(comment)
    if match:
        energy = float(match[1].lower().replace("d", "e"))
        unit = unit_named(match[2]) if match[2] else _unit(comment, energy, numbers)
        if unit is None and match.re is _NAMED:
            unit = UNKNOWN_UNIT
        if unit is not None:
            found |= {"energy": energy, "energy_unit": unit}
    return found


def _unit(comment: str, energy: float, numbers: Sequence[int]) -> str | None:
    if _HARTREE_PROGRAMS.search(comment):
        return "Hartree"
    expected = all_electron_energy(numbers)
    for unit in ("Hartree", "eV"):
        size = ENERGY_UNITS["Hartree"] / ENERGY_UNITS[unit]
        if math.isclose(energy, expected * size, rel_tol=_TOLERANCE):
            return unit
    low, high = (x * sum(map(_valence_electrons, numbers)) for x in _PER_VALENCE_ELECTRON)
    return "Hartree" if _BARE.match(comment) and low < -energy < high else None


def _valence_electrons(z: int) -> int:
    """Electrons outside closed shells, those of filled d and f shells not counted."""
    outer = z - max((core for core in (0, 2, 10, 18, 36, 54, 86) if core < z), default=0)
    return outer - (24 if outer > 26 else 10 if outer > 12 and z < 54 else 0)
