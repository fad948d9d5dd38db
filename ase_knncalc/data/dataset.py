"""The labelled dataset: frames with canonical labels, and a list of what was left out and why."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_knncalc._lib.arguments import NotNegative, checked
from ase_knncalc.charges import stated_copy
from ase_knncalc.data.choosing import described
from ase_knncalc.data.keys import LEVELS, KeyMap, key_map, label_keys
from ase_knncalc.data.paths import file_stem
from ase_knncalc.data.sources import Source, iter_sources, read_structures, text_or, without_cell
from ase_knncalc.data.units import check_units
from ase_knncalc.errors import (
    ChargeError,
    DataError,
    KNNCalcError,
    PredictedLabelError,
    SettingsError,
    StructureError,
)
from ase_knncalc.sameness import SAME_IN_DATA, DuplicateFinder
from ase_knncalc.structure import check_structure, composition_label, resolve_charge

CONFLICT_KEY = "label_conflict"
"""Key in ``info`` of the reason why a frame's labels must not be used."""

# Two copies of a structure whose energies differ by more than this contradict each other, eV.
SAME_ENERGY = 1e-3


@dataclass(frozen=True)
class Omission:
    """A frame that was left out, and why."""

    index: int
    """Its place among all frames read, from 0."""
    name: str
    source: str
    """File and place in it, such as ``clusters.extxyz.gz#17``."""
    reason: str
    category: str
    """One of a few short words: ``missing-reference``, ``duplicate``, ``periodic``, …"""


def read_usable(
    structures: Source, keys: KeyMap | None = None
) -> tuple[list[Atoms], list[Omission]]:
    """Structures that could be read, and what could not; arguments as for ``read_structures``.

    Raises
    ------
    DataError
        If the only file cannot be read.
    """
    omitted: list[Omission] = []

    def note(path: Path, error: DataError) -> None:
        omitted.append(Omission(len(omitted), file_stem(path), path.name, str(error), "unreadable"))

    return read_structures(structures, keys=keys, on_error=note), omitted


def place_in_file(atoms: Atoms, place: int) -> int:
    """The integer in ``info["index"]``; where there is none, the place in the sequence at hand."""
    try:
        return operator.index(atoms.info["index"])
    except (KeyError, TypeError):
        return place


@dataclass
class LabelledDataset:
    """Structures with labels in eV and eV/Å, all checked.

    Each frame has ``info["name"]``, ``["composition"]``, ``["charge"]``, ``["multiplicity"]``,
    ``["source"]``, what was found of ``["reference_energy"]``, ``["baseline_energy"]``,
    ``arrays["reference_forces"]``, ``["baseline_forces"]``, and the other ``info`` of its file.
    There are no calculators, and no other arrays but ``numbers`` and ``positions``.
    """

    frames: list[Atoms]
    omitted: list[Omission] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    """For each file that has reference energies, the key and the unit they were read in."""

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Atoms]:
        return iter(self.frames)

    def select(self, indices: Sequence[int] | np.ndarray) -> LabelledDataset:
        """The frames at ``indices`` (integers, or a mask of booleans), in that order.

        Raises
        ------
        SettingsError
            An index or the mask does not fit the dataset.
        """
        places = np.asarray(indices)
        if places.dtype == bool and places.shape != (len(self),):
            raise SettingsError(
                f"the mask has shape {places.shape}, but there are {len(self)} frames"
            )
        if places.dtype == bool:
            places = np.flatnonzero(places)
        elif places.size and (
            places.dtype.kind not in "iu" or places.min() < -len(self) or places.max() >= len(self)
        ):
            raise SettingsError(f"indices should be integers below {len(self)}")
        return LabelledDataset([self.frames[i] for i in places.tolist()])

    def energies(self, key: str = "reference_energy") -> np.ndarray:
        """Energies in eV, shape (n_frames,), NaN where a frame has none.

        Parameters
        ----------
        key
            ``"reference_energy"``, ``"baseline_energy"``, ``"delta"`` (their difference), or the
            name of another number in ``info``.
        """
        if key == "delta":
            return np.asarray(self.energies("reference_energy") - self.energies("baseline_energy"))
        return np.array([a.info.get(key, np.nan) for a in self.frames], dtype=float)

    @property
    def has_forces(self) -> np.ndarray:
        """Which frames have reference forces, booleans of shape (n_frames,)."""
        return np.array(["reference_forces" in a.arrays for a in self.frames], dtype=bool)

    @property
    def names(self) -> list[str]:
        """Names of the frames."""
        return [a.info["name"] for a in self.frames]

    @property
    def compositions(self) -> list[str]:
        """Compositions of the frames, such as ``1sa2w``, or formulas where the file has none."""
        return [a.info["composition"] for a in self.frames]

    @property
    def charges(self) -> np.ndarray:
        """Total charges, integers of shape (n_frames,)."""
        return np.array([a.info["charge"] for a in self.frames], dtype=int)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, in order."""
        return tuple(sorted({int(z) for a in self.frames for z in a.numbers}))

    def summary(self) -> dict[str, Any]:
        """What the dataset holds, in numbers: plain types, ready for JSON."""
        sizes = [len(a) for a in self.frames]
        reference = np.isfinite(self.energies("reference_energy"))
        baseline = np.isfinite(self.energies("baseline_energy"))
        return {
            "n_frames": len(self),
            "n_reference": int(reference.sum()),
            "n_baseline": int(baseline.sum()),
            "n_forces": int(self.has_forces.sum()),
            "n_compositions": len(set(self.compositions)),
            "n_atoms": [min(sizes, default=0), max(sizes, default=0)],
            "elements": [chemical_symbols[z] for z in self.elements],
            "charges": sorted({int(c) for c in self.charges}),
            "n_omitted": len(self.omitted),
            "omitted": dict(Counter(o.category for o in self.omitted).most_common()),
        }

    def report_omissions(self, limit: int = 5) -> str:
        """What was left out as text: a line for each category, and up to ``limit`` examples."""
        return report_omissions(self.omitted, len(self) + len(self.omitted), limit)


def report_omissions(omitted: Sequence[Omission], total: int, limit: int = 5) -> str:
    """Text on the frames that were left out of ``total``, by category."""
    if not omitted:
        return f"none of {total} frames left out"
    lines = [f"{len(omitted)} of {total} frames left out:"]
    for category, count in Counter(o.category for o in omitted).most_common():
        lines.append(f"  {category}: {count}")
        examples = [o for o in omitted if o.category == category]
        lines += [f"    {o.name} ({o.source}): {o.reason}" for o in examples[:limit]]
        if count > limit:
            lines.append(f"    … and {count - limit} more")
    return "\n".join(lines)


def read_dataset(
    data: Source,
    *,
    keys: KeyMap | None = None,
    index: str | int | slice = ":",
    require_reference: bool = True,
    require_baseline: bool = False,
    tolerance: float = SAME_IN_DATA,
) -> LabelledDataset:
    """Read labelled structures, and list what cannot be used.

    Parameters
    ----------
    data
        A file or folder, ``Atoms`` with labels, or several of either
        (:func:`~ase_knncalc.data.frames.iter_frames` lists the formats). ``Atoms`` are copied.
    keys
        Names and units of the labels. JKQC databases come under the default names and in eV: for
        them only the names count.
    index
        Which frames of each file.
    require_reference
        Whether a frame without a reference energy is left out.
    require_baseline
        Whether a frame without a baseline energy is left out. Baseline energies can be computed
        later.
    tolerance
        Shift of atoms, in Å, up to which two structures are the same one.

    Returns
    -------
    LabelledDataset
        Every frame read is either in ``frames`` or in ``omitted``.

    Raises
    ------
    DataError
        A file cannot be read; no frame can be used (the message says why, and for a wrong key
        which there are); or energies are beyond doubt in mixed or wrong units.
    SettingsError
        The unit of forces is needed and not known.
    """
    keys = key_map(keys)
    builder = _Builder(keys, require_reference, require_baseline, tolerance)
    for found in iter_sources(data, index, keys, builder.add_unreadable):
        builder.add(*found)
    dataset = builder.finish()
    check_units(dataset.frames)
    return dataset


class _Left(Exception):
    """Why a frame is left out."""

    def __init__(self, category: str, reason: str) -> None:
        super().__init__(reason)
        self.category = category


class _Builder:
    """Checks frames one by one and keeps them or lists them."""

    def __init__(
        self, keys: KeyMap, require_reference: bool, require_baseline: bool, tolerance: float
    ) -> None:
        checked("tolerance", tolerance, NotNegative)
        self.keys = keys
        self.required = {"reference": require_reference, "baseline": require_baseline}
        self.frames: list[Atoms] = []
        self.omitted: list[Omission] = []
        self.finder = DuplicateFinder(tolerance)
        self.taken: dict[str, str] = {}
        # Two of the frames as they were read, for messages about missing keys.
        self.examples: list[Atoms] = []

    def add(self, atoms: Atoms, keys: KeyMap, name: str, source: str) -> None:
        if keys.ignore_cell:
            without_cell(atoms)
        if len(self.examples) < 2:
            self.examples.append(atoms)
        source = text_or(atoms.info.get("source"), source)
        try:
            clean = self._clean(atoms, keys)
            clean.info = {"name": name, **clean.info, "source": source}
            self._refuse_duplicate(clean)
        except _Left as e:
            self._omit(name, source, str(e), e.category)
        else:
            self.frames.append(clean)
            if "reference_energy" in clean.info:
                self.taken.setdefault(source.rpartition("#")[0] or source, described(atoms, keys))

    def add_unreadable(self, path: Path, error: DataError) -> None:
        self._omit(file_stem(path), path.name, str(error), "unreadable")

    def _omit(self, name: str, source: str, reason: str, category: str) -> None:
        place = len(self.frames) + len(self.omitted)
        self.omitted.append(Omission(place, name, source, reason, category))

    def finish(self) -> LabelledDataset:
        if self.frames:
            return LabelledDataset(self.frames, self.omitted, self.taken)
        if not self.omitted:
            raise DataError("there are no frames in the data")
        categories = {o.category for o in self.omitted}
        for level in LEVELS:
            if categories == {f"missing-{level}"}:
                key = getattr(self.keys, f"{level}_energy")
                there = ", ".join(label_keys(self.examples)) or "none"
                raise DataError(
                    f"none of the {len(self.omitted)} frames has the {level} energy {key!r}; the "
                    f"numbers they have are: {there}. Name the right one with "
                    f"KeyMap({level}_energy=…), --{level}-key on the command line"
                )
        raise DataError(
            "no frame can be used; " + report_omissions(self.omitted, len(self.omitted), 3)
        )

    def _clean(self, atoms: Atoms, keys: KeyMap) -> Atoms:
        """A checked copy with canonical labels only."""
        if CONFLICT_KEY in atoms.info:
            raise _Left("geometry-mismatch", str(atoms.info[CONFLICT_KEY]))
        _check_geometry(atoms)
        charge, multiplicity = _charge_of(atoms, keys)
        consumed = keys.consumed() | KeyMap().consumed()
        info: dict[str, Any] = {"composition": "", "charge": charge, "multiplicity": multiplicity}
        clean = Atoms(atoms.numbers, atoms.positions)
        for level in LEVELS:
            try:
                energy = keys.energy(atoms, level)
                forces = keys.forces(atoms, level)
            except PredictedLabelError as e:
                raise _Left("own-prediction", str(e)) from e
            except DataError as e:
                raise _Left(f"bad-{level}", str(e)) from e
            if energy is not None and not np.isfinite(energy):
                raise _Left(f"bad-{level}", f"its {level} energy is {energy}")
            if forces is not None and not np.isfinite(forces).all():
                raise _Left(f"bad-{level}", f"its {level} forces are not all finite")
            if energy is None and self.required[level]:
                key = getattr(keys, f"{level}_energy")
                raise _Left(f"missing-{level}", f"it has no {level} energy {key!r}")
            if energy is not None:
                info[f"{level}_energy"] = energy
            if forces is not None:
                clean.new_array(f"{level}_forces", forces)
        composition = atoms.info.get(keys.composition)
        info["composition"] = text_or(composition, "") or composition_label(atoms)
        others = {k: v for k, v in atoms.info.items() if k not in consumed and k not in info}
        clean.info = {**info, **others}
        return clean

    def _refuse_duplicate(self, clean: Atoms) -> None:
        known = self.finder.find_or_add(clean, clean.info["charge"], clean.info["multiplicity"])
        if known is None:
            return
        first = self.frames[known]
        # Mirror images are not told apart: neither are they by energies or descriptors.
        same = f"it is the same structure as {first.info['name']} ({first.info['source']})"
        for level in LEVELS:
            here, there = (a.info.get(f"{level}_energy") for a in (clean, first))
            if here is not None and there is not None and abs(here - there) > SAME_ENERGY:
                difference = f"but its {level} energy is {here - there:+.4f} eV different"
                raise _Left("duplicate-conflict", f"{same}, {difference}")
        raise _Left("duplicate", same)


def _check_geometry(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise _Left("no-atoms", "it has no atoms")
    if not np.isfinite(atoms.positions).all():
        raise _Left("bad-positions", "its positions are not all finite")
    if atoms.pbc.any():
        raise _Left(
            "periodic",
            "it has periodic boundary conditions; clusters have none (KeyMap(ignore_cell=True), "
            "--ignore-cell, where the cell is an empty box and cuts no bond)",
        )
    try:
        check_structure(atoms)
    except StructureError as e:
        raise _Left("bad-structure", str(e)) from e


def _charge_of(atoms: Atoms, keys: KeyMap) -> tuple[int, int]:
    described = atoms
    if (keys.charge, keys.multiplicity) != ("charge", "multiplicity"):
        described = stated_copy(atoms)
        for name in ("charge", "multiplicity"):
            described.info.pop(name, None)
            key = getattr(keys, name)
            if key in atoms.info:
                described.info[name] = atoms.info[key]
    try:
        charge, multiplicity = resolve_charge(described)
    except ChargeError as e:
        raise _Left("charge", str(e)) from e
    except KNNCalcError as e:
        raise _Left("bad-structure", str(e)) from e
    return int(charge), int(multiplicity)
