"""What a model says of structures: energies, forces, their errors, and the neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import BaselineError
from ase_knncalc.uncertainty import Calibration


@dataclass(frozen=True)
class Neighbor:
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
    index: int


@dataclass(frozen=True)
class Prediction:
    """Energy of one structure (scalars) or of several (arrays along the first axis).

    A prediction of several structures has a length, can be indexed and iterated over.

    Attributes
    ----------
    delta : float or ndarray
        Correction T + K, eV.
    trend, knn : float or ndarray
        The two terms of the correction, eV.
    energy_std : float or ndarray
        Calibrated standard deviation of the energy, eV.
    novelty : float or ndarray
        1 at the 99th percentile of held-out training structures; above it, few training data
        are like this.
    neighbors : list of Neighbor, or list of such lists
        The k nearest training structures, nearest first.
    baseline_energy : float, ndarray or None
        eV; None where no baseline was at hand.
    delta_forces, baseline_forces : ndarray (n_atoms, 3), list of such, or None
        eV/Å, when asked for.
    forces_std : ndarray (n_atoms,), list of such, or None
        Calibrated standard deviation of each Cartesian component of an atom's force, eV/Å, when
        asked for.
    """

    delta: Any
    trend: Any
    knn: Any
    energy_std: Any
    novelty: Any
    neighbors: Any
    calibration: Calibration = field(repr=False)
    baseline_energy: Any = None
    delta_forces: Any = None
    baseline_forces: Any = None
    forces_std: Any = None

    @property
    def energy(self) -> Any:
        """Predicted energy in eV: baseline plus correction.

        Raises
        ------
        BaselineError
            If only the correction is known, since no baseline was at hand.
        """
        if self.baseline_energy is None:
            raise BaselineError(
                "this prediction holds only the correction (`delta`): the model has no baseline "
                "attached. Use load_model(..., baseline='auto') or predict(..., baseline_energy=…)"
            )
        return self.baseline_energy + self.delta

    @property
    def forces(self) -> Any:
        """Predicted forces in eV/Å, shape (n_atoms, 3), or None when not asked for."""
        if self.delta_forces is None or self.baseline_forces is None:
            return None
        if isinstance(self.delta_forces, list):
            return [b + d for b, d in zip(self.baseline_forces, self.delta_forces, strict=True)]
        return self.baseline_forces + self.delta_forces

    def energy_interval(self, coverage: float = 0.9) -> tuple[Any, Any]:
        """Lower and upper bound (eV) that hold the reference energy with the given probability.

        Raises
        ------
        SettingsError
            If the coverage lies outside what was calibrated (0.5 to 0.99).
        """
        half = self.calibration.multiple(coverage) * self.energy_std
        return self.energy - half, self.energy + half

    @staticmethod
    def join(parts: Sequence[Prediction]) -> Prediction:
        """Predictions of several lots of structures by one model as one."""

        def column(name: str) -> Any:
            values = [getattr(p, name) for p in parts]
            if any(v is None for v in values):
                return None
            if isinstance(values[0], list):
                return [entry for lot in values for entry in lot]
            return np.concatenate(values)

        names = [f.name for f in fields(Prediction) if f.name != "calibration"]
        return Prediction(
            **{name: column(name) for name in names}, calibration=parts[0].calibration
        )

    @staticmethod
    def stack(single: Sequence[Prediction], calibration: Calibration) -> Prediction:
        """Predictions of single structures (scalars) as one of several (arrays)."""

        def column(name: str) -> Any:
            values = [getattr(p, name) for p in single]
            return None if any(v is None for v in values) else values

        def array(name: str) -> FloatArray | None:
            values = column(name)
            return None if values is None else np.array(values, dtype=np.float64)

        return Prediction(
            delta=array("delta"),
            trend=array("trend"),
            knn=array("knn"),
            energy_std=array("energy_std"),
            novelty=array("novelty"),
            neighbors=column("neighbors"),
            calibration=calibration,
            baseline_energy=array("baseline_energy"),
            delta_forces=column("delta_forces"),
            baseline_forces=column("baseline_forces"),
            forces_std=column("forces_std"),
        )

    def __len__(self) -> int:
        if np.ndim(self.delta) == 0:
            raise TypeError("the prediction of a single structure has no length")
        return len(self.delta)

    def __getitem__(self, item: int) -> Prediction:
        if np.ndim(self.delta) == 0:
            raise TypeError("the prediction of a single structure cannot be indexed")
        shared = {"calibration": self.calibration}
        values = {
            f.name: _entry(getattr(self, f.name), item)
            for f in fields(self)
            if f.name not in shared
        }
        return Prediction(**values, **shared)

    def __iter__(self) -> Iterator[Prediction]:
        return (self[i] for i in range(len(self)))


def _entry(values: Any, item: int) -> Any:
    if values is None:
        return None
    entry = values[item]
    return float(entry) if isinstance(entry, np.floating) else entry
