"""Two files of the same structures, one of the high and one of the low level, as JKML takes them.

Structures are matched by their geometry, which files keep to 1e-5 Å or so; names decide between
several of the same geometry. (Programs that collect outputs number them anew after each sorting
by energy, so that a name alone may belong to another structure in the other file.)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc.charges import info_with_state
from ase_knncalc.data.dataset import CONFLICT_KEY
from ase_knncalc.data.keys import LEVELS, KeyMap, key_map, label_keys
from ase_knncalc.data.paths import file_stem
from ase_knncalc.data.sources import Source, iter_sources
from ase_knncalc.errors import DataError
from ase_knncalc.sameness import SAME_IN_PAIRS, DuplicateFinder, turned

# Two low-level structures of one geometry whose energies differ by more contradict each other, eV.
_SAME_ENERGY = 1e-3


@dataclass
class PairedFrames:
    """Structures with labels of both levels, and what could not be matched.

    Attributes
    ----------
    frames : list of ase.Atoms
        Those of the high level in the order of their file, then those of the low level only. Under
        the default names of :class:`KeyMap`, in eV and eV/Å. Those in ``conflicts`` say so in
        ``info["label_conflict"]``, and :func:`read_dataset` leaves them out with that reason.
    matched : int
        How many have both levels.
    renamed : list of (str, str)
        Names in the high and in the low file of those that match under different names.
    high_only, low_only : list of str
        Names of structures that the other file does not have.
    conflicts : list of (str, str)
        Name and reason.
    without_forces : list of str
        Matched, but the atoms of the low level are in another order that could not be found out:
        they have no baseline forces.
    unlabelled : list of str
        Structures of the low level without an energy, which are ignored.
    unreadable : list of (str, str)
        Outputs in a folder that could not be read, with the reason.
    """

    frames: list[Atoms] = field(default_factory=list)
    matched: int = 0
    renamed: list[tuple[str, str]] = field(default_factory=list)
    high_only: list[str] = field(default_factory=list)
    low_only: list[str] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    without_forces: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Counts and names without the frames, ready for JSON."""
        return {key: value for key, value in vars(self).items() if key != "frames"}

    def report(self, limit: int = 5) -> str:
        """What was matched and what was not, as text."""
        lines = [f"{self.matched} structures matched, {len(self.renamed)} of them under two names"]
        for what, names in (
            ("of the high level only", self.high_only),
            ("of the low level only", self.low_only),
            ("contradict each other", [f"{name}: {why}" for name, why in self.conflicts]),
            ("without baseline forces (other order of atoms)", self.without_forces),
            ("of the low level without an energy", self.unlabelled),
            ("not readable", [f"{name}: {why}" for name, why in self.unreadable]),
        ):
            if names:
                more = f"; … and {len(names) - limit} more" if len(names) > limit else ""
                lines.append(f"  {len(names)} {what}: {'; '.join(names[:limit])}{more}")
        return "\n".join(lines)

    def line(self) -> str:
        """The same in one line, for errors."""
        return self.report(limit=3).replace("\n  ", "; ")


def read_pair(high: Source, low: Source, *, keys: KeyMap | None = None) -> PairedFrames:
    """Frames with reference labels from one file and baseline labels from another.

    Nothing is dropped: a structure of the high level only has no baseline, and one of the low
    level only is put at the end and has no reference.

    Parameters
    ----------
    high, low
        Files, folders of outputs or structures of the two levels, in any format that
        :func:`~ase_knncalc.data.frames.iter_frames` reads.
    keys
        Names and units of the labels in both. The energy of the low level may be under the name of
        the baseline or, as in JKQC databases and outputs, under that of the reference.

    Returns
    -------
    PairedFrames
        Rotation, mirroring and the order of atoms make no difference for the match, and baseline
        forces are turned to fit the high-level structure.

    Raises
    ------
    DataError
        A file cannot be read, the low level has no energies, or nothing matches.
    """
    keys = key_map(keys)
    pairs = PairedFrames()
    ours = _read(high, keys, pairs)
    theirs = _read(low, keys, pairs, low=True)
    usable = [entry for entry in theirs if entry.energy is not None]
    pairs.unlabelled = [entry.name for entry in theirs if entry.energy is None]
    if not usable:
        there = ", ".join(label_keys(entry.given for entry in theirs[:2])) or "none"
        raise DataError(
            f"none of the {len(theirs)} structures of the low level has the energy "
            f"{keys.baseline_energy!r} or {keys.reference_energy!r}; the numbers they have are: "
            f"{there}. Name the right one with KeyMap(baseline_energy=…), --baseline-key"
        )
    matches = _match(ours, usable)
    known = {id(partner) for found in matches for partner in found}
    for entry, found in zip(ours, matches, strict=True):
        partner = None
        if found:
            partner, problem = _choose(entry, found)
        else:
            # Of the same name, but another structure: that is worth a word.
            same_name = [p for p in usable if p.name == entry.name and id(p) not in known]
            problem = _difference(entry, same_name[0]) if same_name else ""
            known.update(id(p) for p in same_name[:1])
            if not same_name:
                pairs.high_only.append(entry.name)
        problem = entry.problem or problem
        if problem:
            pairs.conflicts.append((entry.name, problem))
            entry.clean.info[CONFLICT_KEY] = problem
        elif partner is not None:
            _join(entry, partner, pairs)
        _label(entry.clean, "reference", entry.energy, entry.forces)
        pairs.frames.append(entry.clean)
    for partner in usable:
        if id(partner) not in known:
            pairs.low_only.append(partner.name)
            _label(partner.clean, "baseline", partner.energy, partner.forces)
            pairs.frames.append(partner.clean)
    if not pairs.matched:
        raise DataError(f"nothing in {_place(ours)} matches {_place(theirs)}: {pairs.line()}")
    return pairs


def pair_sources(
    data: Source,
    low: Source | None,
    monomers: Source | None,
    low_monomers: Source | None,
    keys: KeyMap,
) -> tuple[Source, Source | None, KeyMap]:
    """Training data and monomers with both levels joined, and the key map to read them with.

    Raises
    ------
    DataError
        As :func:`read_pair`; or ``low_monomers`` without ``monomers``.
    """
    if low_monomers is not None and monomers is None:
        raise DataError("monomers of the low level need those of the high level (--monomers)")
    if low is None and low_monomers is None:
        return data, monomers, keys

    def joined(high: Source, other: Source | None) -> Source:
        if other is not None:
            return read_pair(high, other, keys=keys).frames
        return _renamed(high, keys)

    return joined(data, low), None if monomers is None else joined(monomers, low_monomers), KeyMap()


def _renamed(data: Source, keys: KeyMap) -> list[Atoms]:
    """Frames with whatever labels they have under the default names, in eV and eV/Å."""
    frames = []
    for atoms, used, name, source in iter_sources(data, ":", keys, None):
        clean = _clean(atoms, used, name, source)
        try:
            for level in LEVELS:
                _label(clean, level, used.energy(atoms, level), used.forces(atoms, level))
        except DataError as e:
            clean.info[CONFLICT_KEY] = str(e)
        frames.append(clean)
    return frames


@dataclass
class _Entry:
    """A structure with the labels of its file."""

    given: Atoms
    clean: Atoms
    """A copy under canonical names, without labels."""
    energy: float | None
    forces: np.ndarray | None
    problem: str
    file: str

    @property
    def name(self) -> str:
        return str(self.clean.info["name"])


def _read(data: Source, keys: KeyMap, pairs: PairedFrames, *, low: bool = False) -> list[_Entry]:
    entries = []

    def note(path: Path, error: DataError) -> None:
        pairs.unreadable.append((file_stem(path), str(error)))

    for atoms, used, name, source in iter_sources(data, ":", keys, note):
        places = [(used, "reference")]
        if low:
            # JKQC's first energy is the reference, also where that of the high level is another.
            usual = replace(
                used,
                reference_energy=KeyMap.reference_energy,
                reference_forces=KeyMap.reference_forces,
            )
            places = [(used, "baseline"), (used, "reference"), (usual, "reference")]
        energy, forces, problem = None, None, ""
        try:
            for names, level in places:
                energy, forces = names.energy(atoms, level), names.forces(atoms, level)
                if energy is not None:
                    break
        except DataError as e:
            problem = str(e)
        clean = _clean(atoms, used, name, source)
        file = str(clean.info["source"]).partition("#")[0]
        entries.append(_Entry(atoms, clean, energy, forces, problem, file))
    if not entries:
        raise DataError(f"there are no structures in the data; {pairs.line()}")
    return entries


def _clean(atoms: Atoms, keys: KeyMap, name: str, source: str) -> Atoms:
    clean = atoms.copy()
    info = info_with_state(atoms)
    described = {
        role: info[key]
        for role in ("composition", "charge", "multiplicity")
        if (key := getattr(keys, role)) in info
    }
    consumed = keys.consumed() | KeyMap().consumed()
    others = {k: v for k, v in info.items() if k not in consumed}
    clean.info = {"name": name, "source": source, **described, **others}
    for key in consumed & set(clean.arrays):
        del clean.arrays[key]
    return clean


def _label(atoms: Atoms, level: str, energy: float | None, forces: np.ndarray | None) -> None:
    assert level in LEVELS
    if energy is not None:
        atoms.info[f"{level}_energy"] = energy
    if forces is not None:
        atoms.set_array(f"{level}_forces", forces, float, (3,))


def _comparable(entry: _Entry) -> bool:
    return len(entry.clean) > 0 and bool(np.isfinite(entry.clean.positions).all())


def _match(ours: list[_Entry], theirs: list[_Entry]) -> list[list[_Entry]]:
    """For each of ours, all of theirs that have the same geometry."""
    finder = DuplicateFinder(SAME_IN_PAIRS)
    found = [entry for entry in theirs if _comparable(entry)]
    for entry in found:
        finder.add(entry.clean, 0, 1)
    return [
        [found[i] for i in finder.find_all(entry.clean, 0, 1)] if _comparable(entry) else []
        for entry in ours
    ]


def _choose(entry: _Entry, found: list[_Entry]) -> tuple[_Entry | None, str]:
    """The partner among those of the same geometry, or why there is none."""
    fitting = [partner for partner in found if not _other_state(entry, partner)]
    if not fitting:
        return None, _other_state(entry, found[0])
    named = [partner for partner in fitting if partner.name == entry.name]
    candidates = named or fitting
    energies = [p.energy for p in candidates if p.energy is not None]
    if max(energies) - min(energies) > _SAME_ENERGY:
        return None, (
            f"{len(candidates)} structures in {found[0].file} have its geometry "
            f"({', '.join(p.name for p in candidates[:3])}), with energies that differ by up to "
            f"{max(energies) - min(energies):.4f} eV"
        )
    return candidates[0], ""


def _other_state(entry: _Entry, partner: _Entry) -> str:
    """In what the charge or multiplicity differ where both files give them."""
    for key in ("charge", "multiplicity"):
        here, there = entry.clean.info.get(key), partner.clean.info.get(key)
        if here is not None and there is not None and str(here) != str(there):
            return f"its {key} is {here} here and {there} in {partner.file}"
    return ""


def _difference(entry: _Entry, partner: _Entry) -> str:
    """Why the structure of the same name is another one."""
    here, there = entry.clean, partner.clean
    what = f"not the structure of the same name in {partner.file}"
    if here.get_chemical_formula() != there.get_chemical_formula():
        return f"{what}: it is {there.get_chemical_formula()} there"
    if np.array_equal(here.numbers, there.numbers) and len(here) > 1:
        difference = np.abs(here.get_all_distances() - there.get_all_distances()).max()
        return f"{what}: interatomic distances differ by {difference:.4f} Å"
    return f"{what}: its interatomic distances differ, or its positions are not finite"


def _join(entry: _Entry, partner: _Entry, pairs: PairedFrames) -> None:
    pairs.matched += 1
    if partner.name != entry.name:
        pairs.renamed.append((entry.name, partner.name))
    for key in ("charge", "multiplicity", "composition"):
        if key in partner.clean.info:
            entry.clean.info.setdefault(key, partner.clean.info[key])
    forces = partner.forces
    if forces is not None:
        forces = turned(forces, partner.clean, entry.clean, SAME_IN_PAIRS)
        if forces is None:
            pairs.without_forces.append(entry.name)
    _label(entry.clean, "baseline", partner.energy, forces)


def _place(entries: list[_Entry]) -> str:
    files = list(dict.fromkeys(entry.file for entry in entries))
    return files[0] + (f" (and {len(files) - 1} more files)" if len(files) > 1 else "")
