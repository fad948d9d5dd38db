"""Any ASE calculator as baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase import __version__ as ase_version

from ase_knncalc._lib.arguments import checked
from ase_knncalc.baselines.base import SinglePoint, require_finite
from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.structure import Label

ChargeVia = Literal["auto", "initial_charges", "ignore"]


class ASEBaseline:
    """Any ASE calculator as baseline.

    The calculator sees a copy of the atoms and is reset before each call, so that what it kept
    from earlier structures does not enter. For the same reason the option ``cache_api`` of the
    ASE calculators of tblite and xtb is switched off. The calculator belongs to the baseline from
    then on: do not use it elsewhere at the same time.

    A model knows the calculator by its class and ``parameters``. Weights, files or attributes that
    are not among them go unnoticed when a model is loaded with another calculator of the same
    class; label caches are compared with the calculator before they are used.

    Parameters
    ----------
    calculator : ase.calculators.calculator.BaseCalculator
        It has to give energies in eV and, where forces are wanted, forces in eV/Å.
    charge_via : {"auto", "initial_charges", "ignore"}, default "auto"
        How the calculator learns of charge and multiplicity:

        - ``"auto"``: by its parameter ``charge`` (and ``multiplicity`` or ``mult``), if it has
          one. Otherwise structures have to be neutral: most calculators ignore a charge
          silently, and the energy of an ion would be that of something else.
        - ``"initial_charges"``: by initial charges and magnetic moments with the right sums, for
          calculators that read them (``xtb.ase.calculator.XTB``, for example).
        - ``"ignore"``: not at all, for force fields and machine-learned potentials to which an
          ion is just another arrangement of atoms.

    Raises
    ------
    SettingsError
        If ``calculator`` is not an ASE calculator, or ``charge_via`` not one of the above.
    """

    library = "ase"
    is_none = is_given = is_repeatable = False

    def __init__(self, calculator: Any, charge_via: ChargeVia = "auto") -> None:
        if isinstance(calculator, type) or not hasattr(calculator, "get_potential_energy"):
            raise SettingsError(
                f"expected an ASE calculator object, got {calculator!r}; "
                "create one first, such as `EMT()`"
            )
        self.charge_via = checked("charge_via", charge_via, ChargeVia)
        self.calculator = calculator
        if "cache_api" in self._parameters():
            calculator.set(cache_api=False)

    @property
    def method(self) -> str:
        """Class name of the calculator."""
        return type(self.calculator).__name__

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Energy in eV of a copy of the atoms.

        Raises BaselineError if the calculator fails, gives NaN, or cannot be told of the charge.
        """
        with self._prepared(atoms, charge, multiplicity) as copy:
            energy = float(copy.get_potential_energy())
        require_finite(energy, "energy", self, Label(atoms))
        return energy

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Energy in eV and forces of shape (n_atoms, 3) in eV/Å; errors as for :meth:`energy`."""
        point = self.single_point(atoms, charge, multiplicity, ("forces",))
        assert point.forces is not None
        return point.energy, point.forces

    @property
    def properties(self) -> tuple[str, ...]:
        """``"charges"`` and ``"dipole"``, where the calculator says that it has them."""
        known = getattr(self.calculator, "implemented_properties", ())
        return tuple(name for name in ("charges", "dipole") if name in known)

    def single_point(
        self, atoms: Atoms, charge: int, multiplicity: int, wanted: Collection[str] = ()
    ) -> SinglePoint:
        """Energy and what is wanted besides; errors as for :meth:`energy`."""
        found = {}
        label = Label(atoms)
        with self._prepared(atoms, charge, multiplicity) as copy:
            # The energy last: many programs then give all in one run.
            ask: dict[str, Callable[[], Any]] = {
                "forces": lambda: copy.get_forces(apply_constraint=False),
                "charges": copy.get_charges,
                "dipole": copy.get_dipole_moment,
            }
            for name in ("forces", *self.properties):
                if name in wanted:
                    found[name] = np.array(ask[name](), dtype=float)
            energy = float(copy.get_potential_energy())
        shapes = {"forces": (len(atoms), 3), "charges": (len(atoms),), "dipole": (3,)}
        for name, values in found.items():
            if values.shape != shapes[name]:
                raise BaselineError(
                    f"{self.method} (ase) returned {name} of shape {values.shape} for {label}; "
                    f"expected {shapes[name]}"
                )
            require_finite(values, name, self, label)
        require_finite(energy, "energy", self, label)
        return SinglePoint(energy, **found)

    def spec(self) -> dict[str, str]:
        """Method, library, version of ASE, and the calculator's parameters as JSON."""
        settings = {
            key: value
            for key, value in self._parameters().items()
            if key not in ("charge", "multiplicity", "mult")  # of a structure, not of the method
        }
        return {
            "method": self.method,
            "library": self.library,
            "version": ase_version,
            "charge_via": self.charge_via,
            # Objects are named by their type: their repr may hold an address, new in each run.
            "parameters": json.dumps(settings, sort_keys=True, default=_plain),
        }

    def _parameters(self) -> dict[str, Any]:
        defaults = getattr(self.calculator, "default_parameters", None) or {}
        return {**defaults, **(getattr(self.calculator, "parameters", None) or {})}

    @contextmanager
    def _prepared(self, atoms: Atoms, charge: int, multiplicity: int) -> Iterator[Atoms]:
        """A copy of the atoms with the calculator, ready for this charge; errors translated."""
        label = Label(atoms)
        where = f"{self.method} (ase) failed for {label} with charge {charge:+d}"
        parameters = self._parameters()
        if self.charge_via == "auto" and charge != 0 and "charge" not in parameters:
            raise BaselineError(
                f"{label} has charge {charge:+d}, but the calculator {self.method} has no "
                "parameter 'charge'; wrap it as ASEBaseline(calculator, "
                "charge_via='initial_charges') if it reads initial charges, or 'ignore' if its "
                "energies of ions are right without"
            )
        try:
            copy = atoms.copy()
            if self.charge_via == "auto" and "charge" in parameters:
                state = {"charge": charge}
                for key in ("multiplicity", "mult"):
                    if key in parameters:
                        state[key] = multiplicity
                setter: Callable[..., Any] = getattr(
                    self.calculator, "set", self.calculator.parameters.update
                )
                setter(**state)
            elif self.charge_via == "initial_charges":
                _spread(copy, charge, multiplicity)
            if hasattr(self.calculator, "reset"):
                self.calculator.reset()
            copy.calc = self.calculator
            yield copy
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise BaselineError(f"{where}, multiplicity {multiplicity}: {text}") from error


def _spread(atoms: Atoms, charge: int, multiplicity: int) -> None:
    """Give initial charges and moments the right sums; those that have them already stay."""
    unpaired = multiplicity - 1
    if abs(atoms.get_initial_charges().sum() - charge) > 1e-3:
        atoms.set_initial_charges(np.full(len(atoms), charge / len(atoms)))
    if abs(abs(atoms.get_initial_magnetic_moments().sum()) - unpaired) > 1e-3:
        atoms.set_initial_magnetic_moments(np.full(len(atoms), unpaired / len(atoms)))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return f"{type(value).__module__}.{type(value).__qualname__}"
