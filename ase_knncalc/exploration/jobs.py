"""One calculation a structure: in parallel, each kept as soon as it is done, the failed ones named.

What a kill leaves is a file of finished calculations; the same call goes on from there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import jsonio

from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc.charges import stated_copy
from ase_knncalc.data import Omission
from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.labels.cache import label_key
from ase_knncalc.labels.database import Database
from ase_knncalc.sampling.engines import make_engine
from ase_knncalc.sampling.walks import FAILURES
from ase_knncalc.structure import check_structure, resolve_charge, structure_label

Work = Callable[..., dict[str, Any]]

# Optimisers and finite differences raise these where a calculator gives nonsense.
_FAILURES = (*FAILURES, RuntimeError)


class Finished(Database):
    """Results of calculations that were finished, by what they depend on.

    Parameters
    ----------
    path
        SQLite file; made if it is not there.

    Raises
    ------
    DataError
        If another process has it open.
    ModelFileError
        If it is no such file, damaged, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        table = "results (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
        super().__init__(
            path, "file of finished calculations", table, busy="name another file", often=True
        )

    def get(self, key: str) -> dict[str, Any] | None:
        """A result, or None."""
        rows = self.query("SELECT value FROM results WHERE key = ?", key)
        return dict(jsonio.decode(rows[0][0])) if rows else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a result; it is on disk when this returns."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (key, jsonio.encode(value)))


def calculate(
    work: Work,
    frames: Sequence[Atoms],
    engine: Any,
    options: dict[str, Any],
    *,
    charge: int | None = None,
    warm_start: bool = True,
    kept: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
    text: str = "",
) -> tuple[dict[int, dict[str, Any]], list[Omission]]:
    """``work(atoms, calculator, **options)`` for each structure.

    Parameters
    ----------
    work
        Of a module, so that other processes find it. It gets a copy with charge and multiplicity in
        ``info``.
    frames
        Structures.
    engine
        As for :func:`~ase_knncalc.sampling.engines.make_engine`. A calculator object runs in this
        process, everything else in ``n_jobs`` processes.
    options
        Plain values.
    charge
        Total charge of every structure; by default each structure's own.
    warm_start
        Whether each SCF may start from the one before: faster, and not quite as smooth.
    kept
        File of finished calculations: those in it are not done again.
    n_jobs, progress, text
        Processes (−1: all cores), whether to show a bar, and what stands beside it.

    Returns
    -------
    results : dict
        By the place of the structure in ``frames``.
    omitted : list of Omission
        Structures of which the calculation failed, or that the engine does not cover.

    Raises
    ------
    SettingsError
        If ``kept`` is given with a calculator object, of which no file can know what it computes.
    """
    own = isinstance(engine, Calculator)
    if own and kept is not None:
        raise SettingsError(
            "results of a calculator object cannot be kept, as nothing says what it computes: name "
            "the engine ('model:multibase-wb97xd', 'GFN1-xTB'), or leave kept=… out"
        )
    method = {"work": f"{work.__module__}.{work.__name__}", **options}
    method["engine"] = None if own else _identity(engine)
    failed: dict[int, tuple[str, str]] = {}
    copies: dict[int, Atoms] = {}
    keys: dict[int, str] = {}
    results: dict[int, dict[str, Any]] = {}
    for i, atoms in enumerate(frames):
        try:
            check_structure(atoms)
            state = resolve_charge(atoms, charge)
        except KNNCalcError as e:
            failed[i] = str(e), "not-covered"
            continue
        copies[i] = stated_copy(atoms)
        copies[i].info["charge"], copies[i].info["multiplicity"] = state
        keys[i] = label_key(copies[i], *state, method)
    with contextlib.nullcontext() if kept is None else Finished(kept) as finished:
        if finished is not None:
            known = ((i, finished.get(key)) for i, key in keys.items())
            results = {i: value for i, value in known if value is not None}
        jobs = [
            (work, i, atoms, engine, warm_start, options)
            for i, atoms in copies.items()
            if i not in results
        ]
        found = run(_attempt, jobs, total=len(jobs), n_jobs=1 if own else n_jobs, ordered=False)
        for i, value, reason in track(found, total=len(jobs), text=text, show=progress):
            if value is None:
                failed[i] = reason, "failed"
                continue
            results[i] = value
            if finished is not None:
                finished.put(keys[i], value)
    return dict(sorted(results.items())), list(_omissions(frames, failed))


def _attempt(
    work: Work, i: int, atoms: Atoms, engine: Any, warm_start: bool, options: dict[str, Any]
) -> tuple[int, dict[str, Any] | None, str]:
    try:
        # A calculator of its own for each: what came before must not show in the last digits.
        return i, work(atoms, make_engine(engine, warm_start=warm_start), **options), ""
    except _FAILURES as e:
        return i, None, str(e) or type(e).__name__


def _identity(engine: Any) -> Any:
    """What an engine computes, in plain values; a model is read, so that what is wrong is told."""
    calculator = make_engine(engine)
    if hasattr(calculator, "baseline"):
        return calculator.baseline.spec()
    return [calculator.origin(Atoms("He"))["model_checksum"], calculator.model.baseline.spec()]


def _omissions(frames: Sequence[Atoms], failed: dict[int, tuple[str, str]]) -> Iterator[Omission]:
    for i, (reason, category) in sorted(failed.items()):
        source = str(frames[i].info.get("source", f"#{i}"))
        yield Omission(i, structure_label(frames[i]), source, reason, category)
