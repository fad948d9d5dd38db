"""The protocol that every baseline follows, and the baseline that is none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, runtime_checkable

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import BaselineError
from ase_knncalc.structure import structure_label


@dataclass(frozen=True)
class SinglePoint:
    """What one calculation of a baseline gives.

    Attributes
    ----------
    energy : float
        eV.
    forces : ndarray, shape (n_atoms, 3), or None
        eV/Å.
    charges : ndarray, shape (n_atoms,), or None
        Partial charges, e.
    dipole : ndarray, shape (3,), or None
        e Å; of an ion about the origin of the coordinates.
    """

    energy: float
    forces: FloatArray | None = None
    charges: FloatArray | None = None
    dipole: FloatArray | None = None


@runtime_checkable
class Baseline(Protocol):
    """What the model needs of a baseline method."""

    @property
    def method(self) -> str:
        """``"GFN1-xTB"``, ``"GFN2-xTB"``, ``"none"``, ``"given"``, or an ASE calculator's class."""

    @property
    def library(self) -> str:
        """``"tblite"``, ``"xtb"``, ``"ase"``, ``"none"`` or ``"given"``."""

    @property
    def is_none(self) -> bool:
        """Whether there is no baseline: energies are zero, and the reference itself is learned."""

    @property
    def is_given(self) -> bool:
        """Whether energies come with the data and nothing can compute them."""

    @property
    def is_repeatable(self) -> bool:
        """Whether it computes energies, and :meth:`spec` tells all that these depend on.

        Such a one is made again in other processes, and energies that are said to be of it can be
        put to the test.
        """

    @property
    def properties(self) -> tuple[str, ...]:
        """What :meth:`single_point` gives of ``"charges"`` and ``"dipole"``."""

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Energy in eV at a total charge in e and a multiplicity 2S + 1; raises BaselineError."""

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Energy in eV and forces of shape (n_atoms, 3) in eV/Å; BaselineError likewise."""

    def single_point(
        self, atoms: Atoms, charge: int, multiplicity: int, wanted: Collection[str] = ()
    ) -> SinglePoint:
        """One calculation; BaselineError likewise.

        Besides the energy it holds what is ``wanted`` of ``"forces"`` and :attr:`properties`, and
        whatever else costs nothing.
        """

    def spec(self) -> dict[str, str]:
        """Description in plain strings: method, library, version, and all settings.

        :func:`make_baseline` turns it back into a baseline, unless it is an ASE calculator.
        """


@dataclass(frozen=True)
class NoBaseline:
    """No baseline: the model learns the reference energy itself. Energy 0 eV, forces 0 eV/Å."""

    method: ClassVar[str] = "none"
    library: ClassVar[str] = "none"
    is_none: ClassVar[bool] = True
    is_given: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = False
    properties: ClassVar[tuple[str, ...]] = ()

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Zero."""
        return 0.0

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Zero, and zeros of shape (n_atoms, 3)."""
        return 0.0, np.zeros((len(atoms), 3))

    def single_point(
        self, atoms: Atoms, charge: int, multiplicity: int, wanted: Collection[str] = ()
    ) -> SinglePoint:
        """Zero, and zeros of shape (n_atoms, 3)."""
        return SinglePoint(*self.energy_and_forces(atoms, charge, multiplicity))

    def spec(self) -> dict[str, str]:
        """Method and library, both ``"none"``."""
        return {"method": self.method, "library": self.library}


@dataclass(frozen=True)
class GivenBaseline:
    """A baseline that nothing here can compute: its energies come with the data.

    What takes frames (training, appending, :func:`ase_knncalc.predict_frames`, the commands) takes
    them from each frame's ``info``. ``model.predict`` and ``binding_energy`` need them as
    ``baseline_energy``, and :class:`ase_knncalc.KNNCalculator` refuses such a model: what ``info``
    says is wrong as soon as atoms move.
    """

    method: ClassVar[str] = "given"
    library: ClassVar[str] = "given"
    is_none: ClassVar[bool] = False
    is_given: ClassVar[bool] = True
    is_repeatable: ClassVar[bool] = False
    properties: ClassVar[tuple[str, ...]] = ()

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> NoReturn:
        """Raises :class:`BaselineError`, always."""
        raise BaselineError(
            f"no baseline energy of {structure_label(atoms)} came with this call, and "
            "baseline='given' computes none. Frames hold theirs in info['baseline_energy'], or "
            "where KeyMap(baseline_energy=…), --baseline-key, says; model.predict and "
            "binding_energy need baseline_energy=…, whatever the structure holds"
        )

    def energy_and_forces(self, atoms: Atoms, charge: int, multiplicity: int) -> NoReturn:
        """Raises :class:`BaselineError`, always."""
        raise BaselineError(
            f"no baseline forces of {structure_label(atoms)} came with this call, and "
            "baseline='given' computes none. Training takes them from arrays['baseline_forces']; "
            "for a prediction, add model.correct(numbers, positions, charge, "
            "forces=True).delta_forces to them"
        )

    def single_point(
        self, atoms: Atoms, charge: int, multiplicity: int, wanted: Collection[str] = ()
    ) -> NoReturn:
        """Raises :class:`BaselineError`, always."""
        if "forces" in wanted:
            self.energy_and_forces(atoms, charge, multiplicity)
        self.energy(atoms, charge, multiplicity)

    def spec(self) -> dict[str, str]:
        """Method and library, both ``"given"``."""
        return {"method": self.method, "library": self.library}


def require_finite(value: Any, what: str, baseline: Any, label: object) -> None:
    """Raise :class:`BaselineError` for NaN or infinite numbers of a baseline."""
    if not np.all(np.isfinite(value)):
        raise BaselineError(
            f"{baseline.method} ({baseline.library}) returned NaN or infinite {what} for {label}; "
            "check the geometry, the charge and the multiplicity"
        )
