"""Heads: properties beside the energy, linear in kernels of the trend's inducing environments.

    y(x) = offsets · composition(x) + Σ_i Σ_m w_m k(x_i, z_m)

as the sparse trend itself is, with the first points z_m of each element and w of its own: one pass
over the kernels serves all heads. Each knows its error from a posterior variance on fewer points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import SettingsError
from ase_knncalc.trend.base import composition_columns
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.posterior import rows_of_products
from ase_knncalc.uncertainty import Calibration, Signals

HeadKind = Literal["scalar", "thermochemistry", "level", "dipole"]
HEAD_KINDS: tuple[str, ...] = get_args(HeadKind)


def signals_of(leverage: FloatArray, n_atoms: IntArray, remoteness: FloatArray) -> Signals:
    """Signals of heads: they have no neighbours."""
    none = np.zeros(len(leverage))
    sizes = np.asarray(n_atoms, dtype=np.float64)
    return Signals(np.asarray(leverage, dtype=np.float64), none, none, sizes, remoteness)


def free_columns(composition: FloatArray, kind: str) -> FloatArray:
    """Columns without a penalty, shape (n, n_elements + 2) or one more.

    Of thermochemistry a constant is among them: a structure of any size has six modes fewer than
    coordinates of its atoms, as it moves and turns as a whole.
    """
    if kind != "thermochemistry":
        return composition
    return np.hstack([composition, np.ones((len(composition), 1))])


@dataclass(frozen=True)
class Posterior:
    """Posterior variance on some environments of each element.

    Parameters
    ----------
    counts
        How many of each element's first environments, shape (n_elements,).
    free_map, shift, factor
        See :func:`ase_knncalc.trend.posterior.prediction_rows`; rows of the map beyond those of
        composition columns are of offsets of further sources of labels.
    spacings
        As of :class:`~ase_knncalc.trend.sparse.SparseTrend`, to the environments of the head.
    """

    counts: IntArray
    free_map: FloatArray
    shift: FloatArray
    factor: FloatArray
    spacings: FloatArray

    def leverage(self, free: FloatArray, sums: FloatArray) -> FloatArray:
        """Posterior variance in units of the noise variance, shape (n,).

        Parameters
        ----------
        free
            Composition columns, shape (n, n_free).
        sums
            Kernel sums with the environments of ``counts``, shape (n, Σ counts).
        """
        own = self.free_map[: free.shape[1]]
        rows = rows_of_products(free, sums @ self.factor, own, self.shift)
        return np.asarray(np.einsum("ij,ij->i", rows, rows))

    def determines(self, free: FloatArray) -> bool:
        """Whether the offsets of a composition (n_free,) follow from those of the training."""
        column = np.zeros(len(self.free_map))
        column[: len(free)] = free
        rest = column - self._span @ (self._span.T @ column)
        return bool(np.abs(rest).max() <= 1e-6 * np.abs(free).max())

    @cached_property
    def _span(self) -> FloatArray:
        """Orthonormal columns that span what the training's compositions span."""
        directions, sizes, _ = np.linalg.svd(self.free_map, full_matrices=False)
        return np.asarray(directions[:, sizes > 1e-10 * max(float(sizes.max(initial=0.0)), 1e-300)])


@dataclass(frozen=True)
class HeadEstimate:
    """What a head says of n structures.

    Attributes
    ----------
    values, stds : ndarray, shape (n, n_outputs)
    novelty : ndarray, shape (n,)
        1 at the 99th percentile of the head's own held-out training structures.
    """

    values: FloatArray
    stds: FloatArray
    novelty: FloatArray


@dataclass(frozen=True)
class Head:
    """One property, or several that were learned together.

    Parameters
    ----------
    name
        Such as ``"polarizability"``.
    kind
        What its outputs mean.
    unit
        Of all outputs.
    outputs
        Names of what it gives.
    counts
        How many of each element's first environments it uses, shape (n_elements,).
    offsets
        Of each element, the charge and its magnitude, shape (n_elements + 2, n_outputs); of
        thermochemistry a constant, too (:func:`free_columns`).
    coefficients
        Shape (Σ counts, n_outputs).
    posterior
    calibrations
        One for each output.
    details
        Plain values: labels, penalty, errors left out.
    """

    name: str
    kind: HeadKind
    unit: str
    outputs: tuple[str, ...]
    counts: IntArray
    offsets: FloatArray
    coefficients: FloatArray
    posterior: Posterior
    calibrations: tuple[Calibration, ...]
    details: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each output is among all."""
        return {name: i for i, name in enumerate(self.outputs)}

    def evaluate(
        self, free: FloatArray, sums: Sequence[FloatArray], n_atoms: IntArray, nearest: FloatArray
    ) -> HeadEstimate:
        """Outputs and their errors.

        Parameters
        ----------
        free
            Composition columns, shape (n, n_elements + 2).
        sums
            Kernel sums of each element, shape (n, at least counts of the element).
        n_atoms
            Shape (n,).
        nearest
            Mean distance of the atoms from environments, shape (n,).
        """
        free = free_columns(free, self.kind)
        own = _first(sums, self.counts)
        leverage = self.posterior.leverage(free, _first(sums, self.posterior.counts))
        signals = signals_of(leverage, n_atoms, nearest)
        return HeadEstimate(
            free @ self.offsets + own @ self.coefficients,
            np.column_stack([c.std(signals) for c in self.calibrations]),
            self.calibrations[0].novelty(signals),
        )

    def determines(self, composition: FloatArray) -> bool:
        """Whether offsets of a composition (n_elements + 2,) follow from those of the training."""
        return self.posterior.determines(free_columns(composition[None], self.kind)[0])

    def validate(self, environments: Environments) -> None:
        """Raise :class:`SettingsError` unless the arrays fit each other and the environments."""
        k, n = len(self.outputs), len(environments.elements)
        if self.kind not in HEAD_KINDS or not k or len(set(self.outputs)) != k:
            raise SettingsError(f"head {self.name!r}: kind {self.kind!r}, outputs {self.outputs}")
        post = self.posterior
        for what, counts in (("counts", self.counts), ("posterior counts", post.counts)):
            fits = counts.shape == (n,) and counts.dtype.kind in "iu"
            if not fits or np.any(counts < 0) or np.any(counts > environments.counts):
                raise SettingsError(f"head {self.name!r}: {what} do not fit the environments")
        rank = post.free_map.shape[-1] if post.free_map.ndim == 2 else -1
        width = post.shift.shape[-1] if post.shift.ndim == 2 else -1
        n_free = free_columns(np.zeros((1, n + 2)), self.kind).shape[1]
        shapes = {
            "offsets": (self.offsets, (n_free, k)),
            "coefficients": (self.coefficients, (int(self.counts.sum()), k)),
            "free_map": (post.free_map, (max(n_free, len(post.free_map)), rank)),
            "shift": (post.shift, (rank, width)),
            "factor": (post.factor, (int(post.counts.sum()), width)),
            "spacings": (post.spacings, (n,)),
        }
        for what, (array, shape) in shapes.items():
            if array.shape != shape:
                raise SettingsError(
                    f"head {self.name!r}: {what} has shape {array.shape}, expected {shape}"
                )
        if np.any(post.spacings < 1e-6):
            raise SettingsError(f"head {self.name!r}: spacings must be at least 1e-6")
        if len(self.calibrations) != k:
            raise SettingsError(f"head {self.name!r}: {len(self.calibrations)} calibrations")
        for calibration in self.calibrations:
            calibration.validate()


def _first(sums: Sequence[FloatArray], counts: IntArray) -> FloatArray:
    """Of each element's sums the first ones, side by side."""
    return np.hstack([s[:, : int(n)] for s, n in zip(sums, counts, strict=True)])


@dataclass(frozen=True)
class Heads:
    """The heads of a model, and the environments that any of them needs."""

    environments: Environments
    heads: tuple[Head, ...]

    @classmethod
    def on(cls, environments: Environments, heads: Sequence[Head]) -> Heads:
        """Heads on the environments of a trend, of which no more are kept than are needed."""
        counts = [h.counts for h in heads] + [h.posterior.counts for h in heads]
        return cls(environments.first(np.max(counts, axis=0)), tuple(heads))

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def alone(self, name: str) -> tuple[Heads, Environments]:
        """One head with what it needs, and the environments of its coefficients; made once."""
        return self._alone[name]

    @cached_property
    def _alone(self) -> dict[str, tuple[Heads, Environments]]:
        return {
            head.name: (Heads.on(self.environments, [head]), self.environments.first(head.counts))
            for head in self.heads
        }

    @property
    def names(self) -> list[str]:
        """Of the heads."""
        return [head.name for head in self.heads]

    def evaluate(self, batch: FeatureBatch) -> dict[str, HeadEstimate]:
        """What each head says, by its name."""
        elements = self.environments.elements
        counts = self.environments.counts
        sums = [np.empty((len(batch), int(n))) for n in counts]
        nearest = np.zeros(len(batch.numbers))
        for block in self.environments.kernels(batch):
            for table, of_block in zip(sums, block.sums(), strict=True):
                table[block.rows] = of_block
            nearest[batch.atoms_of(block.rows)] = block.distances()
        free = composition_columns(batch, elements)
        places = np.searchsorted(elements, batch.numbers)
        found = {}
        for head in self.heads:
            relative = nearest / head.posterior.spacings[places]
            remoteness = batch.sum_atoms(relative) / batch.sizes
            found[head.name] = head.evaluate(free, sums, batch.sizes, remoteness)
        return found
