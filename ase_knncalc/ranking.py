"""Predictions for many structures at once: baseline in parallel, one bar."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms

from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import BaselineError
from ase_knncalc.labelling import baseline_labels
from ase_knncalc.model import KNNModel
from ase_knncalc.parallel import run
from ase_knncalc.prediction import Prediction
from ase_knncalc.progress import track
from ase_knncalc.threads import one_blas_thread

# Structures that are corrected at a time.
_BLOCK = 256


def predict_frames(
    model: KNNModel,
    frames: Sequence[Atoms],
    *,
    charge: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> Prediction:
    """Predict many structures on all cores; to rounding the numbers of ``model.predict(frames)``.

    Baselines first, each of them kept in ``cache`` as soon as it is known; then corrections, in
    blocks of structures, so that products of matrices take the place of thousands of small ones.
    Ten thousand conformers are one call; memory grows by what is known of each, not by
    descriptors.

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
    if not len(frames):
        return model.predict([])
    charged = []
    for atoms in frames:
        total = model.check(atoms, charge)
        copy = atoms.copy()
        copy.info["charge"] = total
        charged.append(copy)
    energies = baseline_of(model, charged, cache=cache, n_jobs=n_jobs, progress=progress)
    bare = model.with_baseline(None)
    blocks = [charged[i : i + _BLOCK] for i in range(0, len(charged), _BLOCK)]
    parts = run(
        correct_frames,
        ((bare, block) for block in blocks),
        total=len(blocks),
        n_jobs=n_jobs if len(blocks) > 1 else 1,
    )
    corrections = list(track(parts, total=len(blocks), text="corrections", show=progress))
    return replace(Prediction.join(corrections), baseline_energy=energies)


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


def correct_frames(model: KNNModel, frames: Sequence[Atoms]) -> Prediction:
    """Corrections of structures with their charges in ``info``, all at once; no baseline is run."""
    with one_blas_thread():
        return model.correct_features(
            featurize(
                model.descriptor,
                [(a.numbers, a.positions, int(a.info["charge"])) for a in frames],
            )
        )
