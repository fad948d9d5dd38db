"""Minima whose thermochemistry a model has learned: no Hessian is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import Count, checked
from ase_knncalc.analysis.thermochemistry import Minimum, Thermochemistry, require_relaxed
from ase_knncalc.charges import stated_copy
from ase_knncalc.errors import SettingsError, StructureError
from ase_knncalc.heads import PropertyPrediction
from ase_knncalc.heads.prediction import require_thermochemistry
from ase_knncalc.heads.thermal import LOWEST
from ase_knncalc.model import KNNModel
from ase_knncalc.sameness import symmetry_number
from ase_knncalc.structure import resolve_charge


@dataclass(frozen=True, eq=False)
class LearnedMinimum(Minimum):
    """A :class:`Minimum` that asks a model's heads.

    Attributes
    ----------
    model : KNNModel
        With thermochemistry.
    """

    model: KNNModel | None = None

    def properties(self, **gas: Any) -> PropertyPrediction:
        """What the heads say; arguments of :meth:`KNNModel.predict_properties`."""
        assert self.model is not None
        return self.model.predict_properties(
            self.atoms, charge=self.charge, multiplicity=self.multiplicity, **gas
        )

    def at(
        self,
        temperature: float = 298.15,
        pressure: float = 101325.0,
        *,
        treatment: Any = "truhlar",
        lowest: float | None = LOWEST,
    ) -> Thermochemistry:
        """Thermal quantities, as :meth:`Minimum.at` gives them.

        Raises
        ------
        SettingsError
            If ``lowest`` is not what was learned, or the temperature is outside of it.
        StructureError
            If nothing was learned of such a formula.
        """
        if treatment != "harmonic" and lowest != LOWEST:
            raise SettingsError(
                f"thermochemistry was learned with soft modes below {LOWEST:g} cm⁻¹, got "
                f"lowest={lowest}: other limits need vibrations (knncalc thermo --hessian)"
            )
        found = self.properties(
            temperature=temperature,
            pressure=pressure,
            treatment=treatment,
            symmetry=self.symmetry,
        ).thermochemistry
        if found is None:
            raise StructureError(
                f"{self.atoms.get_chemical_formula()}: the thermochemistry of such a formula was "
                "not learned; compute vibrations (knncalc thermo --hessian)"
            )
        return Thermochemistry(
            energy=self.energy,
            zero_point=found.zero_point.value,
            enthalpy=self.energy + found.enthalpy_correction.value,
            gibbs=self.energy + found.gibbs_correction.value,
            entropy=found.entropy.value,
            energy_std=self.energy_std,
            wavenumbers=self.wavenumbers,
            temperature=temperature,
            pressure=pressure,
            numbers=tuple(sorted(self.atoms.numbers.tolist())),
            charge=self.charge,
            enthalpy_correction_std=found.enthalpy_correction.std,
            entropy_std=found.entropy.std,
            gibbs_correction_std=found.gibbs_correction.std,
        )


def learned_minimum_of(
    atoms: Atoms, *, symmetry: int | None = None, fmax: float | None = 0.05
) -> LearnedMinimum:
    """A relaxed structure with a calculator of a model that has learned thermochemistry.

    Parameters
    ----------
    atoms
        At a minimum, with a :class:`~ase_knncalc.KNNCalculator`.
    symmetry, fmax
        As for :func:`ase_knncalc.thermochemistry.gibbs_energy`; symmetry numbers are counted where
        none is given.

    Raises
    ------
    SettingsError
        If there is no such calculator, or a number makes no sense.
    StructureError
        If the structure is not relaxed, or the model does not cover it.
    """
    model = getattr(atoms.calc, "model", None)
    if not isinstance(model, KNNModel):
        raise SettingsError("learned thermochemistry needs a KNNCalculator, which has a model")
    require_thermochemistry(model.heads)
    checked("symmetry", symmetry, Count | None)
    require_relaxed(atoms, fmax)
    charge, multiplicity = resolve_charge(atoms)
    return LearnedMinimum(
        atoms=stated_copy(atoms),
        energy=float(atoms.get_potential_energy()),
        energy_std=float(atoms.calc.results["energy_std"]),
        wavenumbers=np.zeros(0),
        symmetry=symmetry_number(atoms) if symmetry is None else symmetry,
        charge=charge,
        multiplicity=multiplicity,
        model=model,
    )
