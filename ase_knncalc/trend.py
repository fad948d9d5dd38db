"""Trends: the size-extensive part T of the correction, a sum over atoms.

Every trend holds one offset per element and two per unit of total charge (q and |q|, which FCHL19
cannot see); they differ in what they learn beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import SettingsError
from ase_knncalc.forces import HeldOutForces
from ase_knncalc.regression import RidgeFit, prediction_leverage, prediction_rows

FloatArray = np.ndarray
IntArray = np.ndarray

TREND_KINDS = ("sparse", "linear", "none")


def composition_columns(batch: FeatureBatch, elements: Sequence[int]) -> FloatArray:
    """Element counts, total charge and its magnitude, shape (n_structures, n_elements + 2)."""
    charge = batch.charges[:, None].astype(np.float64)
    return np.hstack([batch.counts(elements), charge, np.abs(charge)])


@dataclass(frozen=True)
class TrendEstimate:
    """What a trend says of n structures.

    Attributes
    ----------
    energy : ndarray, shape (n,)
        T, eV.
    leverage : ndarray, shape (n,)
        Posterior variance in units of the noise variance.
    remoteness : ndarray, shape (n,)
        Mean distance of the atoms from those of training structures: 1 is usual, 0 where the
        trend does not know.
    """

    energy: FloatArray
    leverage: FloatArray
    remoteness: FloatArray


@dataclass(frozen=True)
class OffsetTrend:
    """``trend="none"``: element and charge offsets only, so that k-NN sees referenced labels.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    offsets
        Of each element, of the charge and of its magnitude, eV, shape (n_elements + 2,).
    """

    kind: ClassVar[str] = "none"

    elements: tuple[int, ...]
    offsets: FloatArray

    def predict(self, batch: FeatureBatch) -> FloatArray:
        """Trend of each structure in eV, shape (n_structures,)."""
        return np.asarray(composition_columns(batch, self.elements) @ self.offsets)

    def evaluate(self, batch: FeatureBatch) -> TrendEstimate:
        """Trend alone: it knows neither its variance nor how far atoms are."""
        nothing = np.zeros(len(batch))
        return TrendEstimate(self.predict(batch), nothing, nothing)

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance: none, shape (n_structures, 0)."""
        return np.zeros((len(batch), 0))

    def gradient(self, numbers: IntArray, local: FloatArray) -> FloatArray:
        """dT/d(row) of each atom, eV, shape (n_atoms, n_features)."""
        return np.zeros_like(local)

    def arrays(self) -> dict[str, FloatArray]:
        """What a model file keeps."""
        return {"offsets": self.offsets}

    def validate(self, n_features: int) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""
        require_shape("offsets", self.offsets, (len(self.elements) + 2,))


@dataclass(frozen=True)
class LinearTrend:
    """``trend="linear"``: ridge regression on the summed descriptor, beside the offsets.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    offsets
        As in :class:`OffsetTrend`.
    coefficients
        Of the summed descriptor, eV, shape (n_features,).
    free_map, shift, factor
        Factors of the posterior variance, see :func:`regression.prediction_rows`.
    """

    kind: ClassVar[str] = "linear"

    elements: tuple[int, ...]
    offsets: FloatArray
    coefficients: FloatArray
    free_map: FloatArray
    shift: FloatArray
    factor: FloatArray

    def predict(self, batch: FeatureBatch) -> FloatArray:
        """Trend of each structure in eV, shape (n_structures,)."""
        free = composition_columns(batch, self.elements) @ self.offsets
        return np.asarray(free + batch.summed() @ self.coefficients)

    def evaluate(self, batch: FeatureBatch) -> TrendEstimate:
        """Trend and its variance; it does not know how far atoms are."""
        free, summed = composition_columns(batch, self.elements), batch.summed()
        leverage = prediction_leverage(free, summed, self.free_map, self.shift, self.factor)
        return TrendEstimate(self.predict(batch), leverage, np.zeros(len(batch)))

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance, shape (n_structures, d)."""
        free = composition_columns(batch, self.elements)
        return prediction_rows(free, batch.summed(), self.free_map, self.shift, self.factor)

    def gradient(self, numbers: IntArray, local: FloatArray) -> FloatArray:
        """dT/d(row) of each atom, eV, shape (n_atoms, n_features)."""
        return np.broadcast_to(self.coefficients, local.shape)

    def arrays(self) -> dict[str, FloatArray]:
        """What a model file keeps."""
        return {
            "offsets": self.offsets,
            "coefficients": self.coefficients,
            "free_map": self.free_map,
            "shift": self.shift,
            "factor": self.factor,
        }

    def validate(self, n_features: int) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""
        n_free = len(self.elements) + 2
        rank = self.free_map.shape[-1] if self.free_map.ndim == 2 else -1
        require_shape("offsets", self.offsets, (n_free,))
        require_shape("coefficients", self.coefficients, (n_features,))
        require_shape("free_map", self.free_map, (n_free, rank))
        require_shape("shift", self.shift, (rank, n_features))
        require_shape("factor", self.factor, (n_features, n_features))


def require_shape(name: str, array: FloatArray, shape: tuple[int, ...]) -> None:
    """Raise :class:`SettingsError` unless an array of a trend has the shape expected."""
    if array.shape != shape:
        raise SettingsError(f"trend: {name} has shape {array.shape}, expected {shape}")


class Trend(Protocol):
    """What the model needs of a trend."""

    kind: ClassVar[str]

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""

    def predict(self, batch: FeatureBatch) -> FloatArray:
        """Trend of each structure in eV, shape (n_structures,)."""

    def evaluate(self, batch: FeatureBatch) -> TrendEstimate:
        """Trend of each structure, and what tells how far to trust it."""

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance, shape (n_structures, d)."""

    def gradient(self, numbers: IntArray, local: FloatArray) -> FloatArray:
        """dT/d(row) of each atom, eV, shape (n_atoms, n_features)."""

    def arrays(self) -> dict[str, FloatArray]:
        """What a model file keeps."""

    def validate(self, n_features: int) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""


@runtime_checkable
class ForceVariance(Protocol):
    """A trend that knows the posterior variance of its forces."""

    def force_leverage(
        self, numbers: IntArray, local: FloatArray, derivative: FloatArray
    ) -> FloatArray:
        """Mean posterior variance of each atom's force components, shape (n_atoms,)."""
        ...


@dataclass(frozen=True)
class TrendFit:
    """A fitted trend and what cross-validation says of it.

    Attributes
    ----------
    trend : Trend
    leave_one_out, leave_group_out : ndarray, shape (n,)
        Residuals y − T in eV, T fitted without the structure or without its group.
    leverage, group_leverage : ndarray, shape (n,)
        Posterior variance of these predictions in units of the noise variance.
    details : dict
        Chosen penalty and the like, for the provenance.
    held_out_forces : HeldOutForces or None
        Cross-validated errors of forces, where forces took part.
    remoteness : ndarray, shape (n,), or None
        :attr:`TrendEstimate.remoteness` of each structure as if it were not in training.
    """

    trend: Trend
    leave_one_out: FloatArray
    leave_group_out: FloatArray
    leverage: FloatArray
    group_leverage: FloatArray
    details: dict[str, Any] = field(default_factory=dict)
    held_out_forces: HeldOutForces | None = None
    remoteness: FloatArray | None = None


def ridge_trend_fit(
    trend: Trend,
    fit: RidgeFit,
    details: dict[str, Any],
    *,
    leverage: FloatArray | None = None,
    group_leverage: FloatArray | None = None,
    held_out_forces: HeldOutForces | None = None,
    remoteness: FloatArray | None = None,
) -> TrendFit:
    """A trend with the cross-validation of the ridge problem it comes from."""
    return TrendFit(
        trend,
        fit.leave_one_out,
        fit.leave_group_out,
        fit.leverage if leverage is None else leverage,
        fit.group_leverage if group_leverage is None else group_leverage,
        details,
        held_out_forces,
        remoteness,
    )
