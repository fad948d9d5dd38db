"""Any ASE calculator as the reference method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_knncalc.errors import KNNCalcError, LabelerError, SettingsError
from ase_knncalc.labelers.base import Label, finite_label
from ase_knncalc.labelers.folders import fresh_folders
from ase_knncalc.structure import resolve_charge, structure_label


class ASELabeler:
    """Labels of any ASE calculator, configured as ASE has it.

    Parameters
    ----------
    calculator
        A calculator, or a factory ``factory(charge, multiplicity)`` that makes a fresh one for each
        structure. A factory is needed for structures that are charged or no singlets, unless the
        calculator is set to their charge and multiplicity, and where a calculator cannot be sent to
        another process.
    method
        Name of its level of theory, for provenance.
    energies_only
        For methods without gradients, as DLPNO-CCSD(T) single points: forces are not asked for.
        Where they are, and the calculator says that it has none, labels are energies, too.

    Notes
    -----
    Each calculation has a fresh folder, so that several may run at a time: a temporary one (see
    ``TMPDIR``), or, where the calculator was given a ``directory``, a new one in there, which stays
    if the calculation fails. Paths in its options should thus be absolute. Calculators that work in
    the current folder whatever their ``directory`` says (Turbomole) must run one at a time.

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
        name = structure_label(atoms)
        calculator = self._calculator(name, charge, multiplicity)
        copy = atoms.copy()
        copy.calc = calculator
        with fresh_folders(calculator, name) as folders:
            try:
                energy = float(copy.get_potential_energy())
                forces = self._forces(copy)
                return finite_label(atoms, energy, forces, start, self.method)
            except LabelerError as e:
                raise LabelerError(f"{e}{folders.files()}") from e.__cause__
            except Exception as e:
                raise LabelerError(
                    f"{self.method} ({type(calculator).__name__}) failed for {name}: "
                    f"{type(e).__name__}: {e}{folders.files()}"
                ) from e

    def _forces(self, atoms: Atoms) -> np.ndarray | None:
        """Forces, None where the calculator has none: the energy has been paid for."""
        if not self.provides_forces:
            return None
        try:
            return np.array(atoms.get_forces())
        except NotImplementedError:  # PropertyNotImplementedError, and what others raise
            return None

    def _calculator(self, name: str, charge: int, multiplicity: int) -> BaseCalculator:
        if isinstance(self.calculator, BaseCalculator):
            self._check_state(self.calculator, name, charge, multiplicity)
            return self.calculator
        try:
            return self.calculator(charge, multiplicity)
        except KNNCalcError as e:
            raise LabelerError(f"{name}: {e}") from e
        except Exception as e:
            raise LabelerError(
                f"{name}: {self.method} cannot be set up: {type(e).__name__}: {e}"
            ) from e

    def _check_state(
        self, calculator: BaseCalculator, name: str, charge: int, multiplicity: int
    ) -> None:
        """Refuse a structure of another charge or spin than the calculator is set to.

        What it does where it is not set to any is its own affair (some take the lowest, some a
        closed shell, most know nothing of spins): only neutral singlets are sure to be meant.
        """
        settings: Mapping[str, Any] = getattr(calculator, "parameters", None) or {}
        own_charge = settings.get("charge") or 0
        own_multiplicity = settings.get("multiplicity") or settings.get("mult")
        if own_charge != charge or (own_multiplicity or 1) != multiplicity:
            raise LabelerError(
                f"{name} has charge {charge} and multiplicity {multiplicity}, the calculator is "
                f"set to {own_charge} and {own_multiplicity or 'no multiplicity'}: pass a factory "
                "(charge, multiplicity) -> calculator"
            )
