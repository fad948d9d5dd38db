"""From what heads say to properties of a structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import Count, OneOf, Positive, checked
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import SettingsError
from ase_knncalc.heads.dipole import Dipole, about_nuclei, dipole_corrections, has_dipole
from ase_knncalc.heads.head import Head, HeadEstimate, Heads
from ase_knncalc.heads.result import PropertyPrediction, Quantity, Thermal
from ase_knncalc.heads.thermal import require_temperature, thermal_values
from ase_knncalc.heads.vibrations import TREATMENTS, rigid_body
from ase_knncalc.sameness import symmetry_number
from ase_knncalc.trend.base import composition_columns


@dataclass(frozen=True)
class Gas:
    """An ideal gas of structures that turn and vibrate.

    Parameters
    ----------
    temperature, pressure
        K (200 to 400) and Pa.
    treatment
        Of modes softer than 100 cm⁻¹, see :func:`ase_knncalc.thermochemistry.gibbs_energy`.
    symmetry
        Rotational symmetry number; None counts.
    """

    temperature: float = 298.15
    pressure: float = 101325.0
    treatment: str = "truhlar"
    symmetry: int | None = 1

    def __post_init__(self) -> None:
        checked("temperature", self.temperature, Positive)
        checked("pressure", self.pressure, Positive)
        checked("treatment", self.treatment, Annotated[str, OneOf(TREATMENTS)])
        checked("symmetry", self.symmetry, Count | None)


def require_heads(heads: Heads | None) -> Heads:
    """The heads of a model; raises :class:`SettingsError` where it has none."""
    if heads is None:
        raise SettingsError(
            "this model knows energies alone: of the shipped models, multibase-wb97xd has "
            "thermochemistry, polarizability and dipoles; ase_knncalc.training.add_properties and "
            "knncalc add-properties give them to a model"
        )
    return heads


def require_thermochemistry(heads: Heads | None) -> None:
    """Raise :class:`SettingsError` where no thermochemistry was learned."""
    if not any(head.kind == "thermochemistry" for head in require_heads(heads)):
        raise SettingsError(
            "this model has not learned thermochemistry: of the shipped models, multibase-wb97xd "
            "has; knncalc add-properties gives it to a model, from harmonic frequencies"
        )


def properties_of(
    heads: Heads,
    batch: FeatureBatch,
    structures: Sequence[tuple[Atoms, int]],
    gas: Gas,
    dipoles: Sequence[FloatArray] | None = None,
) -> list[PropertyPrediction]:
    """Properties of structures whose descriptors are known.

    Parameters
    ----------
    heads, gas
        Those of the model, and the state of the gas.
    batch
        Of the structures; kernels that it keeps are not computed again.
    structures
        Each with its multiplicity.
    dipoles
        The baseline's, e Å, where they are wanted and were learned.

    Raises
    ------
    SettingsError
        If there is thermochemistry, and the temperature is not between 200 and 400 K.
    """
    free = composition_columns(batch, heads.environments.elements)
    estimates = heads.evaluate(batch)
    moments: Sequence[Dipole | None] = [None] * len(structures)
    if dipoles is not None and has_dipole(heads):
        added = dipole_corrections(heads, batch, [atoms.positions for atoms, _ in structures])
        moments = [
            replace(own, value=about_nuclei(dipole, atoms, int(charge)) + own.value)
            for own, dipole, (atoms, _), charge in zip(
                added, dipoles, structures, batch.charges, strict=True
            )
        ]
    return [
        _properties(heads, estimates, i, free[i], atoms, multiplicity, gas, moments[i])
        for i, (atoms, multiplicity) in enumerate(structures)
    ]


def _properties(
    heads: Heads,
    estimates: dict[str, HeadEstimate],
    i: int,
    free: FloatArray,
    atoms: Atoms,
    multiplicity: int,
    gas: Gas,
    dipole: Dipole | None,
) -> PropertyPrediction:
    found: dict[str, Any] = {"levels": {}, "scalars": {}, "novelty": {}, "undetermined": []}
    for head in heads:
        if not head.determines(free):
            found["undetermined"].append(head.name)
            continue
        estimate = estimates[head.name]
        if head.kind == "dipole":  # it needs the baseline
            continue
        found["novelty"][head.name] = float(estimate.novelty[i])
        if head.kind == "thermochemistry":
            of = estimate.values[i], estimate.stds[i]
            found["thermochemistry"] = _thermal(head, *of, atoms, multiplicity, gas)
            continue
        one = Quantity(float(estimate.values[i, 0]), float(estimate.stds[i, 0]), _multiple(head, 0))
        if head.name == "polarizability":
            found["polarizability"] = one
        else:
            found["levels" if head.kind == "level" else "scalars"][head.name] = one
    return PropertyPrediction(**found, dipole=dipole)


def _multiple(head: Head, output: int) -> float:
    return head.calibrations[output].multiple(0.9)


def _thermal(
    head: Head,
    values: FloatArray,
    stds: FloatArray,
    atoms: Atoms,
    multiplicity: int,
    gas: Gas,
) -> Thermal:
    require_temperature(gas.temperature)
    t = gas.temperature
    symmetry = symmetry_number(atoms) if gas.symmetry is None else gas.symmetry
    multiples: FloatArray = np.array([_multiple(head, k) for k in range(len(head.outputs))])
    of = thermal_values(values, stds, multiples, t, gas.treatment, atoms=len(atoms))
    enthalpy, entropy = rigid_body(
        atoms.get_masses(), atoms.positions, t, gas.pressure,
        symmetry=symmetry, multiplicity=multiplicity,
    )  # fmt: skip
    return Thermal(
        temperature=t,
        pressure=gas.pressure,
        treatment=gas.treatment,
        symmetry=symmetry,
        zero_point=of["zero_point"],
        enthalpy_correction=of["enthalpy"].shifted(enthalpy),
        entropy=of["heat"].shifted(t * entropy).scaled(1.0 / t),
        gibbs_correction=of["gibbs"].shifted(enthalpy - t * entropy),
    )
