"""Metrics of the k-NN term: where structures lie, so that near means alike.

Distances between places are Euclidean. MLKR, principal components, random projections and the plain
Euclidean distance of global descriptors differ in the linear map alone (:class:`LinearMetric`);
:mod:`ase_knncalc.training.metric` says how each of them is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray
from ase_knncalc.descriptors import Descriptor, FeatureBatch, of_atoms, summed_width
from ase_knncalc.errors import SettingsError
from ase_knncalc.knn.kernel_map import KernelMap

# Structures that are projected at a time.
_BLOCK = 10_000


class Metric(Protocol):
    """What the model needs of a metric."""

    kind: ClassVar[str]
    differentiable: ClassVar[bool]
    """Whether places have derivatives, so that forces exist."""

    @property
    def n_components(self) -> int:
        """Dimensions of the space."""

    def place(self, batch: FeatureBatch) -> FloatArray:
        """Where structures lie, shape (n_structures, n_components)."""

    def pull(self, numbers: IntArray, slope: FloatArray) -> FloatArray:
        """Gradient of a function of the place by each atom's row, shape (n_atoms, n_features).

        ``slope`` is the function's gradient at the structure's place, shape (n_components,).
        """

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps, by dataset."""

    def validate(self, descriptor: Descriptor) -> None:
        """Raise :class:`SettingsError` unless the metric is one of that descriptor."""


@dataclass(frozen=True)
class LinearMetric:
    """A linear map of global descriptors g, the sums of a structure's rows: z = A (g − μ).

    Parameters
    ----------
    components
        A, shape (n_components, n_features).
    mean
        μ, shape (n_features,).
    elements
        Atomic numbers whose sums stand side by side in a global descriptor; none where rows of all
        elements have one meaning.
    """

    kind: ClassVar[str] = "linear"
    differentiable: ClassVar[bool] = True

    components: FloatArray
    mean: FloatArray
    elements: tuple[int, ...] = ()

    @property
    def n_components(self) -> int:
        """Dimensions of the space."""
        return len(self.components)

    def place(self, batch: FeatureBatch) -> FloatArray:
        """Where structures lie, shape (n_structures, n_components)."""
        return self.project(batch.summed())

    def project(self, summed: FloatArray) -> FloatArray:
        """Places of global descriptors (…, n_features), shape (…, n_components)."""
        if summed.ndim == 1 or len(summed) <= _BLOCK:
            return np.asarray((summed - self.mean) @ self.components.T)
        starts = range(0, len(summed), _BLOCK)
        return np.concatenate([self.project(summed[i : i + _BLOCK]) for i in starts])

    def pull(self, numbers: IntArray, slope: FloatArray) -> FloatArray:
        """Gradient of a function of the place by each atom's row, shape (n_atoms, n_features)."""
        width = self.components.shape[1] // max(1, len(self.elements))
        return of_atoms(slope @ self.components, numbers, self.elements, width)

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps, by dataset."""
        return {
            "metric/components": self.components.astype(np.float32),
            "metric/mean": self.mean,
        }

    def validate(self, descriptor: Descriptor) -> None:
        """Raise :class:`SettingsError` unless the metric is one of that descriptor."""
        require_rows("metric/mean", len(self.mean), summed_width(descriptor))


@dataclass(frozen=True)
class KernelMetric:
    """The distance that the local kernel induces: coordinates of a :class:`KernelMap`, centred.

    Parameters
    ----------
    map
        Gives the coordinates.
    linear
        A linear map of them; trainings leave them as they are but for their mean.
    """

    kind: ClassVar[str] = "kernel"
    differentiable: ClassVar[bool] = False

    map: KernelMap
    linear: LinearMetric

    @property
    def n_components(self) -> int:
        """Dimensions of the space."""
        return self.linear.n_components

    def place(self, batch: FeatureBatch) -> FloatArray:
        """Where structures lie, shape (n_structures, n_components)."""
        return self.linear.project(self.map.features(batch))

    def pull(self, numbers: IntArray, slope: FloatArray) -> FloatArray:
        """It has none."""
        raise SettingsError("the kernel-induced distance has no gradient; use a linear metric")

    def arrays(self) -> dict[str, AnyArray]:
        """What a model file keeps, by dataset."""
        return self.linear.arrays() | {
            f"kernel_map/{name}": getattr(self.map, name)
            for name in ("sigma", "normalized", "landmarks", "counts")
        }

    def validate(self, descriptor: Descriptor) -> None:
        """Raise :class:`SettingsError` unless the metric is one of that descriptor."""
        require_rows("kernel_map/landmarks", self.map.landmarks.shape[1], descriptor.n_features)
        if self.map.n_columns != len(self.linear.mean) or self.map.elements != descriptor.elements:
            raise SettingsError("kernel_map is not that of the metric, or of the descriptor")


def require_rows(item: str, n: int, width: int) -> None:
    """Raise :class:`SettingsError` unless an item's rows are as long as the descriptor's."""
    if n != width:
        raise SettingsError(f"item {item!r} has rows of {n} numbers, the descriptor of {width}")
