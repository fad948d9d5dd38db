"""What a trend is, the size-extensive part T of the correction: a sum over atoms.

Every trend holds one offset per element and two per unit of total charge (q and |q|, which FCHL19
cannot see); they differ in what they learn beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, BoolArray, FloatArray, IntArray
from ase_knncalc.descriptors import Descriptor, FeatureBatch, MovingRows
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.ridge import RidgeFit

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
    gradient : ndarray, shape (n_atoms_total, n_features), or None
        dT/d(row) of each atom, eV, where it was asked for.
    """

    energy: FloatArray
    leverage: FloatArray
    remoteness: FloatArray
    gradient: FloatArray | None = None


def require_shape(name: str, array: AnyArray, shape: tuple[int, ...]) -> None:
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

    def evaluate(self, batch: FeatureBatch, *, gradient: bool = False) -> TrendEstimate:
        """Trend of each structure, and what tells how far to trust it; its gradient if asked."""

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance, shape (n_structures, d)."""

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps."""

    @classmethod
    def from_arrays(cls, elements: tuple[int, ...], arrays: Mapping[str, AnyArray]) -> Trend:
        """From what :meth:`arrays` gives."""

    def validate(self, descriptor: Descriptor) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""


@runtime_checkable
class ForceVariance(Protocol):
    """A trend that knows the posterior variance of its forces."""

    def force_leverage(self, numbers: IntArray, moving: MovingRows) -> FloatArray:
        """Mean posterior variance of each atom's force components, shape (n_atoms,)."""
        ...


@dataclass(frozen=True)
class HeldOutForces:
    """What fits without a frame say of its forces, one entry an atom.

    Attributes
    ----------
    numbers : ndarray of int, shape (n_atoms,)
    errors : ndarray, shape (n_atoms,)
        Root mean square of the errors of the three components, eV/Å.
    leverage : ndarray, shape (n_atoms,)
        Mean posterior variance of the components in units of the noise variance of an energy.
    assumed : ndarray of bool, shape (n_atoms,)
        Whether the force is the zero of a minimum, not computed.
    """

    numbers: IntArray
    errors: FloatArray
    leverage: FloatArray
    assumed: BoolArray


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
    not_minima : ndarray of int
        Structures that were said to be minima and are none: their zero forces were left out.
    fair : ndarray of bool, shape (n,), or None
        Structures that nothing in the trend has seen where they are left out; None: all of them.
        A learned metric of environments has seen the others: their errors flatter.
    """

    trend: Trend
    leave_one_out: FloatArray
    leave_group_out: FloatArray
    leverage: FloatArray
    group_leverage: FloatArray
    details: dict[str, Any] = field(default_factory=dict)
    held_out_forces: HeldOutForces | None = None
    remoteness: FloatArray | None = None
    not_minima: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    fair: BoolArray | None = None


def ridge_trend_fit(trend: Trend, fit: RidgeFit, details: dict[str, Any]) -> TrendFit:
    """A trend with the cross-validation of the ridge problem it comes from."""
    return TrendFit(
        trend,
        fit.leave_one_out,
        fit.leave_group_out,
        fit.leverage,
        fit.group_leverage,
        details,
    )
