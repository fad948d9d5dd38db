"""What heads say of one structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_knncalc.heads.dipole import Dipole


@dataclass(frozen=True)
class Quantity:
    """A number that was learned, and its error.

    Attributes
    ----------
    value, std : float
        Calibrated standard deviation beside the value; the same unit.
    multiple : float
        Standard deviations on either side that hold the truth with a probability of 90 %.
    """

    value: float
    std: float
    multiple: float = 1.645

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound that hold the truth with a probability of 90 %."""
        half = self.multiple * self.std
        return self.value - half, self.value + half

    def shifted(self, by: float) -> Quantity:
        """With something added that has no error."""
        return Quantity(self.value + by, self.std, self.multiple)

    def scaled(self, by: float) -> Quantity:
        """In another unit."""
        return Quantity(self.value * by, self.std * abs(by), self.multiple)


@dataclass(frozen=True)
class Thermal:
    """Thermochemistry of one structure at its minimum, without its electronic energy.

    Attributes
    ----------
    temperature, pressure : float
        K and Pa.
    treatment : str
        Of soft modes, at 100 cm⁻¹.
    symmetry : int
        Rotational symmetry number.
    zero_point : Quantity
        eV.
    enthalpy_correction, gibbs_correction : Quantity
        To be added to the energy of the minimum for H and G, eV.
    entropy : Quantity
        eV/K.
    """

    temperature: float
    pressure: float
    treatment: str
    symmetry: int
    zero_point: Quantity
    enthalpy_correction: Quantity
    entropy: Quantity
    gibbs_correction: Quantity


@dataclass(frozen=True)
class PropertyPrediction:
    """Properties of one structure beside its energy.

    Attributes
    ----------
    thermochemistry : Thermal or None
    polarizability : Quantity or None
        Isotropic, Å³.
    levels : dict of Quantity
        What energies of further levels of theory differ from the reference's, eV, by name.
    scalars : dict of Quantity
        All other properties by name, in the unit of their labels.
    novelty : dict of float
        Of each head: 1 at the 99th percentile of its own held-out training structures; above it,
        little is known.
    undetermined : list of str
        Heads that say nothing, since the formula is no combination of those they learned from.
    dipole : Dipole or None
        Where the baseline's was at hand.
    """

    thermochemistry: Thermal | None = None
    polarizability: Quantity | None = None
    levels: dict[str, Quantity] = field(default_factory=dict)
    scalars: dict[str, Quantity] = field(default_factory=dict)
    novelty: dict[str, float] = field(default_factory=dict)
    undetermined: list[str] = field(default_factory=list)
    dipole: Dipole | None = None
