"""A descriptor whose rows are compressed to the principal components of their element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray
from ase_knncalc.descriptors.moving import Derivatives
from ase_knncalc.descriptors.power_spectrum import Expansion, PowerSpectrum
from ase_knncalc.errors import SettingsError


@dataclass(frozen=True)
class Compressed:
    """The first principal components of another descriptor's rows, those of each element its own.

    Rows of atoms of different elements have no common meaning: global descriptors keep them apart
    (:meth:`FeatureBatch.summed`).

    Parameters
    ----------
    base
        What is compressed.
    means
        Of the rows of each element, shape (n_elements, n_features of the base).
    axes
        Principal axes of each element in units that make the variance of all of its rows 1,
        float32, shape (n_elements, rank, n_features of the base).
    """

    kind: ClassVar[str] = "compressed"
    differentiable: ClassVar[bool] = True
    by_element: ClassVar[bool] = True

    base: PowerSpectrum
    means: FloatArray
    axes: FloatArray

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the descriptor distinguishes, ascending."""
        return self.base.elements

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        return int(self.axes.shape[1])

    @cached_property
    def maps(self) -> FloatArray:
        """The axes in double precision."""
        return self.axes.astype(np.float64)

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms, shape (n_atoms, n_features); see :meth:`PowerSpectrum.local`."""
        return self.moving(numbers, positions).rows

    def moving(self, numbers: IntArray, positions: FloatArray) -> CompressedRows:
        """Rows as from :meth:`local`, and what moves them."""
        expansion = self.base.moving(numbers, positions)
        return CompressedRows(self, np.searchsorted(self.elements, numbers), expansion)

    def blocks(self) -> dict[str, slice]:
        """The whole row: a principal component describes everything."""
        return {"environment": slice(0, self.n_features)}

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings, with the kind of descriptor."""
        return {"kind": self.kind, "base": self.base.to_dict(), "elements": list(self.elements)}

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps beside the settings."""
        return {"means": self.means, "axes": self.axes}

    @classmethod
    def from_arrays(cls, base: PowerSpectrum, arrays: Mapping[str, AnyArray]) -> Compressed:
        """From what :meth:`arrays` gives.

        Raises
        ------
        SettingsError
            If the arrays are not those of the base.
        """
        means, axes = arrays["means"], arrays["axes"]
        n, f = len(base.elements), base.n_features
        if means.shape != (n, f) or axes.ndim != 3 or (axes.shape[0], axes.shape[2]) != (n, f):
            raise SettingsError(
                f"descriptor: means {means.shape} and axes {axes.shape} do not fit {n} elements "
                f"with rows of {f} numbers"
            )
        return cls(base, means, axes)


@dataclass(frozen=True)
class CompressedRows:
    """Rows of one structure, see :class:`MovingRows`."""

    descriptor: Compressed
    kinds: IntArray
    expansion: Expansion

    @cached_property
    def rows(self) -> FloatArray:
        """Shape (n_atoms, n_features)."""
        full = self.expansion.rows
        out = np.empty((len(full), self.descriptor.n_features))
        for e in np.unique(self.kinds):
            mask = self.kinds == e
            out[mask] = (full[mask] - self.descriptor.means[e]) @ self.descriptor.maps[e].T
        return out

    def derivatives(self) -> Derivatives:
        """All derivatives of the rows."""
        return self.expansion.projected(self.descriptor.maps, self.kinds)

    def along(self, displacements: FloatArray) -> FloatArray:
        """Changes of the rows along displacements (k, n_atoms, 3), (k, n_atoms, n_features)."""
        full = self.expansion.along(displacements).astype(np.float32)
        out = np.empty((*full.shape[:2], self.descriptor.n_features))
        for e in np.unique(self.kinds):
            mask = self.kinds == e
            # In the precision of the axes: no energy comes from this.
            out[:, mask] = full[:, mask] @ self.descriptor.axes[e].T
        return out

    def pull(self, slopes: FloatArray) -> FloatArray:
        """Gradient of Σ slopes · rows by the positions, 1/Å, shape (n_atoms, 3)."""
        full = np.empty((len(slopes), self.descriptor.base.n_features))
        for e in np.unique(self.kinds):
            mask = self.kinds == e
            full[mask] = slopes[mask] @ self.descriptor.maps[e]
        return self.expansion.pull(full)


def compress(
    base: PowerSpectrum, structures: Iterable[tuple[IntArray, FloatArray]], rank: int
) -> Compressed:
    """Principal axes of the rows of some structures.

    Parameters
    ----------
    base
        What is compressed.
    structures
        Numbers (n_atoms,) and positions (n_atoms, 3) of each, Å. An element that none of them has
        gets axes of zeros.
    rank
        Components kept of each element; fewer where there are fewer atoms.
    """
    n_elements, f = len(base.elements), base.n_features
    counts, sums = np.zeros(n_elements), np.zeros((n_elements, f))
    squares = np.zeros((n_elements, f, f))
    for numbers, positions in structures:
        rows = base.local(numbers, positions)
        kinds = np.searchsorted(base.elements, numbers)
        for e in np.unique(kinds):
            own = rows[kinds == e]
            counts[e] += len(own)
            sums[e] += own.sum(axis=0)
            squares[e] += own.T @ own
    rank = min(rank, f)
    means = sums / np.maximum(counts, 1.0)[:, None]
    axes = np.zeros((n_elements, rank, f), dtype=np.float32)
    for e in np.flatnonzero(counts):
        covariance = squares[e] / counts[e] - np.outer(means[e], means[e])
        values, vectors = np.linalg.eigh(covariance)
        kept = int(min(rank, np.sum(values > values[-1] * 1e-12))) if values[-1] > 0 else 0
        if kept:
            axes[e, :kept] = vectors[:, ::-1][:, :kept].T / np.sqrt(values.clip(0.0).sum())
    return Compressed(base, means, axes)
