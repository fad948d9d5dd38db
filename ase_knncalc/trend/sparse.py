"""The sparse local-kernel trend: Gaussian-process regression on atomic environments.

    T(x) = offsets · composition(x) + Σ_i Σ_m w_m exp(−|P(x_i − μ) − z_m|² / 2σ²)

The inner sum runs over inducing environments z_m of the same element as atom i, so that T is a sum
over atoms (size-extensive) and its cost does not grow with the training set. P is a projection of
each element's descriptor rows: to partially whitened principal components, or to those of a learned
metric.

References
----------
A. P. Bartók, R. Kondor, G. Csányi, Phys. Rev. B 87, 184115 (2013): sums of atomic kernels.
J. Quiñonero-Candela, C. E. Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005): sparse approximations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from ase_knncalc._lib.arguments import (
    Count,
    Length,
    NotNegative,
    Positive,
    Settings,
    Several,
    Share,
    Whole,
)
from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray
from ase_knncalc.descriptors import Descriptor, FeatureBatch, MovingRows
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.base import TrendEstimate, composition_columns, require_shape
from ase_knncalc.trend.environments import Environments, require_counts
from ase_knncalc.trend.kernels import KernelBlock
from ase_knncalc.trend.posterior import prediction_rows, rows_of_products


@dataclass(frozen=True)
class SparseSettings(Settings):
    """How the sparse trend is made.

    Parameters
    ----------
    environments
        Most inducing environments of an element.
    length_scale
        σ of the Gaussian kernel, in units of the projected descriptor.
    sharp_share
        Share of a second Gaussian, of half that length, in the kernel against 1 for the first.
    rank
        Principal components kept for each element.
    whitening
        Exponent α: components are scaled by (their standard deviation) ** −α; 0 is plain PCA,
        1 full whitening. The total variance is kept.
    metric_exponent
        Exponent of the metric of environments that a first, smaller trend teaches, see
        :mod:`ase_knncalc.trend.local_metric`; 0: none is learned, and components are whitened.
    variance_environments
        Inducing environments of an element that the posterior variance uses.
    selection
        How environments are chosen: ``"random"``, ``"farthest"`` (farthest point) or
        ``"kmeans"`` (the members nearest to the centres).
    penalties
        Ridge penalties λ (noise over signal variance) tried in cross-validation.
    force_weights
        Weights of a force component (eV/Å) against an energy (eV) tried in cross-validation.
    force_rows, minima_rows
        Most rows of a frame's force components in the fit, where they were computed and where they
        are zero because the frame is a minimum; where a frame has more, as many random combinations
        of them stand for all. 0: all of them.
    minima_weight
        Weight of forces that are zero because the frame is a minimum, against 1 for computed ones:
        minima are many and alike, and where a model goes wrong is away from them.
    size_exponent
        Weights of the energy and forces of a structure of n > 15 atoms fall as (15 / n) to this
        power: large clusters have most of the rows, and small ones more of what differs.
    curvature_frames
        Most minima whose harmonic frequencies are used as curvatures; each costs 6 n_atoms
        calculations of the baseline.
    sample
        Environments of an element that projection and selection look at.
    """

    environments: Count = 1000
    length_scale: Length = 5.0
    sharp_share: Share = 0.0
    rank: Count = 150
    whitening: NotNegative = 0.2
    metric_exponent: NotNegative = 0.0
    variance_environments: Count = 200
    selection: Literal["random", "farthest", "kmeans"] = "farthest"
    penalties: Several[Positive] = (1e-6, 3e-6, 1e-5, 3e-5)
    force_weights: Several[Positive] = (0.03, 0.3)
    force_rows: Whole = 0
    minima_rows: Whole = 0
    minima_weight: Positive = 1.0
    size_exponent: NotNegative = 0.0
    curvature_frames: Whole = 0
    sample: Count = 20_000


_FULL_WEIGHT = 15


def size_weights(n_atoms: IntArray | int, exponent: float) -> FloatArray:
    """Weights of structures by :attr:`SparseSettings.size_exponent`."""
    return np.minimum(1.0, _FULL_WEIGHT / np.asarray(n_atoms)) ** exponent


@dataclass(frozen=True)
class SparseTrend:
    """``trend="sparse"``: see the module.

    Parameters
    ----------
    environments
        The inducing environments.
    offsets
        Of each element, of the charge and of its magnitude, eV, shape (n_elements + 2,).
    coefficients
        w, eV, shape (m,).
    variance_counts
        How many of each element's first environments the variance uses, shape (n_elements,).
    free_map, shift, factor
        Factors of the posterior variance, see :func:`posterior.prediction_rows`.
    spacings
        Usual distance of a training atom of each element to environments not its own, in units of
        σ, shape (n_elements,).
    """

    kind: ClassVar[str] = "sparse"

    environments: Environments
    offsets: FloatArray
    coefficients: FloatArray
    variance_counts: IntArray
    free_map: FloatArray
    shift: FloatArray
    factor: FloatArray
    spacings: FloatArray

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""
        return self.environments.elements

    @cached_property
    def _of_variance(self) -> Environments:
        return self.environments.first(self.variance_counts)

    def compiled(self) -> SparseTrend:
        """The same by compiled products, where numba is installed; sums differ by rounding."""
        return self._compiled

    @cached_property
    def _compiled(self) -> SparseTrend:
        try:
            from ase_knncalc._lib.compiled import held, product
        except ImportError:
            return self
        return replace(self, environments=self.environments.multiplied_by(product, held))

    def predict(self, batch: FeatureBatch) -> FloatArray:
        """Trend of each structure in eV, shape (n_structures,)."""
        local = np.empty(len(batch))
        for block in self.environments.kernels(batch):
            local[block.rows] = block.weighted(self._weights)
        return np.asarray(composition_columns(batch, self.elements) @ self.offsets + local)

    def evaluate(self, batch: FeatureBatch, *, gradient: bool = False) -> TrendEstimate:
        """Trend, its variance, the remoteness and the gradient, from one pass over the kernels."""
        local = np.empty(len(batch))
        products = np.empty((len(batch), self.factor.shape[1]))
        distances = np.zeros(len(batch.numbers))
        slopes = np.zeros(batch.local.shape) if gradient else None
        for block in self.environments.kernels(batch):
            atoms = batch.atoms_of(block.rows)
            if slopes is not None:
                slopes[atoms] = self.environments.pulled(block, self.coefficients)
            local[block.rows] = block.weighted(self._weights)
            products[block.rows] = self._products(block)
            distances[atoms] = block.distances(self.spacings)
        free = composition_columns(batch, self.elements)
        rows = rows_of_products(free, products, self.free_map, self.shift)
        return TrendEstimate(
            free @ self.offsets + local,
            np.einsum("ij,ij->i", rows, rows),
            batch.sum_atoms(distances) / batch.sizes,
            slopes,
        )

    def of_one(self, batch: FeatureBatch) -> tuple[float, FloatArray]:
        """Trend of a single structure in eV and its gradient by the rows, and nothing else."""
        value, slope = self.environments.value_and_gradient(
            batch.numbers, batch.local[:], self.coefficients
        )
        (free,) = composition_columns(batch, self.elements)
        return value + float(free @ self.offsets), slope

    def atom_remoteness(self, batch: FeatureBatch) -> FloatArray:
        """Distance of each atom to the nearest inducing environment, (n_atoms_total,).

        In units of what is usual for training atoms of its element (:attr:`spacings`).
        """
        return self.environments.distances(batch, self.spacings)

    def _products(self, block: KernelBlock) -> FloatArray:
        """Kernel sums of the variance times its factor, read for elements that are there alone."""
        out = np.zeros((len(block.part), self.factor.shape[1]))
        sums = block.sums(self.variance_counts)
        for own, near, (columns, factor) in zip(sums, block.gaussians, self._factors, strict=True):
            if len(near):
                out[:, columns] += own @ factor
        return out

    @cached_property
    def _factors(self) -> list[tuple[slice, FloatArray]]:
        """Of each element the columns of the factor that are not zero, and these."""
        found = []
        for block in self._of_variance.blocks:
            own = self.factor[block]
            used = np.flatnonzero(own.any(axis=0))
            columns = slice(used[0], used[-1] + 1) if len(used) else slice(0)
            found.append((columns, own[:, columns]))
        return found

    @cached_property
    def _weights(self) -> list[FloatArray]:
        """The coefficients of each element."""
        return [self.coefficients[block] for block in self.environments.blocks]

    def force_leverage(self, numbers: IntArray, moving: MovingRows) -> FloatArray:
        """Mean posterior variance of each atom's force components, shape (n_atoms,).

        In units of the noise variance of an energy (so Å⁻²); arguments as for
        :meth:`Environments.slopes`. In single precision: within some thousandths.
        """
        slopes = self._of_variance.single_slopes(numbers, moving)
        rows = np.zeros((len(slopes), self.factor.shape[1]), dtype=np.float32)
        for number, block in zip(self.elements, self._of_variance.blocks, strict=True):
            if number in numbers:
                rows += slopes[:, block] @ self._single_factor[block]
        squares: FloatArray = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        return np.asarray(squares.reshape(-1, 3).mean(axis=1))

    @cached_property
    def _single_factor(self) -> FloatArray:
        return self.factor.astype(np.float32)

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance, shape (n_structures, d)."""
        sums = self._of_variance.sums(batch)
        free = composition_columns(batch, self.elements)
        return prediction_rows(free, sums, self.free_map, self.shift, self.factor)

    @classmethod
    def from_arrays(cls, elements: tuple[int, ...], arrays: Mapping[str, AnyArray]) -> SparseTrend:
        """From what :meth:`arrays` gives."""
        own = {name: arrays[name] for name in _OWN_ARRAYS}
        return cls(Environments.from_arrays(elements, arrays), **own)

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps."""
        return self.environments.arrays() | {name: getattr(self, name) for name in _OWN_ARRAYS}

    def validate(self, descriptor: Descriptor) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""
        self.environments.validate(descriptor.n_features)
        n, m = len(self.elements), len(self.environments.points)
        require_shape("offsets", self.offsets, (n + 2,))
        require_shape("variance_counts", self.variance_counts, (n,))
        require_shape("coefficients", self.coefficients, (m,))
        n_rank = self.free_map.shape[-1] if self.free_map.ndim == 2 else -1
        n_columns = self.shift.shape[-1] if self.shift.ndim == 2 else -1
        require_shape("free_map", self.free_map, (n + 2, n_rank))
        require_shape("shift", self.shift, (n_rank, n_columns))
        require_counts(self.variance_counts, m)
        if np.any(self.variance_counts > self.environments.counts):
            raise SettingsError("trend: counts of inducing environments do not fit")
        require_shape("factor", self.factor, (int(self.variance_counts.sum()), n_columns))
        require_shape("spacings", self.spacings, (n,))
        if np.any(self.spacings < 1e-6):
            raise SettingsError("trend: spacings must be at least 1e-6")


_OWN_ARRAYS = tuple(f.name for f in fields(SparseTrend) if f.name != "environments")
