"""Predictions for many structures at once: baseline in parallel, one bar."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ase_knncalc.errors import BaselineError
from ase_knncalc.labelling import baseline_labels
from ase_knncalc.model import KNNModel, Prediction


def predict_frames(
    model: KNNModel,
    frames: Sequence[Atoms],
    *,
    charge: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> Prediction:
    """Predict many structures; the same numbers as ``model.predict(frames)``, on all cores.

    Parameters
    ----------
    model
        With its baseline attached.
    frames
        Structures.
    charge
        Of every structure; by default each structure's own.
    cache
        HDF5 file of baseline labels.
    n_jobs
        Processes (−1: all cores).
    progress
        Whether to show a progress bar.

    Raises
    ------
    StructureError
        If the model does not cover a structure: before any baseline is run.
    BaselineError
        If the model has no baseline, or it fails for a structure.
    """
    if model.baseline is None:
        raise BaselineError("the model has no baseline attached: load_model(..., baseline='auto')")
    charged = []
    for atoms in frames:
        total = model.check(atoms, charge)
        copy = atoms.copy()
        copy.info["charge"] = total
        charged.append(copy)
    energies = baseline_of(model, charged, cache=cache, n_jobs=n_jobs, progress=progress)
    return model.predict(charged, baseline_energy=energies)


def baseline_of(
    model: KNNModel,
    frames: Sequence[Atoms],
    *,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> np.ndarray:
    """Baseline energies in eV, shape (n,); arguments and errors as for :func:`predict_frames`."""
    if model.baseline is None:
        raise BaselineError("the model has no baseline attached: load_model(..., baseline='auto')")
    labels = baseline_labels(frames, model.baseline, cache=cache, n_jobs=n_jobs, progress=progress)
    failed = [text for text in labels.errors if text]
    if failed:
        raise BaselineError(failed[0])
    return labels.energies
