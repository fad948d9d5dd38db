"""Settings of a training, kept in the model as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from ase_knncalc._lib.arguments import (
    Count,
    Length,
    NotNegative,
    OneOf,
    Positive,
    Seed,
    Settings,
    Whole,
)
from ase_knncalc.descriptors import Descriptor, descriptor_from_dict
from ase_knncalc.knn.weights import WEIGHTS
from ase_knncalc.trend.base import TREND_KINDS
from ase_knncalc.trend.sparse import SparseSettings

# What answers where no model is named: energies and forces for all molecules of the shipped data.
DEFAULT_MODEL = "multibase-wb97xd"

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
class TrainingSettings(Settings):
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

    trend: Annotated[str, OneOf(TREND_KINDS)] = "sparse"
    k: Count = 10
    weights: Annotated[str, OneOf(("auto", *WEIGHTS))] = "auto"
    bandwidth: Length | None = None
    nugget: NotNegative | None = None
    metric: Annotated[str, OneOf(METRICS)] = "mlkr"
    n_components: Count = 50
    metric_samples: Annotated[Count, Ge(2)] = 5000
    metric_iterations: Whole = 100
    kernel_width: Positive = 20.0
    kernel_landmarks: Count = 300
    sparse: SparseSettings = field(default_factory=SparseSettings)
    descriptor_kind: str = "fchl19"
    compression: Count = 200
    descriptor_options: dict[str, Any] = field(default_factory=dict)
    folds: Annotated[Count, Ge(2)] = 5
    monomer_weight: Positive = 10_000.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        # With any element: what is wrong in the options is said here, not after the labels.
        made = self.descriptor([1]).to_dict()
        plain = {name: made[name] for name in self.descriptor_options}
        object.__setattr__(self, "descriptor_options", plain)

    @classmethod
    def for_forces(cls, **sparse: Any) -> TrainingSettings:
        """What validation on left-out compositions off equilibrium found best.

        For data with forces, or minima without: the power spectrum, a smooth kernel with some of a
        sharper one, and strong regularisation. ``sparse`` are fields of :class:`SparseSettings`
        that differ.
        """
        found: dict[str, Any] = {
            "length_scale": 4.0,
            "sharp_share": 0.05,
            "penalties": (3e-4,),
            "force_weights": (0.03,),
            "force_rows": 60,
            "minima_rows": 16,
            "minima_weight": 0.2,
            "size_exponent": 1.0,
            "curvature_frames": 600,
        }
        return cls(descriptor_kind="power-spectrum", sparse=SparseSettings(**(found | sparse)))

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
