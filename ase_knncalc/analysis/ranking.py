"""Predictions for many structures at once: baseline in parallel, one bar."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import instance
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.parallel import check_jobs, run
from ase_knncalc._lib.progress import track
from ase_knncalc._lib.threads import one_blas_thread
from ase_knncalc.charges import stated_copy
from ase_knncalc.data import KeyMap
from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import BaselineError
from ase_knncalc.labels.baseline import baseline_labels, brought_energy
from ase_knncalc.model import KNNModel
from ase_knncalc.prediction import Predictions

# Structures that are corrected at a time.
_BLOCK = 256


def predict_frames(
    model: KNNModel,
    frames: Iterable[Atoms],
    *,
    charge: int | None = None,
    baseline_energy: Sequence[float] | FloatArray | None = None,
    keys: KeyMap | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> Predictions:
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
        Structures. With ``baseline="given"`` each holds its baseline energy, as in training.
    charge
        Of every structure; by default each structure's own.
    baseline_energy
        Baseline energies in eV where they are known already, shape (n,): no baseline is run.
    keys
        Where structures keep the energies of ``baseline="given"``.
    cache
        SQLite file of baseline labels.
    n_jobs
        Processes (−1: all cores).
    progress
        Whether to show a progress bar.

    Raises
    ------
    StructureError
        If the model does not cover a structure: before any baseline is run.
    BaselineError
        If the model has no baseline, it fails for a structure, or a structure does not bring the
        energy that ``baseline="given"`` needs.
    SettingsError
        If ``baseline_energy`` is not one finite number for each structure, or not zero and the
        model has learned the reference itself.
    """
    instance("model", model, KNNModel)
    check_jobs(n_jobs)
    frames = [frames] if isinstance(frames, Atoms) else list(instance("frames", frames, Iterable))
    if baseline_energy is not None:
        energies = model.known_energies(len(frames), baseline_energy)
    elif model.baseline is None:
        raise BaselineError("the model has no baseline attached: load_model(..., baseline='auto')")
    if not frames:
        return model.predict([])
    charged = []
    for atoms in frames:
        total = model.check(atoms, charge)
        copy = stated_copy(atoms)
        copy.info["charge"] = total
        charged.append(copy)
    if baseline_energy is None:
        energies = baseline_of(
            model, frames, charged, keys=keys, cache=cache, n_jobs=n_jobs, progress=progress
        )
    bare = model.with_baseline(None)
    blocks = [charged[i : i + _BLOCK] for i in range(0, len(charged), _BLOCK)]
    parts = run(
        correct_frames,
        ((bare, block) for block in blocks),
        total=len(blocks),
        n_jobs=n_jobs if len(blocks) > 1 else 1,
    )
    corrections = list(track(parts, total=len(blocks), text="corrections", show=progress))
    return replace(Predictions.join(corrections), baseline_energy=energies)


def baseline_of(
    model: KNNModel,
    frames: Sequence[Atoms],
    charged: Sequence[Atoms],
    *,
    keys: KeyMap | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> FloatArray:
    """Baseline energies in eV, shape (n,); arguments and errors as for :func:`predict_frames`.

    ``charged`` are copies of ``frames`` with their total charge in ``info``.
    """
    if model.baseline is None:
        raise BaselineError("the model has no baseline attached: load_model(..., baseline='auto')")
    brought = [brought_energy(model.baseline, atoms, keys) for atoms in frames]
    if brought and brought[0] is not None:
        return np.array(brought, dtype=np.float64)
    labels = baseline_labels(charged, model.baseline, cache=cache, n_jobs=n_jobs, progress=progress)
    failed = [text for text in labels.errors if text]
    if failed:
        raise BaselineError(failed[0])
    return labels.energies


def correct_frames(model: KNNModel, frames: Sequence[Atoms]) -> Predictions:
    """Corrections of structures with their charges in ``info``, all at once; no baseline is run."""
    with one_blas_thread():
        return model.correct_features(
            featurize(
                model.descriptor,
                [(a.numbers, a.positions, int(a.info["charge"])) for a in frames],
            )
        )
