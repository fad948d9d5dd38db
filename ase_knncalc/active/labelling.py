"""From a configuration to a labeler."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from ase.calculators.calculator import BaseCalculator

from ase_knncalc.active.config import LabelerTable
from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.errors import SettingsError
from ase_knncalc.labelers import ASELabeler, Labeler, LookupLabeler, PySCFLabeler


@dataclass(frozen=True)
class NamedCalculator:
    """Makes an ASE calculator by name for a charge and a multiplicity.

    Attributes
    ----------
    name : str
        As ASE has it (``"orca"``), or a class with its module (``"tblite.ase.TBLite"``).
    options : dict
        Arguments.
    charge_key, multiplicity_key : str
        Names of the arguments for charge and multiplicity; empty: not passed.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    charge_key: str = "charge"
    multiplicity_key: str = "mult"

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
                found = getattr(importlib.import_module(module), name)
            else:
                from ase.calculators.calculator import get_calculator_class

                found = get_calculator_class(name)
        except (ImportError, AttributeError) as e:
            raise SettingsError(
                f"labeler.calculator: {self.name!r} is neither a name that ASE knows nor a class "
                f"that can be imported ({e})"
            ) from e
        return found

    def __call__(self, charge: int, multiplicity: int) -> BaseCalculator:
        """A fresh calculator."""
        options = dict(self.options)
        if self.charge_key:
            options[self.charge_key] = charge
        if self.multiplicity_key:
            options[self.multiplicity_key] = multiplicity
        return self.calculator_class()(**options)


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
