"""What is known of single labelled structures beside their residuals.

Labels that contradict each other, energies in another unit, fragments that do not touch: each
function returns a note in words for each structure that it finds, by index. What the notes are
worth is for :mod:`ase_knncalc.labels.suspects` to say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.data import mixed_units
from ase_knncalc.data.keys import ENERGY_UNITS, LEVELS
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.labels.training_data import TrainingData
from ase_knncalc.sameness import near_pairs

# Å. Hydrogen bonds and contacts are shorter than the first, all bonds of hydrogen than the second.
_MAX_GAP = 4.0
_MAX_HYDROGEN_BOND = 1.8
# In units of the expected error: nearly equal structures that differ by more contradict each other.
_CONFLICT = 5.0

_PARTS: dict[str, tuple[str, int]] = {
    "sa": ("H2SO4", 0),
    "w": ("H2O", 0),
    "am": ("NH3", 0),
    "ma": ("CH5N", 0),
    "dma": ("C2H7N", 0),
    "tma": ("C3H9N", 0),
    "eda": ("C2H8N2", 0),
    "b": ("HSO4", -1),
    "p": ("H", 1),
}
"""Formula and charge of what compositions such as ``4am1p`` are made of."""


# ------------------------------------------------------------------------------------- labels


def composition_parts(composition: str) -> dict[str, int]:
    """Molecules of a composition such as ``4am1p``: ``{"am": 4, "p": 1}``; empty if it is none."""
    if not re.fullmatch(r"(\d+[A-Za-z]+)+", composition):
        return {}
    parts: Counter[str] = Counter()
    for number, name in re.findall(r"(\d+)([A-Za-z]+)", composition):
        parts[name] += int(number)
    return dict(parts)


def families(batch: FeatureBatch, parts: list[dict[str, int]]) -> IntArray:
    """Number of the rarest molecule, or element, of each structure, shape (n,)."""
    names = [
        sorted(p) or [f"element {z}" for z in sorted(_atoms_of(batch, i))]
        for i, p in enumerate(parts)
    ]
    frequency = Counter(name for of in names for name in of)
    rarest = [min(of, key=lambda name: (frequency[name], name)) for of in names]
    return np.unique(rarest, return_inverse=True)[1]


def _known_parts(parts: dict[str, int]) -> tuple[Counter[int], int] | None:
    """Atoms (by atomic number) and charge of a composition, None if a part is not known."""
    if not parts or any(name not in _PARTS for name in parts):
        return None
    atoms: Counter[int] = Counter()
    for name, number in parts.items():
        for symbol, count in Formula(_PARTS[name][0]).count().items():
            atoms[atomic_numbers[symbol]] += number * count
    return +atoms, sum(number * _PARTS[name][1] for name, number in parts.items())


def _atoms_of(batch: FeatureBatch, i: int) -> Counter[int]:
    return Counter(batch.numbers[batch.starts[i] : batch.starts[i + 1]].tolist())


def wrong_charges(
    data: TrainingData, parts: list[dict[str, int]]
) -> tuple[dict[int, str], IntArray]:
    """Structures whose charge is not that of their composition, and the right charges (n,)."""
    charges = data.batch.charges.copy()
    notes: dict[int, str] = {}
    for i, group in enumerate(data.groups):
        known = _known_parts(parts[i])
        # The abbreviations may mean other molecules elsewhere: the atoms have to agree.
        if known is None or known[1] == charges[i] or known[0] != _atoms_of(data.batch, i):
            continue
        notes[i] = (
            f"its charge is {charges[i]:+d}, but its composition {group} implies {known[1]:+d}"
        )
        charges[i] = known[1]
    return notes, charges


def wrong_compositions(data: TrainingData, parts: list[dict[str, int]]) -> dict[int, str]:
    """Structures whose atoms are not those of their composition."""
    notes: dict[int, str] = {}
    understood = 0
    for i, group in enumerate(data.groups):
        known = _known_parts(parts[i])
        if known is None:
            continue
        understood += 1
        atoms = _atoms_of(data.batch, i)
        if known[0] != atoms:
            stands_for, has = _formula(known[0]), _formula(atoms)
            notes[i] = f"its composition {group} stands for {stands_for}, but its atoms are {has}"
    # Many of them: the abbreviations mean other molecules here.
    return notes if len(notes) <= 0.1 * understood else {}


def _formula(atoms: Counter[int]) -> str:
    symbols = "".join(f"{chemical_symbols[z]}{k}" for z, k in sorted(atoms.items()))
    return str(Formula(symbols).format("hill"))


def odd_states(data: TrainingData, frames: Sequence[Atoms] | None) -> dict[int, str]:
    """Structures in another state than nearly all of their composition.

    States are multiplicities of the frames, or charges without frames.
    """
    what = "charge" if frames is None else "multiplicity"
    values = data.batch.charges.tolist()
    if frames is not None:
        values = [int(a.info.get("multiplicity", 1)) for a in frames]
    members: dict[str, list[int]] = {}
    for i, group in enumerate(data.groups):
        members.setdefault(group, []).append(i)
    notes: dict[int, str] = {}
    for group, rows in members.items():
        usual, count = Counter(values[i] for i in rows).most_common(1)[0]
        if len(rows) >= 10 and count >= 0.9 * len(rows):
            others = f"{count} of {len(rows)} structures {group} have {usual}"
            notes.update(
                (i, f"its {what} is {values[i]}, but {others}") for i in rows if values[i] != usual
            )
    return notes


# ----------------------------------------------------------------------------------- energies


def unit_slips(
    batch: FeatureBatch, frames: Sequence[Atoms] | None, elements: Sequence[int]
) -> dict[int, str]:
    """Structures whose total energies are in another unit than the others'."""
    notes: dict[int, str] = {}
    for level in LEVELS if frames is not None else ():
        energies = np.array([a.info.get(f"{level}_energy", np.nan) for a in frames or ()], float)
        for slip in mixed_units(energies, batch.counts(elements)):
            text = slip_text(level, slip.factor, slip.looks_like)
            notes.update(dict.fromkeys(slip.indices, text))
    return notes


def slip_text(level: str, factor: float, looks_like: str) -> str:
    """How a note tells that an energy is in another unit."""
    size, relation = (factor, "larger") if factor > 1 else (1.0 / factor, "smaller")
    return (
        f"its {level} energy is {relation} by a factor of {size:.6g} than the other structures "
        f"suggest: {looks_like}"
    )


def energy_slip(atoms: Atoms, residual: float, expected: float) -> tuple[str, str] | None:
    """Category and reason if another sign or unit of one energy explains a residual of Δ."""
    uncertainty = 5.0 * expected
    for level, sign in (("reference", 1.0), ("baseline", -1.0)):
        energy = float(atoms.info.get(f"{level}_energy", 0.0))
        right = energy - sign * residual
        if energy == 0.0 or abs(right) < 10.0 * uncertainty:
            continue
        if abs(energy + right) < uncertainty:
            return "sign", f"its {level} energy {energy:.6g} eV has the wrong sign"
        for unit, size in ENERGY_UNITS.items():
            for factor, text in ((1.0 / size, f"{unit} among eV"), (size, f"eV among {unit}")):
                if unit != "eV" and abs(energy / factor - right) < uncertainty:
                    return "unit", slip_text(level, factor, text)
    return None


# --------------------------------------------------------------------------------- geometries


def far_fragments(frames: Sequence[Atoms] | None) -> dict[int, str]:
    """Structures in parts that do not touch: long edges of their minimum spanning tree."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    notes: dict[int, str] = {}
    for i, atoms in enumerate(frames or ()):
        gap = float(minimum_spanning_tree(_distances(atoms)).max()) if len(atoms) > 1 else 0.0
        if gap > _MAX_GAP:
            notes[i] = f"its fragments are {gap:.1f} Å apart at their nearest atoms"
    return notes


def lone_hydrogens(frames: Sequence[Atoms] | None) -> dict[int, str]:
    """Structures that have lost a hydrogen atom: closed-shell methods are wrong for these."""
    notes: dict[int, str] = {}
    for i, atoms in enumerate(frames or ()):
        if len(atoms) == 1:
            continue
        nearest = np.where(np.eye(len(atoms)), np.inf, _distances(atoms)).min(axis=1)
        lone = np.flatnonzero((atoms.numbers == 1) & (nearest > _MAX_HYDROGEN_BOND))
        if len(lone):
            where = f"the nearest atom is {nearest[lone[0]]:.1f} Å away"
            notes[i] = f"its hydrogen atom {lone[0]} is bound to nothing ({where})"
    return notes


def _distances(atoms: Atoms) -> FloatArray:
    shift = atoms.positions[:, None] - atoms.positions
    return np.asarray(np.sqrt(np.einsum("ijk,ijk->ij", shift, shift)))


def conflicting_duplicates(
    data: TrainingData, batch: FeatureBatch, residual: FloatArray, expected: FloatArray
) -> dict[int, str]:
    """Structures that are nearly the same as another one, but have another Δ."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, group in enumerate(data.groups):
        groups.setdefault((group, int(data.batch.charges[i])), []).append(i)
    summed = batch.summed()
    size = np.abs(residual)
    notes: dict[int, str] = {}
    for rows in groups.values():
        for a, b in near_pairs(summed[rows]):
            # The one of the two that fits the rest worse.
            i, j = sorted((rows[a], rows[b]), key=lambda row: -size[row])
            # Residuals, because Δ of one structure and its neighbour differ by a trend, too.
            difference = abs(float(residual[i] - residual[j]))
            if difference > _CONFLICT * max(expected[i], expected[j]):
                notes.setdefault(
                    i,
                    f"it is nearly the same structure as {data.names[j]}, but its Δ is "
                    f"{difference:.3f} eV off that of the other",
                )
    return notes
