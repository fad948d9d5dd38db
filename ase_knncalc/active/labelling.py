"""From a configuration to a labeler."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ase.calculators.calculator import BaseCalculator, FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

from ase_knncalc.active.config import LabelerTable
from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.errors import LabelerError, SettingsError
from ase_knncalc.labelers import ASELabeler, Labeler, LookupLabeler, PySCFLabeler

# What ASE's own calculators understand beyond the parameters that they declare; () where programs
# have charge or spin in another place than an argument.
_UNDECLARED: dict[str, tuple[str, ...]] = {
    "ase.calculators.gamess_us.GAMESSUS": (),
    "ase.calculators.nwchem.NWChem": ("charge",),
    "ase.calculators.psi4.Psi4": ("charge", "multiplicity"),
    "ase.calculators.qchem.QChem": ("multiplicity",),
}
# Arguments of every calculator, which say nothing of what is computed.
_COMMON = {"self", "restart", "ignore_bad_restart_file", "ignore_bad_restart", "label", "atoms",
           "directory", "command", "profile"}  # fmt: skip
_KEYS = {"charge": ("charge",), "multiplicity": ("mult", "multiplicity")}


@dataclass(frozen=True)
class NamedCalculator:
    """Makes an ASE calculator by name for a charge and a multiplicity.

    Attributes
    ----------
    name : str
        As ASE has it (``"orca"``), or a class with its module (``"tblite.ase.TBLite"``).
    options : dict
        Arguments.
    charge_key, multiplicity_key : str or None
        Names of the arguments for charge and multiplicity. None: found in what the class declares;
        empty: it has none. Without them it labels neutral structures, and singlets, alone.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    charge_key: str | None = None
    multiplicity_key: str | None = None

    def calculator_class(self) -> type[BaseCalculator]:
        """The class, loaded.

        Raises
        ------
        SettingsError
            If there is no such calculator.
        """
        module, _, name = self.name.rpartition(".")
        try:
            if module:
                found: type[BaseCalculator] = getattr(importlib.import_module(module), name)
            else:
                from ase.calculators.calculator import get_calculator_class

                found = get_calculator_class(name)
        except (ImportError, AttributeError) as e:
            raise SettingsError(
                f"labeler.calculator: {self.name!r} is neither a name that ASE knows nor a class "
                f"that can be imported ({e})"
            ) from e
        return found

    def keys(self) -> tuple[str, str]:
        """Names of the arguments for charge and multiplicity; empty where there is none.

        ASE's calculators take arguments that they do not know without a word, so that a wrong name
        would give every structure the energy of a neutral singlet.

        Raises
        ------
        SettingsError
            If there is no such calculator, or it declares its parameters and a name is not among
            them.
        """
        known, open_ended = _parameters(self.calculator_class())
        found = []
        for what, given in (("charge", self.charge_key), ("multiplicity", self.multiplicity_key)):
            if given is None:
                known_names = [k for k in _KEYS[what] if k in known]
                default = _KEYS[what][0] if open_ended is _Open.PROGRAM else ""
                found.append(known_names[0] if known_names else default)
                continue
            if given and given not in known and open_ended is _Open.NO:
                raise SettingsError(
                    f"labeler.{what}_key: {self.name!r} has no parameter {given!r}; it has "
                    f"{', '.join(sorted(known)) or 'none'}. Leave the key away to have it found"
                )
            found.append(given)
        return found[0], found[1]

    def __call__(self, charge: int, multiplicity: int) -> BaseCalculator:
        """A fresh calculator.

        Raises
        ------
        LabelerError
            If it cannot be told of this charge or multiplicity.
        """
        options = dict(self.options)
        values = (("charge", charge, 0), ("multiplicity", multiplicity, 1))
        for key, (what, value, default) in zip(self.keys(), values, strict=True):
            if key:
                options[key] = value
            elif value != default:
                raise LabelerError(
                    f"calculator {self.name!r} has no parameter for the {what}, and would compute "
                    f"this structure, of {what} {value}, as if it were {default}; if it has one "
                    f"that it does not declare, name it in labeler.{what}_key"
                )
        return self.calculator_class()(**options)


class _Open(Enum):
    """Whether a calculator takes arguments that it does not declare."""

    NO = "declares what it has"
    PROGRAM = "writes whatever it is given into the input of a program"
    SILENT = "declares nothing, and may ignore whatever it is given"


def _parameters(kind: Any) -> tuple[set[str], _Open]:
    """Parameters that a calculator's class (or function) declares, and whether it takes others."""
    try:
        signature = list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        signature = []
    named = {p.name for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    strict = bool(signature) and not any(p.kind is p.VAR_KEYWORD for p in signature)
    declared = set(getattr(kind, "default_parameters", None) or ())
    undeclared = _UNDECLARED.get(f"{kind.__module__}.{getattr(kind, '__qualname__', '')}")
    known = (declared | named | set(undeclared or ())) - _COMMON
    if strict or declared or undeclared is not None:
        return known, _Open.NO
    if isinstance(kind, type) and issubclass(kind, FileIOCalculator | GenericFileIOCalculator):
        return known, _Open.PROGRAM
    return known, _Open.SILENT


def make_labeler(table: LabelerTable) -> Labeler:
    """The labeler of a configuration, after a look at whether it could work.

    Raises
    ------
    SettingsError
        If options do not fit the labeler.
    LabelerError
        If it needs PySCF, and that is not installed.
    DataError
        If labelled structures cannot be read.
    """
    if table.kind == "lookup":
        keys = KeyMap(reference_energy=table.reference_key)
        frames = read_dataset(table.files, keys=keys).frames
        if table.reference_key != KeyMap.reference_energy:
            for atoms in frames:  # it is the method of another energy
                atoms.info.pop("reference_method", None)
        try:
            return LookupLabeler(frames, **table.options)
        except (TypeError, SettingsError) as e:
            raise SettingsError(f"labeler.options: {e}") from None
    if table.kind == "ase":
        factory = NamedCalculator(
            table.calculator, table.options, table.charge_key, table.multiplicity_key
        )
        try:
            factory(0, 1)
        except SettingsError:
            raise
        except Exception as e:  # a calculator raises what it likes
            raise SettingsError(
                f"labeler.options: ASE cannot set up {table.calculator!r} with them: "
                f"{type(e).__name__}: {e}"
            ) from e
        return ASELabeler(factory, table.method, table.energies_only)
    try:
        labeler = PySCFLabeler(**table.options)
        labeler.check()
    except (TypeError, SettingsError) as e:
        raise SettingsError(f"labeler.options: {e}") from None
    return labeler
