"""Settings of a training, kept in the model as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ase_knncalc._lib.arguments import instance, one_of, positive, seed, settle, whole
from ase_knncalc.descriptors import Descriptor, descriptor_from_dict
from ase_knncalc.errors import SettingsError
from ase_knncalc.knn.weights import WEIGHTS, KNNSettings
from ase_knncalc.trend.base import TREND_KINDS
from ase_knncalc.trend.sparse import SparseSettings

METRICS = ("mlkr", "euclidean", "pca", "random", "kernel", "kernel-normalised")

# FCHL19 as published for the published methods; for the sparse trend what cross-validation on
# random and composition splits found best: shorter cutoffs, a faster decay of the three-body part,
# and fewer radial functions (which cost time but no accuracy).
PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "linear": {},
    "sparse": {
        "rcut": 6.0,
        "acut": 6.0,
        "n_rs2": 16,
        "n_rs3": 14,
        "three_body_decay": 1.2,
    },
}


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is made.

    Parameters
    ----------
    trend
        ``"sparse"``, ``"linear"``, or ``"none"`` (as published: k-NN on referenced Δ alone).
    k
        Number of neighbours.
    weights
        ``"auto"``: ``"distance"`` without a trend, else ``"kernel"``, whose width and nugget are
        found by cross-validation. Or one of :class:`KNNSettings`' own.
    bandwidth, nugget
        Of the kernel or of kriging; None: found by cross-validation.
    metric
        ``"mlkr"`` (learned), ``"euclidean"`` (global descriptors as they are), ``"pca"`` or
        ``"random"`` (projections of the same rank, for comparison), ``"kernel"`` (the distance that
        the local kernel induces, :class:`~ase_knncalc.knn.kernel_map.KernelMap`) or
        ``"kernel-normalised"``.
    n_components
        Dimensions of the metric (not of the Euclidean one).
    metric_samples
        Most structures that MLKR learns from.
    kernel_width, kernel_landmarks
        σ of the kernel-induced distance, in units of the descriptor, and most landmarks of an
        element.
    metric_iterations
        Most L-BFGS iterations of MLKR.
    sparse
        Settings of the sparse trend.
    descriptor_kind
        ``"fchl19"``, ``"power-spectrum"`` or ``"slatm"``.
    compression
        Principal components kept of each element's rows of the power spectrum.
    descriptor_options
        Parameters of the descriptor that differ from the trend's preset (:data:`PRESETS`).
    folds
        Of the cross-validation behind tuning and calibration.
    monomer_weight
        Weight of monomers in the trend against 1 for each cluster: they are the zero of binding.
    seed
        Of every random choice.
    """

    trend: str = "sparse"
    k: int = 10
    weights: str = "auto"
    bandwidth: float | None = None
    nugget: float | None = None
    metric: str = "mlkr"
    n_components: int = 50
    metric_samples: int = 5000
    metric_iterations: int = 100
    kernel_width: float = 20.0
    kernel_landmarks: int = 300
    sparse: SparseSettings = field(default_factory=SparseSettings)
    descriptor_kind: str = "fchl19"
    compression: int = 200
    descriptor_options: dict[str, float] = field(default_factory=dict)
    folds: int = 5
    monomer_weight: float = 10_000.0
    seed: int = 0

    def __post_init__(self) -> None:
        settle(
            self,
            trend=one_of(TREND_KINDS),
            k=whole(1),
            weights=one_of(("auto", *WEIGHTS)),
            metric=one_of(METRICS),
            n_components=whole(1),
            metric_samples=whole(2),
            metric_iterations=whole(0),
            kernel_width=positive,
            kernel_landmarks=whole(1),
            sparse=instance(SparseSettings),
            descriptor_kind=instance(str),
            compression=whole(1),
            descriptor_options=instance(dict),
            folds=whole(2),
            monomer_weight=positive,
            seed=seed,
        )
        # Raises where a width makes no sense; those that are None are found in training.
        knn = KNNSettings(
            self.k,
            self.resolved_weights,
            1.0 if self.bandwidth is None else self.bandwidth,
            0.0 if self.nugget is None else self.nugget,
        )
        if self.bandwidth is not None:
            object.__setattr__(self, "bandwidth", knn.bandwidth)
        if self.nugget is not None:
            object.__setattr__(self, "nugget", knn.nugget)
        # With any element: what is wrong in the options is said here, not after the labels.
        made = self.descriptor([1]).to_dict()
        plain = {name: made[name] for name in self.descriptor_options}
        object.__setattr__(self, "descriptor_options", plain)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingSettings:
        """Settings as a model's provenance keeps them.

        Raises
        ------
        SettingsError
            If a name is unknown: the model comes from another version.
        """
        try:
            sparse: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v
                for k, v in values.get("sparse", {}).items()
            }
            return cls(**{**values, "sparse": SparseSettings(**sparse)})
        except (TypeError, AttributeError) as e:
            raise SettingsError(
                f"these settings are of another version of ase_knncalc ({e}); train again"
            ) from e

    def descriptor(self, elements: Sequence[int]) -> Descriptor:
        """Descriptor for structures of the given elements.

        Raises
        ------
        SettingsError
            If a parameter is unknown or makes no sense.
        """
        preset = PRESETS[self.trend] if self.descriptor_kind == "fchl19" else {}
        return descriptor_from_dict(
            {
                **preset,
                **self.descriptor_options,
                "kind": self.descriptor_kind,
                "elements": list(elements),
            }
        )

    @property
    def resolved_weights(self) -> str:
        """Weights with ``"auto"`` replaced."""
        if self.weights != "auto":
            return self.weights
        return "distance" if self.trend == "none" else "kernel"
