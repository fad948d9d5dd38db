"""Labelling many structures; a failure costs one structure, not the run."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from ase import Atoms

from ase_knncalc._lib.parallel import check_jobs, on_cluster, run
from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.labelers.base import Label, Labeler
from ase_knncalc.labelers.workers import attempt, in_workers
from ase_knncalc.structure import resolve_charge, structure_label


@dataclass(frozen=True)
class LabelResult:
    """Outcome of one structure in :func:`label_frames`.

    Attributes
    ----------
    index : int
        Position in the input.
    atoms : Atoms
        The structure as given (a copy); with its label, where there is one, as
        ``info["reference_energy"]``, ``arrays["reference_forces"]``, ``info["reference_method"]``,
        ``info["charge"]`` and ``info["multiplicity"]``.
    label : Label or None
        None if it failed.
    reason : str
        Why it failed, empty if it did not.
    """

    index: int
    atoms: Atoms
    label: Label | None
    reason: str = ""


def label_frames(
    labeler: Labeler,
    frames: Sequence[Atoms],
    *,
    n_jobs: int = 1,
    time_limit: float | None = None,
    on_result: Callable[[LabelResult], None] | None = None,
) -> tuple[list[Atoms], list[LabelResult]]:
    """Label many structures; a failure costs that structure only.

    Calculations run in worker processes. One that dies (a crash in C code, ``os._exit``, out of
    memory) or passes the time limit is replaced, its structure recorded as failed. Inside
    :func:`ase_knncalc._lib.parallel.cluster` they run on the workers of the cluster.

    Parameters
    ----------
    labeler
        The reference method.
    frames
        Structures; they are not changed.
    n_jobs
        Worker processes; −1 for one a core. Without ``OMP_NUM_THREADS`` in the environment the
        cores are shared out among them.
    time_limit
        Seconds for each structure, after which its process is killed; None or infinity for no
        limit.
    on_result
        Called here, in order of completion, for each result: the place to write a journal. What it
        raises ends the run.

    Returns
    -------
    labelled : list of Atoms
        Copies with their labels, in the order of ``frames``. Forces that a labeler of your own
        returned in a wrong shape, or that are not finite, are left out with a warning.
    failures : list of LabelResult
        The others, in the same order, each with its reason.

    Raises
    ------
    SettingsError
        For ``n_jobs`` or ``time_limit`` out of range, or a labeler that no process can be given.

    Warns
    -----
    UserWarning
        If forces were asked for, and labels have none.
    """
    check_jobs(n_jobs)
    time_limit = _timer_limit(time_limit)
    cores = os.cpu_count() or 1
    workers = min(cores if n_jobs == -1 else n_jobs, len(frames))
    results: list[LabelResult | None] = [None] * len(frames)
    if getattr(labeler, "in_process", False):
        outcomes: Iterator[tuple[int, Label | str]] = (
            (i, attempt(labeler, atoms)) for i, atoms in enumerate(frames)
        )
    elif on_cluster():
        outcomes = run(
            _in_one_worker,
            ((labeler, i, atoms, time_limit) for i, atoms in enumerate(frames)),
            total=len(frames),
            ordered=False,
        )
    else:
        threads = max(1, cores // max(1, workers))
        outcomes = in_workers(labeler, frames, workers, threads, time_limit)
    told = not getattr(labeler, "provides_forces", False)
    for index, outcome in outcomes:
        result = _as_result(index, frames[index], outcome)
        results[index] = result
        if on_result is not None:
            on_result(result)
        if not told and result.label is not None and getattr(outcome, "forces", None) is None:
            told = True
            # Of this line, whoever calls: Python tells it once, not in each batch of a loop.
            warnings.warn(
                f"labels of {labeler.method} carry no forces, though they are asked for: the "
                "energies are kept; energies_only = true saves the try",
                UserWarning,
                stacklevel=1,
            )
    done = [r for r in results if r is not None]
    return [r.atoms for r in done if r.label is not None], [r for r in done if r.label is None]


def _timer_limit(seconds: float | None) -> float | None:
    if seconds is None:
        return None
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not seconds > 0:
        raise SettingsError(f"time_limit={seconds!r}: expected seconds, or None for no limit")
    # What no timer can count to is centuries away.
    return None if seconds > threading.TIMEOUT_MAX else float(seconds)


def _in_one_worker(
    labeler: Labeler, index: int, atoms: Atoms, time_limit: float | None
) -> tuple[int, Label | str]:
    """In a process of its own here, too: a crash must not take the cluster's worker with it."""
    ((_, outcome),) = in_workers(labeler, [atoms], 1, 1, time_limit)
    return index, outcome


def _as_result(index: int, atoms: Atoms, outcome: Label | str) -> LabelResult:
    copy = atoms.copy()
    try:
        label = outcome if isinstance(outcome, str) else _usable(index, atoms, outcome)
        charge, multiplicity = (0, 1) if isinstance(label, str) else resolve_charge(atoms)
    except KNNCalcError as e:
        label = str(e)
    if isinstance(label, str):
        return LabelResult(index, copy, None, label)
    copy.info["charge"], copy.info["multiplicity"] = charge, multiplicity
    copy.info["reference_energy"] = label.energy
    copy.info["reference_method"] = label.method
    copy.arrays.pop("reference_forces", None)  # those of an older label would no longer fit
    if label.forces is not None:
        copy.set_array("reference_forces", label.forces)
    return LabelResult(index, copy, label)


def _usable(index: int, atoms: Atoms, label: Label) -> Label | str:
    """The label in plain numbers, without forces that are none; or why it cannot be used.

    A labeler may be anybody's own, and has been paid for: what is good of its answer is kept.
    """
    try:
        energy = float(np.asarray(label.energy, dtype=np.float64).item())
    except AttributeError:
        return f"the labeler returned a {type(label).__name__}; expected a Label"
    except (TypeError, ValueError):
        return f"the labeler returned an energy of {label.energy!r}; expected a number in eV"
    if not np.isfinite(energy):
        return f"the labeler returned an energy of {energy}"
    forces, fault = None, ""
    given = getattr(label, "forces", None)
    if given is not None:
        try:
            forces = np.array(given, dtype=np.float64)
        except (TypeError, ValueError):
            fault = "are no array of numbers"
        else:
            if forces.shape != (len(atoms), 3):
                fault = f"have shape {forces.shape}, expected ({len(atoms)}, 3)"
            elif not np.isfinite(forces).all():
                fault = "are not all finite"
    if fault:
        forces = None
        warnings.warn(
            f"{structure_label(atoms, index)}: the labeler's forces {fault}; the energy is kept, "
            "the forces are not",
            UserWarning,
            stacklevel=4,
        )
    try:
        seconds = max(0.0, float(label.seconds))
    except (AttributeError, TypeError, ValueError):
        seconds = 0.0
    method = str(getattr(label, "method", ""))
    return Label(energy, forces, seconds if np.isfinite(seconds) else 0.0, method)
