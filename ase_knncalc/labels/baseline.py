"""Baseline labels of many structures: in parallel, with progress, each one paid for once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc.baselines import Baseline, make_baseline
from ase_knncalc.data.keys import KeyMap, key_map
from ase_knncalc.errors import BaselineError, DataError
from ase_knncalc.labels.cache import CachedLabel, LabelCache, label_key
from ase_knncalc.structure import resolve_charge, structure_label

# eV. A calculation repeats within this, also in single precision.
_REPEATED = 2e-3


@dataclass(frozen=True)
class BaselineLabels:
    """Baseline results in the order of the structures.

    Attributes
    ----------
    energies : ndarray, shape (n,)
        eV, NaN where the calculation failed.
    forces : list of ndarray or None
        eV/Å, where they were asked for.
    dipoles : list of ndarray or None
        e Å, likewise.
    errors : list of str
        Empty where the calculation succeeded.
    computed : int
        How many were not in the cache.
    """

    energies: FloatArray
    forces: list[FloatArray | None]
    dipoles: list[FloatArray | None]
    errors: list[str]
    computed: int


def baseline_labels(
    frames: Sequence[Atoms],
    baseline: Baseline,
    *,
    forces: Sequence[bool] | None = None,
    dipoles: bool = False,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> BaselineLabels:
    """Single-point energies (and forces) of structures with the baseline.

    Parameters
    ----------
    frames
        Structures; charge and multiplicity as :func:`resolve_charge` finds them.
    baseline
        The method. An ASE calculator runs in this process; xTB runs in ``n_jobs`` processes.
    forces
        For each frame, whether forces are wanted too.
    dipoles
        Whether dipoles are wanted too; no cache keeps them.
    cache
        SQLite file of finished labels; an interrupted run goes on where it was.
    n_jobs
        Processes, as joblib counts them (−1: all cores).
    progress
        Whether to show a progress bar.

    Raises
    ------
    BaselineError
        If an ASE calculator gives another energy than the cache holds for it.
    """
    moments = ("dipole",) if dipoles else ()
    with_forces = [False] * len(frames) if forces is None else forces
    wanted = [(*(("forces",) if f else ()), *moments) for f in with_forces]
    spec = baseline.spec()
    states = [resolve_charge(atoms) for atoms in frames]
    keys = [label_key(a, *state, spec) for a, state in zip(frames, states, strict=True)]
    with LabelCache(cache) as known:
        if not baseline.is_repeatable:
            cached = {i: x for i, key in enumerate(keys) if (x := known.get(key)) is not None}
            _check_cached(frames, states, cached, baseline, cache)
        missing: dict[str, int] = {}
        for i, key in enumerate(keys):
            found = known.get(key)
            short = any(getattr(found, name, None) is None for name in ("energy", *wanted[i]))
            if short and (key not in missing or wanted[i]):
                missing[key] = i
        jobs = [(key, frames[i].copy(), *states[i], wanted[i]) for key, i in missing.items()]
        results = _run(jobs, baseline, n_jobs)
        failed: dict[str, str] = {}
        for key, outcome in track(
            results, total=len(jobs), text=f"{baseline.method}", show=progress
        ):
            if isinstance(outcome, str):
                failed[key] = outcome
            else:
                known.put(key, outcome)
        labels = [None if key in failed else known.get(key) for key in keys]
    return BaselineLabels(
        np.array([np.nan if x is None else x.energy for x in labels], dtype=np.float64),
        [None if x is None else x.forces for x in labels],
        [None if x is None else x.dipole for x in labels],
        [failed.get(key, "") for key in keys],
        len(jobs),
    )


def _check_cached(
    frames: Sequence[Atoms],
    states: Sequence[tuple[int, int]],
    labels: dict[int, CachedLabel],
    baseline: Baseline,
    cache: str | os.PathLike[str] | None,
) -> None:
    """Compute two cached labels again: an ASE calculator need not tell all that it depends on.

    The smallest structure, and the smallest of another size: of one molecule alone, methods may
    differ by nothing.
    """
    order = sorted(labels, key=lambda i: len(frames[i]))
    others = [i for i in order if len(frames[i]) > len(frames[order[0]])]
    for i in [*order[:1], *(others or order[1:])[:1]]:
        try:
            energy = baseline.energy(frames[i].copy(), *states[i])
        except BaselineError:
            continue  # what was computed before is there, whatever ails the program now
        if abs(energy - labels[i].energy) > _REPEATED:
            raise BaselineError(
                f"{structure_label(frames[i])}: the label cache {cache} holds an energy of "
                f"{labels[i].energy:.6f} eV for {baseline.method}, which now gives {energy:.6f} "
                "eV: its settings, files or weights are others than they were, and its parameters "
                "do not tell. Use another cache for each"
            )


# Key, structure, charge, multiplicity, and what is wanted beside the energy.
_Job = tuple[str, Atoms, int, int, tuple[str, ...]]


def brought_energy(
    baseline: Baseline | None, atoms: Atoms, keys: KeyMap | None = None
) -> float | None:
    """Energy that a structure brings along for the baseline ``"given"``, eV; None for any other.

    Parameters
    ----------
    baseline
        Of the model.
    atoms
        As it was read: nothing tells whether its atoms have moved since.
    keys
        Where structures keep their energies.

    Raises
    ------
    BaselineError
        If it has none.
    DataError
        If it is no finite number.
    """
    if baseline is None or not baseline.is_given:
        return None
    keys = key_map(keys)
    label = structure_label(atoms)
    try:
        energy = keys.energy(atoms, "baseline")
    except DataError as e:
        raise DataError(f"{label}: {e}") from None
    if energy is None:
        raise BaselineError(
            f"{label} has no baseline energy under {keys.baseline_energy!r}, and the model's "
            "baseline='given' computes none: put it (eV) into info['baseline_energy'] of each "
            "structure, or name where it is with KeyMap(baseline_energy=…), --baseline-key"
        )
    if not np.isfinite(energy):
        raise DataError(f"{label}: the baseline energy {keys.baseline_energy!r} is {energy}")
    return energy


def _run(
    jobs: list[_Job], baseline: Baseline, n_jobs: int
) -> Iterator[tuple[str, CachedLabel | str]]:
    """Key and outcome of each job; a text says why there is no label."""
    # An ASE calculator may hold files or licences: it is neither pickled nor shared.
    if not baseline.is_repeatable or n_jobs == 1 or len(jobs) < 2:
        for job in jobs:
            yield job[0], _single_point(baseline, job)
        return
    spec = baseline.spec()
    yield from run(
        _worker, ((spec, job) for job in jobs), total=len(jobs), n_jobs=n_jobs, ordered=False
    )


def _worker(spec: dict[str, str], job: _Job) -> tuple[str, CachedLabel | str]:
    return job[0], _single_point(make_baseline(spec), job)


def _single_point(baseline: Baseline, job: _Job) -> CachedLabel | str:
    _, atoms, charge, multiplicity, wanted = job
    try:
        if "dipole" in wanted:
            point = baseline.single_point(atoms, charge, multiplicity, wanted)
            return CachedLabel(point.energy, point.forces, point.dipole)
        if wanted:
            return CachedLabel(*baseline.energy_and_forces(atoms, charge, multiplicity))
        return CachedLabel(baseline.energy(atoms, charge, multiplicity))
    except BaselineError as e:
        return str(e)
