"""Records that are said to be minima of the reference and are none.

Their energies are right; a zero force there is not, and it spoils a model that learns from forces.
"""

from __future__ import annotations

from ase_knncalc.data.properties import frequencies_of
from ase_knncalc.labels.suspects import Suspect
from ase_knncalc.labels.training_data import ASSUMED, Prepared
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.trend.kinds import fit_trend

CATEGORY = "no-minimum"


def find_no_minima(
    prepared: Prepared,
    settings: TrainingSettings,
    *,
    n_jobs: int = 1,
    progress: bool = False,
) -> list[Suspect]:
    """Records with an imaginary frequency, and those that a fit to the others calls no minima.

    Parameters
    ----------
    prepared
        With zero forces at what is said to be a minimum (``prepare(minima=True)``).
    settings
        For the descriptor and the sparse trend, see :meth:`TrainingSettings.for_forces`.
    n_jobs, progress
        As for training.
    """
    data, frames = prepared.data, prepared.frames
    reasons: dict[int, str] = {}
    for i, atoms in enumerate(frames):
        known = frequencies_of(atoms)
        if len(known) and known.min() < 0 and not _has_forces(prepared, i):
            reasons[i] = f"it has an imaginary frequency, {-known.min():.0f}i cm⁻¹"
    if data.forces is not None:
        fit = fit_trend(
            "sparse",
            data.batch,
            data.delta,
            data.descriptor.elements,
            groups=data.groups,
            weights=data.weights,
            sparse=settings.sparse,
            seed=settings.seed,
            descriptor=data.descriptor,
            forces=data.forces,
            folds=settings.folds,
            n_jobs=n_jobs,
            progress=progress,
        )
        for i in fit.not_minima:
            reasons[int(i)] = (
                "its forces are far from zero by a fit that was made without them, in units of "
                "what such records show"
            )
    return [
        Suspect(
            index=i,
            name=data.names[i],
            composition=data.groups[i],
            category=CATEGORY,
            reason=f"{text}: its energy is a label, a zero force is none",
            residual_ev=float("nan"),
            expected_ev=float("nan"),
            score=float("nan"),
            certain=False,
        )
        for i, text in sorted(reasons.items())
    ]


def _has_forces(prepared: Prepared, i: int) -> bool:
    """Whether somebody computed the reference forces of a frame."""
    atoms = prepared.frames[i]
    return "reference_forces" in atoms.arrays and not atoms.info.get(ASSUMED)
