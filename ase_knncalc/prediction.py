"""What a model says of structures: energies, forces, their errors, and the neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, BoolArray, FloatArray
from ase_knncalc.baselines import SinglePoint
from ase_knncalc.errors import BaselineError
from ase_knncalc.heads.dipole import Dipole
from ase_knncalc.heads.levels import LevelCorrection
from ase_knncalc.heads.result import PropertyPrediction
from ase_knncalc.knn.term import KNNEstimate
from ase_knncalc.structure import marked_free_energy
from ase_knncalc.uncertainty import Calibration


class Neighbor(NamedTuple):
    """A training structure near the one asked for.

    Attributes
    ----------
    name, composition : str
        As in the training data.
    distance : float
        In the learned metric.
    weight : float
        Its share in the k-NN term.
    residual : float
        What the trend left over there (cross-validated), eV.
    index : int
        Its place in the model's index.
    """

    name: str
    composition: str
    distance: float
    weight: float
    residual: float
    index: int  # type: ignore[assignment]  # a tuple, so that JSON of results works, has a method


def neighbors_of(
    estimate: KNNEstimate, names: AnyArray, compositions: AnyArray, residuals: FloatArray
) -> list[Neighbor]:
    """Neighbours in an estimate of the k-NN term; the arrays are those of all structures."""
    return [
        Neighbor(
            name=names[i].decode("utf-8"),
            composition=compositions[i].decode("utf-8"),
            distance=float(d),
            weight=float(w),
            residual=float(residuals[i]),
            index=int(i),
        )
        for i, d, w in zip(estimate.indices, estimate.distances, estimate.weights, strict=True)
    ]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure.

    Attributes
    ----------
    delta : float
        Correction T + K, eV.
    trend, knn : float
        The two terms of the correction, eV.
    energy_std : float
        Calibrated standard deviation of the energy, eV.
    novelty : float
        1 at the 99th percentile of held-out training structures; above it, few training data
        are like this.
    neighbors : list of Neighbor
        The k nearest training structures, nearest first.
    baseline_energy : float or None
        eV; None where no baseline was at hand.
    delta_forces, baseline_forces : ndarray, shape (n_atoms, 3), or None
        eV/Å, when asked for.
    forces_std : ndarray, shape (n_atoms,), or None
        Calibrated standard deviation of each Cartesian component of an atom's force, eV/Å, when
        asked for.
    baseline_charges : ndarray, shape (n_atoms,), or None
        The baseline's partial charges, e, where it was run and gave them.
    baseline_dipole : ndarray, shape (3,), or None
        The baseline's dipole, e Å, likewise.
    level : LevelCorrection or None
        What a further level of theory has added to the correction, when asked for.
    dipole_correction : Dipole or None
        What was learned to be added to the baseline's dipole, when asked for.
    properties : PropertyPrediction or None
        Of the structure beside its energy, when asked for.
    """

    delta: float
    trend: float
    knn: float
    energy_std: float
    novelty: float
    neighbors: list[Neighbor]
    calibration: Calibration = field(repr=False)
    baseline_energy: float | None = None
    delta_forces: FloatArray | None = None
    baseline_forces: FloatArray | None = None
    forces_std: FloatArray | None = None
    # They follow from the structure as its energy does, and arrays do not compare as numbers do.
    baseline_charges: FloatArray | None = field(default=None, compare=False)
    baseline_dipole: FloatArray | None = field(default=None, compare=False)
    level: LevelCorrection | None = field(default=None, compare=False)
    dipole_correction: Dipole | None = field(default=None, compare=False)
    properties: PropertyPrediction | None = field(default=None, compare=False)

    @property
    def energy(self) -> float:
        """Predicted energy in eV: baseline plus correction.

        Raises
        ------
        BaselineError
            If only the correction is known, since no baseline was at hand.
        """
        return _at_hand(self.baseline_energy) + self.delta

    @property
    def outside(self) -> bool:
        """Whether it is outside of what the model knows: novelty above 1."""
        return bool(self.novelty > 1.0)

    @property
    def forces(self) -> FloatArray | None:
        """Predicted forces in eV/Å, shape (n_atoms, 3), or None when not asked for."""
        if self.delta_forces is None or self.baseline_forces is None:
            return None
        return self.baseline_forces + self.delta_forces

    @property
    def dipole(self) -> FloatArray | None:
        """Dipole in e Å, shape (3,), corrected where that was asked for; None if unknown.

        :meth:`KNNModel.predict_dipole` gives that of a model that has learned dipoles.
        """
        if self.baseline_dipole is None or self.dipole_correction is None:
            return self.baseline_dipole
        return self.baseline_dipole + self.dipole_correction.value

    @property
    def point(self) -> SinglePoint | None:
        """What is known of the baseline; None where it was not at hand."""
        if self.baseline_energy is None:
            return None
        of_atoms = self.baseline_forces, self.baseline_charges, self.baseline_dipole
        return SinglePoint(self.baseline_energy, *of_atoms)

    def at_level(self, step: LevelCorrection) -> Prediction:
        """With the difference to a further level of theory; errors of both are independent."""
        forces = self.delta_forces
        return replace(
            self,
            delta=self.delta + step.energy,
            energy_std=math.hypot(self.energy_std, step.std),
            novelty=max(self.novelty, step.novelty),
            delta_forces=None if forces is None or step.forces is None else forces + step.forces,
            level=step,
        )

    def beyond(self, novelty: float | None, std: float | None, label: str) -> str:
        """What thresholds (``std`` in eV; None is none) are exceeded by, empty where none is."""
        found = []
        if novelty is not None and self.novelty > novelty:
            found.append(
                f"{label} is far from the training data: novelty {self.novelty:.2f} exceeds "
                f"{novelty:g} (1 is the 99th percentile of held-out training structures)"
            )
        if std is not None and self.energy_std > std:
            found.append(
                f"the energy of {label} is uncertain: energy_std {self.energy_std:.3f} eV exceeds "
                f"std_threshold {std:g} eV"
            )
        return "; ".join(found)

    def results(self, *, learned: bool) -> Results:
        """What a calculator has of it.

        Parameters
        ----------
        learned
            Whether dipoles are the learned ones, which are made where they are wanted, or the
            baseline's.
        """
        moment, judged = self.dipole_correction, not math.isnan(self.energy_std)
        found: dict[str, Any] = {
            "energy": self.energy,
            "free_energy": marked_free_energy(self.energy),
            "energy_std": self.energy_std if judged else None,
            "novelty": self.novelty if judged else None,
            "baseline_energy": self.baseline_energy,
            "delta": self.delta,
            "neighbors": self.neighbors if judged else None,
            "forces": self.forces,
            "forces_std": self.forces_std,
            "charges": self.baseline_charges,
            "level_correction": self.level,
            "dipole": None if learned and moment is None else self.dipole,
            "dipole_std": None if moment is None else moment.std,
        }
        return Results({k: v for k, v in found.items() if v is not None})

    def energy_interval(self, coverage: float = 0.9) -> tuple[float, float]:
        """Lower and upper bound (eV) that hold the reference energy with the given probability.

        Raises
        ------
        SettingsError
            If the coverage lies outside what was calibrated (0.5 to 0.99).
        """
        half = self.calibration.multiple(coverage) * self.energy_std
        return self.energy - half, self.energy + half


@dataclass(frozen=True)
class Predictions:
    """What a model says of n structures; each of them, by its number, is a :class:`Prediction`.

    Attributes
    ----------
    delta, trend, knn, energy_std, novelty : ndarray, shape (n,)
        As of a :class:`Prediction`.
    neighbors : list of list of Neighbor
    baseline_energy : ndarray, shape (n,), or None
        eV; None where no baseline was at hand.
    delta_forces, baseline_forces, forces_std, baseline_charges, baseline_dipole : list, or None
        One array a structure, as of a :class:`Prediction`.
    properties : list of PropertyPrediction, or None
    """

    delta: FloatArray
    trend: FloatArray
    knn: FloatArray
    energy_std: FloatArray
    novelty: FloatArray
    neighbors: list[list[Neighbor]]
    calibration: Calibration = field(repr=False)
    baseline_energy: FloatArray | None = None
    delta_forces: list[FloatArray] | None = None
    baseline_forces: list[FloatArray] | None = None
    forces_std: list[FloatArray] | None = None
    baseline_charges: list[FloatArray] | None = None
    baseline_dipole: list[FloatArray] | None = None
    properties: list[PropertyPrediction] | None = None

    @property
    def outside(self) -> BoolArray:
        """Which are outside of what the model knows: novelty above 1, shape (n,)."""
        return np.asarray(self.novelty > 1.0)

    @classmethod
    def of(cls, single: Sequence[Prediction], calibration: Calibration) -> Predictions:
        """Predictions of single structures by the model of that calibration."""

        def column(name: str) -> Any:
            values = [getattr(p, name) for p in single]
            if any(v is None for v in values):
                return None
            return np.array(values, dtype=np.float64) if name in _NUMBERS else values

        return cls(**{name: column(name) for name in _COLUMNS}, calibration=calibration)

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """Predictions of several lots of structures by one model as one."""

        def column(name: str) -> Any:
            values = [getattr(p, name) for p in parts]
            if any(v is None for v in values):
                return None
            if name in _NUMBERS:
                return np.concatenate(values)
            return [entry for lot in values for entry in lot]

        return cls(**{name: column(name) for name in _COLUMNS}, calibration=parts[0].calibration)

    @property
    def energy(self) -> FloatArray:
        """Predicted energies in eV, shape (n,), see :attr:`Prediction.energy`."""
        return _at_hand(self.baseline_energy) + self.delta

    @property
    def forces(self) -> list[FloatArray] | None:
        """Predicted forces in eV/Å of each structure, or None when not asked for."""
        if self.delta_forces is None or self.baseline_forces is None:
            return None
        return [b + d for b, d in zip(self.baseline_forces, self.delta_forces, strict=True)]

    def energy_interval(self, coverage: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds (eV), shape (n,), see :meth:`Prediction.energy_interval`."""
        half = self.calibration.multiple(coverage) * self.energy_std
        return self.energy - half, self.energy + half

    def __len__(self) -> int:
        return len(self.delta)

    def __getitem__(self, item: int) -> Prediction:
        place = index(item)

        def entry(name: str) -> Any:
            values = getattr(self, name)
            if values is None:
                return None
            return float(values[place]) if name in _NUMBERS else values[place]

        return Prediction(**{name: entry(name) for name in _COLUMNS}, calibration=self.calibration)

    def __iter__(self) -> Iterator[Prediction]:
        return (self[i] for i in range(len(self)))


# What MACE, apax and FLARE call the errors of their committees and processes: the results of a
# calculator give them under these names too, but list each once.
OTHER_NAMES = {
    "energy_var": "energy_std",
    "energy_uncertainty": "energy_std",
    "forces_var": "forces_std",
    "forces_uncertainty": "forces_std",
    "stds": "forces_std",
}


class Results(dict[str, Any]):
    """Results of a calculator, which answers to :data:`OTHER_NAMES` as well.

    ``energy_uncertainty`` is ``energy_std`` (eV) and ``energy_var`` its square; where
    ``forces_std`` is known, ``forces_uncertainty`` and ``stds`` (eV/Å) and ``forces_var``, their
    square, have shape (n_atoms, 3).
    """

    def __missing__(self, name: str) -> Any:
        own = OTHER_NAMES.get(name)
        if own is None or own not in self:
            raise KeyError(name)
        std = self[own]
        if own == "forces_std":
            std = np.repeat(std[:, None], 3, axis=1)
        return std**2 if name.endswith("_var") else std


_NUMBERS = ("delta", "trend", "knn", "energy_std", "novelty", "baseline_energy")
_COLUMNS = (
    *_NUMBERS,
    "neighbors",
    *("delta_forces", "baseline_forces", "forces_std", "baseline_charges", "baseline_dipole"),
    "properties",
)

_Energy = TypeVar("_Energy", float, FloatArray)


def _at_hand(baseline_energy: _Energy | None) -> _Energy:
    if baseline_energy is None:
        raise BaselineError(
            "this prediction holds only the correction (`delta`): the model has no baseline "
            "attached. Use load_model(..., baseline='auto') or predict(..., baseline_energy=…)"
        )
    return baseline_energy
