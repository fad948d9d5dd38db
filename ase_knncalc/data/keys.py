"""Under which names, and in which units, a file holds its labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from ase_knncalc._lib.arguments import OneOf, Settings, instance
from ase_knncalc.data.own import own_prediction
from ase_knncalc.errors import DataError, PredictedLabelError, SettingsError

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "Hartree": units.Hartree,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
"""Energy units that :class:`KeyMap` knows, in eV."""

FORCE_UNITS: dict[str, float] = {
    "eV/Å": 1.0,
    "Hartree/Bohr": units.Hartree / units.Bohr,
    "Hartree/Å": units.Hartree,
    "kcal/mol/Å": units.kcal / units.mol,
}
"""Force units that :class:`KeyMap` knows, in eV/Å."""


AUTO = "auto"
"""As :attr:`KeyMap.reference_energy`: the one energy that a file has."""

UNKNOWN_UNIT = "unknown"
"""In ``info["energy_unit"]`` of a frame whose comment line has an energy without its unit."""

UNIT_KEYS = ("energy_unit", "energy_units")
"""Keys in ``info`` under which files say the unit of their energies."""

_UNIT_NAMES = {
    **dict.fromkeys(("ev", "electronvolt"), "eV"),
    **dict.fromkeys(("hartree", "hartrees", "ha", "eh", "au"), "Hartree"),
    **dict.fromkeys(("kcalmol", "kcalpermol", "kcal"), "kcal/mol"),
    **dict.fromkeys(("kjmol", "kjpermol", "kj"), "kJ/mol"),
}
_UNIT_SUFFIX = re.compile(
    r"[_\-. (\[]+(hartrees?|ha|eh|a\.?u\.?|ev|(?:kcal|kj)(?:[/_]?(?:per_?)?mol)?)[)\]]?\Z",
    re.IGNORECASE,
)


Key = Annotated[str, MinLen(1)]


@dataclass(frozen=True)
class KeyMap(Settings):
    """Names of the labels in a file, and their units.

    Energies are looked for in ``info`` and then among the results of the attached
    ``SinglePointCalculator`` (``energy`` is there), forces in ``arrays``, ``info`` (databases keep
    arrays there) and the results.

    Parameters
    ----------
    reference_energy, baseline_energy
        Keys of the energies, such as ``"wb97xd_energy"`` and ``"gfn1_energy"``. ``"auto"`` as
        ``reference_energy`` is the one energy that each file has, by whatever name
        (:func:`~ase_knncalc.data.choosing.choose_key`).
    reference_forces, baseline_forces
        Keys of the forces. If the key of the energy is given and this one is left as it is, the
        matching name is tried: ``wb97xd_forces`` for ``wb97xd_energy``, ``forces`` for ``energy``.
        Forces under the default name are not taken then: they may be of another method.
    name, composition, charge, multiplicity
        Keys in ``info`` of what describes a frame.
    energy_unit
        Unit of both energies in the file: ``"eV"``, ``"Hartree"``, ``"kcal/mol"`` or ``"kJ/mol"``,
        unless a key says it (``dft_energy_hartree``), or a frame in ``info["energy_unit"]``.
    force_unit
        Unit of both forces: ``"eV/Å"``, ``"Hartree/Bohr"``, ``"Hartree/Å"`` or ``"kcal/mol/Å"``.
        Or a number: the factor that turns the forces in the file into eV/Å.
        Left out, it is eV/Å beside energies in eV; beside others it has to be said if there are
        forces.
    own_predictions
        Whether energies that this package predicted are taken for reference energies.
    ignore_cell
        Whether periodic structures are taken for molecules in an empty box. One that is bound to
        its image, or cut by the border of the cell, is not.

    Raises
    ------
    SettingsError
        Unknown unit or empty key.
    """

    reference_energy: Key = "reference_energy"
    reference_forces: Key = "reference_forces"
    baseline_energy: Key = "baseline_energy"
    baseline_forces: Key = "baseline_forces"
    name: Key = "name"
    composition: Key = "composition"
    charge: Key = "charge"
    multiplicity: Key = "multiplicity"
    energy_unit: Annotated[str, OneOf(tuple(ENERGY_UNITS))] = "eV"
    force_unit: str | float | None = None
    own_predictions: bool = False
    ignore_cell: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        unit = self.force_unit
        if unit not in FORCE_UNITS and not (unit is None or (isinstance(unit, float) and unit > 0)):
            raise SettingsError(
                f"force_unit={self.force_unit!r} is unknown; choose {_choices(FORCE_UNITS)}, or "
                "give the number that turns the forces into eV/Å"
            )

    @property
    def text_keys(self) -> tuple[str, ...]:
        """Keys whose values stay text when extended XYZ is read."""
        return (self.name, self.composition, "name", "composition", "source", "citation")

    def forces_key(self, level: str) -> str | None:
        """Key of the forces of ``level``, ``"reference"`` or ``"baseline"``."""
        energy_key: str = getattr(self, f"{level}_energy")
        forces_key: str | None = getattr(self, f"{level}_forces")
        if energy_key == f"{level}_energy" or forces_key != f"{level}_forces":
            return forces_key
        if energy_key in ("energy", "free_energy"):
            return "forces"
        if energy_key.endswith("_energy"):
            return energy_key.removesuffix("energy") + "forces"
        return None

    def energy(self, atoms: Atoms, level: str) -> float | None:
        """Energy of ``level`` in eV, or None if the frame has none.

        Raises
        ------
        DataError
            What is under the key is not one number, or its unit is another than the one given or
            not known.
        PredictedLabelError
            It is a reference energy that this package predicted.
        """
        key = getattr(self, f"{level}_energy")
        value = find_label(atoms, key)
        if value is None:
            return None
        if isinstance(value, (bool, np.bool_, str)) or np.size(value) != 1:
            raise DataError(f"{key!r} should be one number, but it is {_describe(value)}")
        try:
            energy = float(np.asarray(value, dtype=float).reshape(()))
        except (TypeError, ValueError):
            raise DataError(f"{key!r} should be one number, but it is {_describe(value)}") from None
        energy *= ENERGY_UNITS[self._unit(atoms, key)]
        if level == "reference" and not self.own_predictions:
            why = own_prediction(atoms, key, energy)
            if why:
                raise PredictedLabelError(
                    f"{why}, and no label; KeyMap(own_predictions=True), --own-predictions of "
                    "convert, train and append, takes it all the same"
                )
        return energy

    def _unit(self, atoms: Atoms, key: str) -> str:
        """Unit of the energy under a key: what the frame says, or else what was given."""
        said = said_unit(atoms, key)
        if said == UNKNOWN_UNIT and self.energy_unit == "eV":
            raise DataError(
                f"the unit of {key!r} in its comment line is not said; give it with "
                "KeyMap(energy_unit=…), --energy-unit, or write energy=… for eV"
            )
        if said in (None, UNKNOWN_UNIT):
            return self.energy_unit
        if self.energy_unit not in ("eV", said):
            raise DataError(
                f"{key!r} is in {said}, as the file says, and not in {self.energy_unit}, as was "
                "given"
            )
        return str(said)

    def forces(self, atoms: Atoms, level: str) -> np.ndarray | None:
        """Forces of ``level``, shape (n_atoms, 3) in eV/Å, or None if the frame has none.

        Raises
        ------
        DataError
            What is under the key has another shape or is no number, or its unit is not known.
        """
        key = self.forces_key(level)
        value = None if key is None else find_label(atoms, key)
        if value is None:
            return None
        unit_said = self._unit(atoms, getattr(self, f"{level}_energy"))
        if self.force_unit is None and unit_said != "eV":
            raise SettingsError(
                f"energies are in {unit_said}, and the unit of the forces {key!r} is not "
                f"said; give force_unit, one of {_choices(FORCE_UNITS)}"
            )
        try:
            forces = np.array(value, dtype=float)
        except (TypeError, ValueError):
            raise DataError(f"{key!r} should be forces, but it is {_describe(value)}") from None
        if forces.shape != (len(atoms), 3):
            raise DataError(
                f"{key!r} has shape {forces.shape}, but forces on {len(atoms)} atoms have shape "
                f"({len(atoms)}, 3)"
            )
        unit = self.force_unit or "eV/Å"
        return forces * (FORCE_UNITS[unit] if isinstance(unit, str) else unit)

    def consumed(self) -> set[str]:
        """Keys of a file that become canonical ones."""
        no_keys = ("energy_unit", "force_unit", "own_predictions", "ignore_cell")
        names = set(self.__dataclass_fields__) - set(no_keys)
        return (
            {getattr(self, f) for f in names}
            | {*UNIT_KEYS}
            | {key for level in LEVELS if (key := self.forces_key(level)) is not None}
        )


def key_map(keys: KeyMap | None) -> KeyMap:
    """The keys that were given, or the default names."""
    return KeyMap() if keys is None else instance("keys", keys, KeyMap)


LEVELS = ("reference", "baseline")


def find_label(atoms: Atoms, key: str) -> Any:
    """What a frame holds under ``key``: in ``info``, ``arrays`` or its calculator's results."""
    if key in atoms.info:
        return atoms.info[key]
    if key in atoms.arrays:
        return atoms.arrays[key]
    calculator = atoms.calc
    if isinstance(calculator, BaseCalculator):
        # Not .results: those may belong to positions that the frame had before.
        try:
            return calculator.get_property(key, atoms, allow_calculation=False)
        except (PropertyNotImplementedError, KeyError):
            return None
    return getattr(calculator, "results", {}).get(key)


def label_keys(frames: Iterable[Atoms]) -> list[str]:
    """Names of everything in the frames that could be an energy, sorted."""
    found: set[str] = set()
    for atoms in frames:
        for key, value in atoms.info.items():
            if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
                found.add(key)
        results = getattr(atoms.calc, "results", {})
        found.update(key for key in ("energy", "free_energy") if results.get(key) is not None)
    return sorted(found)


def unit_named(text: Any) -> str:
    """The unit that a word means, as :data:`ENERGY_UNITS` has it.

    Raises
    ------
    DataError
        If it is none of them.
    """
    unit = _UNIT_NAMES.get(re.sub(r"[^a-z]", "", str(text).lower()))
    if unit is None:
        raise DataError(f"{text!r} is no unit of energies; known are {_choices(ENERGY_UNITS)}")
    return unit


def is_unit(word: str) -> bool:
    """Whether a word is the name of a unit of energies."""
    return word.lower().replace("/", "").replace(".", "") in _UNIT_NAMES


def said_unit(atoms: Atoms, key: str) -> str | None:
    """Unit that the key of an energy or the frame says, None where nothing does.

    Raises
    ------
    DataError
        If what the frame says is no unit.
    """
    match = _UNIT_SUFFIX.search(key)
    if match:
        return unit_named(match[1])
    said = next((atoms.info[name] for name in UNIT_KEYS if name in atoms.info), None)
    return said if said is None or said == UNKNOWN_UNIT else unit_named(said)


def _choices(table: dict[str, float]) -> str:
    return ", ".join(table)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
