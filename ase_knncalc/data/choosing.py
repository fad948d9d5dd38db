"""Which energy of a file is the reference energy, where nobody said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ase import Atoms

from ase_knncalc.data.keys import AUTO, KeyMap, find_label, label_keys, said_unit
from ase_knncalc.errors import DataError

_DEFAULT = KeyMap.reference_energy
_ENERGY = re.compile(r"energ(?:y|ie)|(?:^|_)e(?:_?tot(?:al)?)?(?:_|$)|toten|scf|hartree|(?:^|_)u0$")
# Parts, differences and statistics of energies, and levels that are no reference.
_OTHER = re.compile(
    r"std|sigma|uncertain|variance|error|_low$|_high$|^low_|^high_|interval|per_?atom|predicted|"
    r"relative|(?:^|_)rel(?:_|$)|binding|formation|atomi[sz]ation|interaction|zpe|zero_?point|"
    r"kinetic|delta|baseline|gap|homo|lumo|nuclear|repulsion|dispersion|gibbs|enthalpy|correction|"
    r"correlation|strain|solvation|activation|cutoff|window|unit|thermal|ionization|affinity|"
    r"xtb|gfn|dftb|pm[67]|am1"
)


def choose_key(frames: Sequence[Atoms], keys: KeyMap) -> KeyMap:
    """The key map of a file whose reference energy is to be found.

    Parameters
    ----------
    frames
        All of the file, as read.
    keys
        With ``reference_energy="auto"``; another is given back as it is.

    Returns
    -------
    KeyMap
        ``reference_energy`` is the default name where there is one, or where there is no energy at
        all; otherwise the one number whose name speaks of an energy, such as ``dft_energy``,
        ``E_tot`` or ASE's own ``energy``.

    Raises
    ------
    DataError
        If there are several that differ.
    """
    if keys.reference_energy != AUTO:
        return keys
    there = label_keys(frames)
    found = [key for key in there if _is_energy(key) and key != keys.baseline_energy]
    if _DEFAULT in there or not found:
        return replace(keys, reference_energy=_DEFAULT)
    first = found[0] if "energy" not in found else "energy"
    others = [key for key in found if key != first and not _same(frames, first, key)]
    if others:
        raise DataError(
            f"there are several energies, {', '.join(found)}, and which of them is the reference "
            "is not said; name it with KeyMap(reference_energy=…), --reference-key"
        )
    return replace(keys, reference_energy=first)


def described(atoms: Atoms, keys: KeyMap) -> str:
    """The key of the reference energy and the unit it is read in, for people."""
    key = keys.reference_energy
    unit = said_unit(atoms, key)
    return f"{key!r} in {keys.energy_unit if unit in (None, 'unknown') else unit}"


def _is_energy(key: str) -> bool:
    name = key.lower().replace("-", "_").replace(" ", "_")
    return bool(_ENERGY.search(name)) and not _OTHER.search(name)


def _same(frames: Sequence[Atoms], one: str, other: str) -> bool:
    """Whether two keys hold the same numbers wherever they hold any, as free energies may."""
    pairs = [(find_label(a, one), find_label(a, other)) for a in frames]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    return bool(both) and all(abs(float(x) - float(y)) < 1e-6 for x, y in both)
