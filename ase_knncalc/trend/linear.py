"""Trends that are linear in counts and in the summed descriptor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, FloatArray
from ase_knncalc.descriptors import Descriptor, FeatureBatch, of_atoms, summed_width
from ase_knncalc.trend.base import TrendEstimate, composition_columns, require_shape
from ase_knncalc.trend.posterior import prediction_leverage, prediction_rows


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

    def evaluate(self, batch: FeatureBatch, *, gradient: bool = False) -> TrendEstimate:
        """Trend alone: it knows neither its variance nor how far atoms are."""
        nothing, level = np.zeros(len(batch)), np.zeros(batch.local.shape) if gradient else None
        return TrendEstimate(self.predict(batch), nothing, nothing, level)

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance: none, shape (n_structures, 0)."""
        return np.zeros((len(batch), 0))

    @classmethod
    def from_arrays(cls, elements: tuple[int, ...], arrays: Mapping[str, AnyArray]) -> OffsetTrend:
        """From what :meth:`arrays` gives."""
        return cls(elements, *(arrays[f.name] for f in fields(cls)[1:]))

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps."""
        return {f.name: getattr(self, f.name) for f in fields(self)[1:]}

    def validate(self, descriptor: Descriptor) -> None:
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
        Factors of the posterior variance, see :func:`posterior.prediction_rows`.
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

    def evaluate(self, batch: FeatureBatch, *, gradient: bool = False) -> TrendEstimate:
        """Trend and its variance; it does not know how far atoms are."""
        free, summed = composition_columns(batch, self.elements), batch.summed()
        leverage = prediction_leverage(free, summed, self.free_map, self.shift, self.factor)
        slopes = None
        if gradient:
            width = batch.local.shape[1]
            slopes = of_atoms(self.coefficients, batch.numbers, self.elements, width)
        return TrendEstimate(self.predict(batch), leverage, np.zeros(len(batch)), slopes)

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance, shape (n_structures, d)."""
        free = composition_columns(batch, self.elements)
        return prediction_rows(free, batch.summed(), self.free_map, self.shift, self.factor)

    @classmethod
    def from_arrays(cls, elements: tuple[int, ...], arrays: Mapping[str, AnyArray]) -> LinearTrend:
        """From what :meth:`arrays` gives."""
        return cls(elements, *(arrays[f.name] for f in fields(cls)[1:]))

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps."""
        return {f.name: getattr(self, f.name) for f in fields(self)[1:]}

    def validate(self, descriptor: Descriptor) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""
        n_free, n_features = len(self.elements) + 2, summed_width(descriptor)
        rank = self.free_map.shape[-1] if self.free_map.ndim == 2 else -1
        require_shape("offsets", self.offsets, (n_free,))
        require_shape("coefficients", self.coefficients, (n_features,))
        require_shape("free_map", self.free_map, (n_free, rank))
        require_shape("shift", self.shift, (rank, n_features))
        require_shape("factor", self.factor, (n_features, n_features))
