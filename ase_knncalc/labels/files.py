"""What is wrong with the labels of whole files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc.data import KeyMap, Omission, mixed_units, read_structures
from ase_knncalc.data.frames import is_jkqc
from ase_knncalc.data.keys import LEVELS, key_map
from ase_knncalc.errors import DataError, KNNCalcError
from ase_knncalc.labels import contradictions
from ase_knncalc.labels.minima import find_no_minima
from ase_knncalc.labels.suspects import Suspect, find_suspects, recheck_baselines
from ase_knncalc.labels.training_data import Prepared, prepare
from ase_knncalc.settings import TrainingSettings

# Of an element, for the fit that tells what is no minimum.
_ENVIRONMENTS = 300


def check_files(
    data: Any,
    *,
    baseline: Any = "auto",
    keys: KeyMap | None = None,
    settings: TrainingSettings | None = None,
    cache: str | os.PathLike[str] | None = None,
    minima: bool = False,
    frequencies: str | os.PathLike[str] | None = None,
    seed: int = 0,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[Prepared, list[Suspect]]:
    """Read, label and describe structures, and find those whose labels are wrong.

    Arguments as for :func:`ase_knncalc.train`; ``settings`` choose the descriptor. Frames with
    energies in another unit than the rest, which training refuses to read, are among ``omitted``.
    With ``minima``, records that are no minima are looked for, too
    (:func:`~ase_knncalc.labels.minima.find_no_minima`).

    Raises
    ------
    DataError
        If fewer than 2 usable frames are left, or all energies are in a wrong unit.
    BaselineError
        If baseline energies in the data are not those of the baseline.
    """
    keys = key_map(keys)
    if settings is None:
        few = {"environments": _ENVIRONMENTS, "curvature_frames": 0}
        settings = TrainingSettings.for_forces(**few) if minima else TrainingSettings()

    def run(source: Any) -> Prepared:
        return prepare(
            source,
            settings=settings,
            baseline=baseline,
            keys=keys,
            minima=minima,
            frequencies=frequencies,
            cache=cache,
            n_jobs=n_jobs,
            progress=progress,
        )

    slips: list[Omission] = []
    try:
        prepared = run(data)
    except DataError:
        parts = [data] if isinstance(data, (str, os.PathLike, Atoms)) else list(data)
        converted = any(is_jkqc(p) for p in parts if not isinstance(p, Atoms))
        if converted and keys.energy_unit != "eV":
            raise  # Frames of several units cannot be told apart once they are read.
        frames, slips = screen_units(read_structures(parts, keys=keys), keys)
        if not slips:
            raise
        prepared = run(frames)
    prepared = replace(prepared, omitted=[*slips, *prepared.omitted])
    suspects = find_suspects(prepared.data, prepared.frames, seed=seed)
    suspects = recheck_baselines(prepared, suspects, refuse=False)
    if minima:
        suspects += find_no_minima(prepared, settings, n_jobs=n_jobs, progress=progress)
    return prepared, suspects


def screen_units(
    frames: Sequence[Atoms], keys: KeyMap | None = None
) -> tuple[list[Atoms], list[Omission]]:
    """Take out frames whose energies are in another unit than those of the rest.

    Reading a dataset refuses such frames with an error, because all that follows would be wrong;
    a check rather lists them and goes on.

    Parameters
    ----------
    frames
        As read, before any other check.
    keys
        Where they keep their energies.

    Returns
    -------
    kept : list of Atoms
    omitted : list of Omission
        With the category ``"suspect"``.
    """
    keys = key_map(keys)
    elements = np.unique(np.concatenate([np.zeros(0, int), *(a.numbers for a in frames)]))
    counts = np.array([[np.sum(a.numbers == z) for z in elements] for a in frames], dtype=float)
    reasons: dict[int, str] = {}
    for level in LEVELS:
        energies = np.full(len(frames), np.nan)
        for i, atoms in enumerate(frames):
            try:
                energy = keys.energy(atoms, level)
            except KNNCalcError:
                continue  # Reading lists it with the right words.
            energies[i] = np.nan if energy is None else energy
        for slip in mixed_units(energies, counts):
            text = contradictions.slip_text(level, slip.factor, slip.looks_like)
            reasons.update(dict.fromkeys(slip.indices, text))
    omitted = [
        Omission(
            index=i,
            name=str(frames[i].info.get(keys.name, f"frame-{i}")),
            source=str(frames[i].info.get("source", "")),
            reason=reason,
            category="suspect",
        )
        for i, reason in sorted(reasons.items())
    ]
    return [a for i, a in enumerate(frames) if i not in reasons], omitted
