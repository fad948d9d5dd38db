"""Predictions for many structures at once: baseline in parallel, one bar."""

from __future__ import annotations

import os
import warnings
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
from ase_knncalc.data import KeyMap, Omission
from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import BaselineError, KNNCalcError
from ase_knncalc.heads import Gas, properties_of, require_heads
from ase_knncalc.heads.dipole import has_dipole, require_dipoles
from ase_knncalc.heads.levels import level_of
from ase_knncalc.labels.baseline import baseline_labels, brought_energy
from ase_knncalc.model import KNNModel
from ase_knncalc.prediction import Predictions
from ase_knncalc.structure import resolve_charge, structure_label

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
    charged = [_charged(model, atoms, charge) for atoms in frames]
    if baseline_energy is None:
        energies = baseline_of(
            model, frames, charged, keys=keys, cache=cache, n_jobs=n_jobs, progress=progress
        )
    found = _corrections(model, charged, n_jobs, progress)
    warn_of_novelty(charged, found)
    return replace(found, baseline_energy=energies)


def predict_usable(
    model: KNNModel,
    frames: Sequence[Atoms],
    *,
    charge: int | None = None,
    keys: KeyMap | None = None,
    gas: Gas | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[Predictions, list[int], list[Omission]]:
    """:func:`predict_frames` of those structures that can be predicted.

    Parameters
    ----------
    model, charge, keys, n_jobs, progress
        As there.
    frames
        As :func:`~ase_knncalc.data.read_structures` gives them.
    gas
        Of the thermochemistry, where properties beside the energy are wanted, too: of the same
        baseline calculations and descriptors.

    Returns
    -------
    predictions : Predictions
    places : list of int
        Which of ``frames`` they are of.
    omitted : list of Omission
        The others, which the model does not cover or the baseline fails for, and why.

    Raises
    ------
    BaselineError
        If the model has no baseline, or one without the dipoles that properties need.
    """
    if model.baseline is None:
        raise BaselineError("the model has no baseline attached: load_model(..., baseline='auto')")
    with_dipoles = gas is not None and has_dipole(model.heads)
    if with_dipoles:
        require_dipoles(model.baseline)
    dipoles: dict[int, FloatArray | None] = {}
    omitted: list[Omission] = []

    def leave_out(i: int, reason: str, category: str) -> None:
        info = frames[i].info
        name, source = str(info.get("name", f"frame-{i}")), str(info.get("source", ""))
        omitted.append(Omission(i, name, source, reason, category))

    charged: dict[int, Atoms] = {}
    energies: dict[int, float] = {}
    for i, atoms in enumerate(frames):
        try:
            copy = _charged(model, atoms, charge)
            brought = brought_energy(model.baseline, atoms, keys)
        except KNNCalcError as e:
            leave_out(i, str(e), "baseline" if isinstance(e, BaselineError) else "not-covered")
            continue
        charged[i] = copy
        if brought is not None:
            energies[i] = brought
    missing = [i for i in charged if i not in energies]
    if missing:
        labels = baseline_labels(
            [charged[i] for i in missing],
            model.baseline,
            dipoles=with_dipoles,
            n_jobs=n_jobs,
            progress=progress,
        )
        for place, i in enumerate(missing):
            if labels.errors[place]:
                leave_out(i, labels.errors[place], "baseline")
            else:
                energies[i], dipoles[i] = float(labels.energies[place]), labels.dipoles[place]
    places = sorted(energies)
    if not places:
        return model.with_baseline(None).predict([]), [], omitted
    known = [dipoles.get(i) for i in places]
    found = _corrections(model, [charged[i] for i in places], n_jobs, progress, gas, known)
    warn_of_novelty([charged[i] for i in places], found)
    return replace(found, baseline_energy=np.array([energies[i] for i in places])), places, omitted


def predictions_at_level(
    model: KNNModel,
    frames: Sequence[Atoms],
    found: Predictions,
    level: str,
    *,
    charge: int | None = None,
) -> Predictions:
    """Predictions of structures with what a further level of theory adds, and its error.

    Parameters
    ----------
    model
        That knows the level.
    frames
        Those that ``found`` is of; minima, as the level was learned at.
    level
        Such as ``"dlpno"``.
    charge
        As it was for ``found``.

    Raises
    ------
    SettingsError
        If the model does not know the level.
    FormulaError
        If nothing determines what a formula adds at that level.
    """
    steps = (
        level_of(
            level,
            model.heads,
            model.descriptor,
            (atoms.numbers, atoms.positions, model.check(atoms, charge)),
        )
        for atoms in frames
    )
    single = [one.at_level(step) for one, step in zip(found, steps, strict=True)]
    return Predictions.of(single, found.calibration)


def _charged(model: KNNModel, atoms: Atoms, charge: int | None) -> Atoms:
    """A copy with its total charge in ``info``, if the model covers the structure."""
    total = model.check(atoms, charge)
    copy = stated_copy(atoms)
    copy.info["charge"] = total
    return copy


def warn_of_novelty(frames: Sequence[Atoms], found: Predictions, *, stacklevel: int = 3) -> None:
    """One warning for all structures that are outside of what the model knows."""
    outside = np.flatnonzero(found.outside)
    if not len(outside):
        return
    worst = int(np.argmax(found.novelty))
    several = "is" if len(outside) == 1 else "are"
    warnings.warn(
        f"{len(outside)} of {len(frames)} structures {several} far from the training data (novelty "
        f"above 1), most of all {structure_label(frames[worst])} with {found.novelty[worst]:.2f}: "
        "energy_std is calibrated only near the data, and their energies may be worse than it says",
        UserWarning,
        stacklevel=stacklevel,
    )


def _corrections(
    model: KNNModel,
    charged: Sequence[Atoms],
    n_jobs: int,
    progress: bool,
    gas: Gas | None = None,
    dipoles: Sequence[FloatArray | None] = (),
) -> Predictions:
    bare = model.with_baseline(None)
    blocks = [slice(i, i + _BLOCK) for i in range(0, len(charged), _BLOCK)]
    parts = run(
        correct_frames,
        ((bare, charged[block], gas, dipoles[block]) for block in blocks),
        total=len(blocks),
        n_jobs=n_jobs if len(blocks) > 1 else 1,
    )
    corrections = list(track(parts, total=len(blocks), text="corrections", show=progress))
    return Predictions.join(corrections)


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


def correct_frames(
    model: KNNModel,
    frames: Sequence[Atoms],
    gas: Gas | None = None,
    dipoles: Sequence[FloatArray | None] = (),
) -> Predictions:
    """Corrections of structures with their charges in ``info``, all at once; no baseline is run.

    With ``gas``, properties beside the energy, too; ``dipoles`` are the baseline's, e Å.
    """
    with one_blas_thread():
        batch = featurize(
            model.descriptor, [(a.numbers, a.positions, int(a.info["charge"])) for a in frames]
        )
        if gas is None:
            return model.correct_features(batch)
        batch = replace(batch, kernels=[])
        found = model.correct_features(batch)
        states = [(atoms, resolve_charge(atoms)[1]) for atoms in frames]
        moments = [dipole for dipole in dipoles if dipole is not None]
        properties = properties_of(require_heads(model.heads), batch, states, gas, moments or None)
        return replace(found, properties=properties)
