"""Any ASE calculator as the reference method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_knncalc.errors import LabelerError, SettingsError
from ase_knncalc.labelers.base import Label, finite_label
from ase_knncalc.structure import resolve_charge, structure_label


class ASELabeler:
    """Labels of any ASE calculator, configured as ASE has it.

    Parameters
    ----------
    calculator
        A calculator, or a factory ``factory(charge, multiplicity)`` that makes a fresh one for each
        structure. A factory is needed for charged structures and where a calculator cannot be sent
        to another process.
    method
        Name of its level of theory, for provenance.
    energies_only
        For methods without gradients, as DLPNO-CCSD(T) single points: forces are not asked for.

    Examples
    --------
    >>> from ase.calculators.emt import EMT
    >>> ASELabeler(EMT(), "EMT").provides_forces
    True
    """

    def __init__(
        self,
        calculator: BaseCalculator | Callable[[int, int], BaseCalculator],
        method: str,
        energies_only: bool = False,
    ) -> None:
        if not (isinstance(calculator, BaseCalculator) or callable(calculator)):
            raise SettingsError(
                f"calculator is a {type(calculator).__name__}; expected an ASE calculator or a "
                "function (charge, multiplicity) that returns one"
            )
        self.calculator = calculator
        self.method = method
        self.provides_forces = not energies_only

    def label(self, atoms: Atoms) -> Label:
        """Single point with the calculator."""
        start = time.perf_counter()
        charge, multiplicity = resolve_charge(atoms)
        if isinstance(self.calculator, BaseCalculator):
            calculator = self.calculator
            self._check_state(calculator, charge, multiplicity)
        else:
            calculator = self.calculator(charge, multiplicity)
        copy = atoms.copy()
        copy.calc = calculator
        try:
            energy = float(copy.get_potential_energy())
            forces = np.array(copy.get_forces()) if self.provides_forces else None
        except Exception as e:
            raise LabelerError(
                f"{self.method} ({type(calculator).__name__}) failed for "
                f"{structure_label(atoms)}: {type(e).__name__}: {e}"
            ) from e
        return finite_label(atoms, energy, forces, start, self.method)

    def _check_state(self, calculator: BaseCalculator, charge: int, multiplicity: int) -> None:
        settings: Mapping[str, Any] = getattr(calculator, "parameters", None) or {}
        own_charge = settings.get("charge") or 0
        own_multiplicity = settings.get("multiplicity", settings.get("mult"))
        if own_charge != charge or own_multiplicity not in (None, multiplicity):
            raise LabelerError(
                f"the structure has charge {charge} and multiplicity {multiplicity}, the "
                f"calculator is set to {own_charge} and {own_multiplicity or 'its default'}: pass "
                "a factory (charge, multiplicity) -> calculator"
            )
