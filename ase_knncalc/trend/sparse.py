"""The sparse local-kernel trend: Gaussian-process regression on atomic environments.

    T(x) = offsets · composition(x) + Σ_i Σ_m w_m exp(−|P(x_i − μ) − z_m|² / 2σ²)

The inner sum runs over inducing environments z_m of the same element as atom i, so that T is a sum
over atoms (size-extensive) and its cost does not grow with the training set. P is a partially
whitened principal-component projection of each element's FCHL19 rows.

References
----------
A. P. Bartók, R. Kondor, G. Csányi, Phys. Rev. B 87, 184115 (2013): sums of atomic kernels.
J. Quiñonero-Candela, C. E. Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005): sparse approximations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from ase_knncalc._lib.arguments import (
    not_negative,
    one_of,
    positive,
    settle,
    several,
    whole,
)
from ase_knncalc._lib.rowstore import Rows, allocate, folder_of
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.base import TrendEstimate, composition_columns, require_shape
from ase_knncalc.trend.kernels import (
    KernelBlock,
    gaussian,
    kernel_blocks,
    kernel_sums,
    whitened,
    whitener,
)
from ase_knncalc.trend.posterior import prediction_leverage, prediction_rows

FloatArray = np.ndarray
IntArray = np.ndarray

# Kernels above this are of an environment with itself, in the precision of a file.
_SAME = 1.0 - 1e-8


def _length(name: str, value: Any) -> float:
    """Positive, and no number by which distances become infinite."""
    if positive(name, value) < 1e-12:
        raise SettingsError(f"{name} must be at least 1e-12, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class SparseSettings:
    """How the sparse trend is made.

    Parameters
    ----------
    environments
        Most inducing environments of an element.
    length_scale
        σ of the Gaussian kernel, in units of the projected descriptor.
    rank
        Principal components kept for each element.
    whitening
        Exponent α: components are scaled by (their standard deviation) ** −α; 0 is plain PCA,
        1 full whitening. The total variance is kept.
    variance_environments
        Inducing environments of an element that the posterior variance uses.
    selection
        How environments are chosen: ``"random"``, ``"farthest"`` (farthest point) or
        ``"kmeans"`` (the members nearest to the centres).
    penalties
        Ridge penalties λ (noise over signal variance) tried in cross-validation.
    force_weights
        Weights of a force component (eV/Å) against an energy (eV) tried in cross-validation.
    sample
        Environments of an element that projection and selection look at.
    """

    environments: int = 1000
    length_scale: float = 5.0
    rank: int = 150
    whitening: float = 0.2
    variance_environments: int = 200
    selection: Literal["random", "farthest", "kmeans"] = "farthest"
    penalties: tuple[float, ...] = (1e-6, 3e-6, 1e-5, 3e-5)
    force_weights: tuple[float, ...] = (0.03, 0.3)
    sample: int = 20_000

    def __post_init__(self) -> None:
        settle(
            self,
            environments=whole(1),
            length_scale=_length,
            rank=whole(1),
            whitening=not_negative,
            variance_environments=whole(1),
            selection=one_of(("random", "farthest", "kmeans")),
            penalties=several(positive),
            force_weights=several(positive),
            sample=whole(1),
        )


@dataclass(frozen=True)
class SparseTrend:
    """``trend="sparse"``: see the module.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    offsets
        Of each element, of the charge and of its magnitude, eV, shape (n_elements + 2,).
    length_scale
        σ, shape ().
    means
        μ of each element, shape (n_elements, n_features).
    projections
        P of each element, shape (n_elements, rank, n_features).
    environments
        All inducing environments z, shape (m, rank), those of an element together.
    counts
        How many of them each element has, shape (n_elements,).
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

    elements: tuple[int, ...]
    offsets: FloatArray
    length_scale: FloatArray
    means: FloatArray
    projections: FloatArray
    environments: FloatArray
    counts: IntArray
    coefficients: FloatArray
    variance_counts: IntArray
    free_map: FloatArray
    shift: FloatArray
    factor: FloatArray
    spacings: FloatArray
    _blocks: list[slice] = field(init=False, repr=False, compare=False)
    _maps: list[FloatArray] = field(init=False, repr=False, compare=False)
    _points: list[FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_shape("length_scale", self.length_scale, ())
        require_shape("counts", self.counts, (len(self.elements),))
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        blocks = [slice(int(a), int(b)) for a, b in pairwise(starts)]
        sigma = _length("trend: length_scale", self.length_scale.item())
        # In float64 from here on: single precision is amplified by the whitening.
        scaled = self.environments.astype(np.float64) / sigma
        set_ = object.__setattr__
        set_(self, "_blocks", blocks)
        set_(self, "_maps", [p.astype(np.float64).T / sigma for p in self.projections])
        set_(self, "_points", [scaled[b] for b in blocks])

    def project(self, element: int, rows: FloatArray) -> FloatArray:
        """Environments of one element (by its place) in units of σ, shape (n, rank)."""
        centred = rows.astype(np.float64) - self.means[element]
        return np.asarray(centred @ self._maps[element])

    def predict(self, batch: FeatureBatch) -> FloatArray:
        """Trend of each structure in eV, shape (n_structures,)."""
        local = np.empty(len(batch))
        for block in self._blocks_of(batch):
            local[block.rows] = self._weighted(block.sums())
        return np.asarray(composition_columns(batch, self.elements) @ self.offsets + local)

    def evaluate(self, batch: FeatureBatch) -> TrendEstimate:
        """Trend, its variance and the remoteness, from one pass over the kernels."""
        local = np.empty(len(batch))
        firsts = np.empty((len(batch), int(self.variance_counts.sum())))
        distances = np.zeros(len(batch.numbers))
        for block in self._blocks_of(batch):
            sums = block.sums()
            local[block.rows] = self._weighted(sums)
            of_variance = [s[:, : int(n)] for s, n in zip(sums, self.variance_counts, strict=True)]
            np.concatenate(of_variance, axis=1, out=firsts[block.rows])
            self._nearest(block, distances[batch.atoms_of(block.rows)])
        free = composition_columns(batch, self.elements)
        return TrendEstimate(
            free @ self.offsets + local,
            prediction_leverage(free, firsts, self.free_map, self.shift, self.factor),
            batch.sum_atoms(distances) / batch.sizes,
        )

    def atom_remoteness(self, batch: FeatureBatch, others: bool = False) -> FloatArray:
        """Distance of each atom to the nearest inducing environment, (n_atoms_total,).

        In units of what is usual for training atoms of its element (:attr:`spacings`).

        Parameters
        ----------
        others
            Leave environments that equal the atom's own out of account: for training structures.
        """
        found = np.zeros(len(batch.numbers))
        for block in self._blocks_of(batch):
            self._nearest(block, found[batch.atoms_of(block.rows)], others)
        return found

    def _blocks_of(self, batch: FeatureBatch) -> Iterator[KernelBlock]:
        return kernel_blocks(batch, self.elements, self.project, self._points)

    def _weighted(self, sums: list[FloatArray]) -> FloatArray:
        """Σ w_m k_m of each structure, eV."""
        parts = [s @ self.coefficients[b] for s, b in zip(sums, self._blocks, strict=True)]
        return np.asarray(np.sum(parts, axis=0))

    def _nearest(self, block: KernelBlock, out: FloatArray, others: bool = False) -> None:
        """Distances of a block's atoms, see :meth:`atom_remoteness`."""
        for e, (mask, kernel) in enumerate(zip(block.masks, block.kernels, strict=True)):
            if not kernel.size:
                continue
            if others:
                kernel[kernel > _SAME] = 0.0
            nearest = np.maximum(kernel.max(axis=1), np.finfo(np.float64).tiny)
            out[mask] = np.sqrt(-2.0 * np.log(nearest)) / self.spacings[e]

    def gradient(self, numbers: IntArray, local: FloatArray) -> FloatArray:
        """dT/d(row) of each atom, eV, shape (n_atoms, n_features)."""
        slope = np.empty_like(local, dtype=np.float64)
        for e, number in enumerate(self.elements):
            mask = numbers == number
            if not mask.any():
                continue
            z = self.project(e, local[mask])
            points = self._points[e]
            weighted = gaussian(z, points) * self.coefficients[self._blocks[e]]
            pull = weighted @ points - weighted.sum(axis=1)[:, None] * z
            slope[mask] = pull @ self._maps[e].T
        return slope

    def slopes(
        self,
        numbers: IntArray,
        local: FloatArray,
        derivative: FloatArray,
        counts: IntArray | None = None,
    ) -> FloatArray:
        """Derivatives of the kernel sums with the inducing environments, in Å⁻¹.

        Parameters
        ----------
        numbers, local, derivative
            Of one structure: shapes (n_atoms,), (n_atoms, n_features) and
            (n_atoms, n_features, n_atoms, 3).
        counts
            How many of each element's first environments to take; all by default.

        Returns
        -------
        ndarray, shape (3 n_atoms, n_environments)
        """
        sizes = self.counts if counts is None else counts
        starts = np.concatenate([[0], np.cumsum(sizes)])
        n = len(numbers)
        out = np.zeros((3 * n, int(starts[-1])))
        for e, number in enumerate(self.elements):
            atoms = np.flatnonzero(np.asarray(numbers) == number)
            points = self._points[e][: int(sizes[e])]
            if not len(atoms) or not len(points):
                continue
            z = self.project(e, local[atoms])
            kernel = gaussian(z, points)
            part = out[:, starts[e] : starts[e + 1]]
            for i, atom in enumerate(atoms):
                moved = derivative[atom].reshape(local.shape[1], 3 * n).T @ self._maps[e]
                # d k(z_i, p)/dR = k (p − z_i) · dz_i/dR
                part += (moved @ points.T - (moved @ z[i])[:, None]) * kernel[i]
        return out

    def force_leverage(
        self, numbers: IntArray, local: FloatArray, derivative: FloatArray
    ) -> FloatArray:
        """Mean posterior variance of each atom's force components, shape (n_atoms,).

        In units of the noise variance of an energy (so Å⁻²); arguments as for :meth:`slopes`.
        """
        rows = self.slopes(numbers, local, derivative, self.variance_counts) @ self.factor
        return np.asarray(np.einsum("ij,ij->i", rows, rows).reshape(-1, 3).mean(axis=1))

    def posterior_rows(self, batch: FeatureBatch) -> FloatArray:
        """Rows whose products are the posterior covariance, shape (n_structures, d)."""
        sums = kernel_sums(batch, self.elements, self.project, self._variance_points())
        free = composition_columns(batch, self.elements)
        return prediction_rows(free, sums, self.free_map, self.shift, self.factor)

    def variance_columns(self, batch: FeatureBatch) -> tuple[Rows, list[FloatArray]]:
        """Columns of a small regression on the environments of the variance.

        Returns
        -------
        columns : ndarray, shape (n_structures, n_columns)
            Whitened kernel sums, on disk if they are many.
        whiteners : list of ndarray
            From plain to whitened sums, for each element. Their columns have no fixed sign:
            nothing that depends on them may outlive the fit.
        """
        points = self._variance_points()
        whiteners = [whitener(p) for p in points]
        shape = len(batch), sum(w.shape[1] for w in whiteners)
        columns = allocate(shape, "float64", folder_of(batch.local))
        for block in kernel_blocks(batch, self.elements, self.project, points):
            columns[block.rows] = whitened(block.sums(), whiteners)
        return columns, whiteners

    def _variance_points(self) -> list[FloatArray]:
        return [p[: int(n)] for p, n in zip(self._points, self.variance_counts, strict=True)]

    def arrays(self) -> dict[str, FloatArray]:
        """What a model file keeps."""
        return {
            "offsets": self.offsets,
            "length_scale": self.length_scale,
            "means": self.means,
            "projections": self.projections,
            "environments": self.environments,
            "counts": self.counts,
            "coefficients": self.coefficients,
            "variance_counts": self.variance_counts,
            "free_map": self.free_map,
            "shift": self.shift,
            "factor": self.factor,
            "spacings": self.spacings,
        }

    def validate(self, n_features: int) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the descriptor."""
        if self.projections.ndim != 3 or self.environments.ndim != 2:
            raise SettingsError("trend: projections and environments have the wrong dimensions")
        n, rank, m = len(self.elements), self.projections.shape[1], len(self.environments)
        require_shape("offsets", self.offsets, (n + 2,))
        require_shape("means", self.means, (n, n_features))
        require_shape("projections", self.projections, (n, rank, n_features))
        require_shape("environments", self.environments, (m, rank))
        require_shape("counts", self.counts, (n,))
        require_shape("variance_counts", self.variance_counts, (n,))
        require_shape("coefficients", self.coefficients, (m,))
        n_rank = self.free_map.shape[-1] if self.free_map.ndim == 2 else -1
        n_columns = self.shift.shape[-1] if self.shift.ndim == 2 else -1
        require_shape("free_map", self.free_map, (n + 2, n_rank))
        require_shape("shift", self.shift, (n_rank, n_columns))
        whole = self.counts.dtype.kind in "iu" and self.variance_counts.dtype.kind in "iu"
        # Each within bounds before the sum, which could overflow.
        if not whole or any(
            np.any(c < 0) or np.any(c > m) for c in (self.counts, self.variance_counts)
        ):
            raise SettingsError(f"trend: counts of environments must be from 0 to {m}")
        if self.counts.sum() != m or np.any(self.variance_counts > self.counts):
            raise SettingsError("trend: counts of inducing environments do not fit")
        require_shape("factor", self.factor, (int(self.variance_counts.sum()), n_columns))
        require_shape("spacings", self.spacings, (n,))
        if np.any(self.spacings < 1e-6):
            raise SettingsError("trend: spacings must be at least 1e-6")
