"""Labels that are known already, given out as if they were computed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import Positive, checked
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import DataError, LabelerError
from ase_knncalc.labelers.base import Label
from ase_knncalc.sameness import SAME_IN_LOOKUP, centred, largest_shift
from ase_knncalc.structure import plain_text, resolve_charge, structure_label


class LookupLabeler:
    """An oracle: labels from a file, given out as if they were computed.

    A structure is known if its atoms, in order, lie within ``tolerance`` of those of a labelled
    frame of the same charge and multiplicity, up to a translation. The name only narrows the
    search: a frame that kept its name but moved is not known.

    Parameters
    ----------
    frames
        Labelled structures. Labels carry the method that ``info["reference_method"]`` names; it
        is that of ``reference_energy`` and not looked at where ``energy_key`` is another.
    energy_key, forces_key
        Where labels are: ``info[energy_key]``, and ``arrays[forces_key]`` where all frames have it.
    tolerance
        Å.

    Raises
    ------
    DataError
        If a frame has no energy, or frames are of different methods.
    SettingsError
        If the tolerance is no positive number.
    """

    in_process = True  # nothing to crash, and its frames need not travel to other processes

    def __init__(
        self,
        frames: Sequence[Atoms],
        energy_key: str = "reference_energy",
        forces_key: str = "reference_forces",
        tolerance: float = SAME_IN_LOOKUP,
    ) -> None:
        unnamed = f"labels known before ({energy_key})"
        self.tolerance = checked("tolerance", tolerance, Positive)
        self.provides_forces = bool(frames) and all(forces_key in a.arrays for a in frames)
        self._labels: list[tuple[float, FloatArray | None, str]] = []
        named: tuple[str, str] | None = None  # a method, and the frame that is of it
        members: dict[tuple[int, int, bytes], list[int]] = {}
        for i, atoms in enumerate(frames):
            if energy_key not in atoms.info:
                raise DataError(
                    f"{structure_label(atoms, i)} has no info[{energy_key!r}]; it has "
                    f"{sorted(atoms.info)}: give energy_key"
                )
            forces = np.array(atoms.arrays[forces_key]) if self.provides_forces else None
            method = ""
            if energy_key == "reference_energy":
                method = plain_text(atoms.info.get("reference_method", ""))
            if method and named is None:
                named = method, structure_label(atoms, i)
            elif method and named is not None and method != named[0]:
                raise DataError(
                    f"labels of two methods: {named[0]!r} ({named[1]}) and {method!r} "
                    f"({structure_label(atoms, i)}, info['reference_method']); give frames of one"
                )
            self._labels.append((float(atoms.info[energy_key]), forces, method or unnamed))
            members.setdefault(self._key(atoms), []).append(i)
        self.method = named[0] if named is not None else unnamed
        self._members = {key: np.array(rows) for key, rows in members.items()}
        self._geometries = {
            key: np.stack([centred(frames[i]) for i in rows]) for key, rows in members.items()
        }

    @staticmethod
    def _key(atoms: Atoms) -> tuple[int, int, bytes]:
        return *resolve_charge(atoms), atoms.numbers.astype("<i8").tobytes()

    def label(self, atoms: Atoms) -> Label:
        """Label of the frame that has this geometry."""
        start = time.perf_counter()
        key = self._key(atoms)
        name = structure_label(atoms)
        if key not in self._members:
            raise LabelerError(
                f"{name}: no labelled frame has its {len(atoms)} atoms in this order at charge "
                f"{key[0]} and multiplicity {key[1]}; a lookup cannot label new structures"
            )
        offsets = largest_shift(centred(atoms), self._geometries[key])
        best = int(np.argmin(offsets))
        if not offsets[best] <= self.tolerance:
            raise LabelerError(
                f"{name}: the nearest labelled frame differs by {offsets[best]:.3g} Å, more than "
                f"{self.tolerance:g} Å; a lookup cannot label new structures"
            )
        energy, forces, method = self._labels[self._members[key][best]]
        copy = None if forces is None else forces.copy()
        return Label(energy, copy, time.perf_counter() - start, method)
