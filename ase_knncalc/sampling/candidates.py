"""Structures of clusters to choose from: packing, Monte Carlo, basin hopping, dynamics.

The ways are those of :mod:`ase_knncalc.sampling.walks`; :func:`sample` runs as many of them as it
takes to find ``n`` structures that differ. Any ASE calculator does: the baseline where no model
covers the elements yet, a :class:`KNNCalculator` otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ase_knncalc._lib.arguments import Count, checked, instances
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.parallel import check_jobs, run
from ase_knncalc._lib.progress import track
from ase_knncalc.analysis.ranking import correct_frames, warn_of_novelty
from ase_knncalc.data.own import PREDICTED
from ase_knncalc.descriptors import FCHL19
from ase_knncalc.errors import KNNCalcError
from ase_knncalc.model import KNNModel
from ase_knncalc.sameness import Species, species
from ase_knncalc.sampling.engines import engine_model, make_engine
from ase_knncalc.sampling.molecules import Ingredient, composition_of, pack
from ase_knncalc.sampling.runs import Journal
from ase_knncalc.sampling.settings import SamplingSettings
from ase_knncalc.sampling.walks import (
    FAILURES,
    Outcome,
    basin_hopping,
    dynamics,
    monte_carlo,
    packing,
)
from ase_knncalc.settings import PRESETS
from ase_knncalc.structure import resolve_charge

# Packings that a run begins with, one after the other, where they fall apart.
_STARTS = 3


_RUNS: dict[str, Callable[..., Outcome]] = {
    "packing": packing,
    "monte-carlo": monte_carlo,
    "basin-hopping": basin_hopping,
    "md": dynamics,
}


@dataclass
class Distinct:
    """Keeps structures that differ from all kept before, by energy and by descriptor.

    Parameters
    ----------
    energy_tolerance, distance_tolerance
        See :class:`SamplingSettings`.
    """

    energy_tolerance: float = 0.01
    distance_tolerance: float = 0.01
    frames: list[Atoms] = field(default_factory=list)
    _known: dict[Species, list[tuple[float, FloatArray]]] = field(default_factory=dict, repr=False)

    def add(self, atoms: Atoms) -> bool:
        """Keep a structure (with ``info["energy"]``) unless it is there; whether it was kept."""
        descriptor = FCHL19(tuple(np.unique(atoms.numbers).tolist()), **PRESETS["sparse"])  # type: ignore[arg-type]
        features = descriptor.local(atoms.numbers, atoms.positions).sum(axis=0)
        energy = float(atoms.info["energy"])
        known = self._known.setdefault(species(atoms, *resolve_charge(atoms)), [])
        limit = self.distance_tolerance * float(np.linalg.norm(features))
        for other_energy, other in known:
            if (
                abs(other_energy - energy) < self.energy_tolerance
                and np.linalg.norm(other - features) <= limit  # 0 for atoms alone
            ):
                return False
        known.append((energy, features))
        self.frames.append(atoms)
        return True


def sample(
    ingredients: Sequence[Ingredient],
    n: int,
    *,
    engine: Any = "auto",
    settings: SamplingSettings | None = None,
    n_jobs: int = -1,
    progress: bool = False,
    journal: Path | None = None,
) -> list[Atoms]:
    """Up to ``n`` distinct structures of one composition.

    Parameters
    ----------
    ingredients
        From :func:`ase_knncalc.sampling.molecules.parse_ingredients`.
    n
        How many are wanted.
    engine
        See :func:`make_engine`. A calculator object runs in this process, everything else in
        ``n_jobs`` processes; the result does not depend on their number.
    settings
        Methods and their parameters.
    n_jobs, progress
        Processes (−1: all cores), and whether to show a bar.
    journal
        File that keeps the runs. A sampling that was interrupted goes on with it, where molecules,
        engine and settings are the same; ``n`` may differ. Remove it once the structures are safe.

    Returns
    -------
    list of Atoms
        With ``name``, ``composition``, ``charge``, ``multiplicity``, ``energy`` (of the engine, eV)
        and ``sampled_by`` in ``info``, ``relaxed`` and ``fmax`` where they were relaxed, and of a
        model as engine ``energy_std`` (eV), ``novelty`` and ``outside`` (novelty above 1); fewer
        than ``n`` if no more were found in ``settings.attempts`` times the runs needed, or in
        ``settings.patience`` runs.

    Warns
    -----
    UserWarning
        If calculations of some runs failed: how many, and the reason of the first. What the runs
        found before, and after where they could go on, is there. If relaxations of some structures
        came to no end. If some are outside of what the model that drove them knows.

    Raises
    ------
    SettingsError
        If ``n`` is not positive.
    KNNCalcError
        If there is nothing: every run failed, with the reason of the first, or the cluster fell
        apart whenever it was relaxed.
    """
    settings = settings or SamplingSettings()
    n = checked("n", n, Count)
    instances("ingredients", ingredients, Ingredient)
    check_jobs(n_jobs)
    composition = composition_of(ingredients)
    per_round = sum(1 if m == "packing" else settings.chain for m in settings.methods)
    runs = settings.attempts * len(settings.methods) * -(-n // per_round)
    distinct = Distinct(settings.energy_tolerance, settings.distance_tolerance)
    tally = _Tally(composition)
    kept = None if journal is None else Journal(journal, _about(ingredients, engine, settings))
    model = engine_model(engine)
    done = [] if kept is None else kept.outcomes
    upcoming = chain(done, _outcomes(ingredients, engine, settings, range(len(done), runs), n_jobs))
    idle = 0
    for number, outcome in enumerate(track(upcoming, total=None, text="sampling", show=progress)):
        if kept is not None and number >= len(done):
            kept.add(outcome)
        tally.count(outcome)
        before = len(distinct.frames)
        for atoms in outcome.frames:
            atoms.info.update(
                name=f"{composition}-{number}-{len(distinct.frames)}",
                composition=composition,
                sampled_by=settings.methods[number % len(settings.methods)],
            )
            if model is not None:
                atoms.info[PREDICTED] = atoms.info["energy"]
            if len(distinct.frames) < n:
                distinct.add(atoms)
        idle = 0 if len(distinct.frames) > before else idle + 1
        if len(distinct.frames) >= n or idle == settings.patience:
            break
    problem = tally.problem()
    if not distinct.frames:
        if kept is not None:  # the next time they may succeed
            kept.remove()
        raise KNNCalcError(problem)
    if problem:
        warnings.warn(problem, UserWarning, stacklevel=2)
    restless = [a.info["fmax"] for a in distinct.frames if not a.info.get("relaxed", True)]
    if restless:
        warnings.warn(
            f"{composition}: {len(restless)} of {len(distinct.frames)} structures are not relaxed, "
            f"but marked (info['relaxed'] is False): forces of up to {max(restless):.2g} eV/Å are "
            f"left, where {settings.fmax:g} was asked for",
            UserWarning,
            stacklevel=2,
        )
    if model is not None:
        _mark_novelty(distinct.frames, model)
    return distinct.frames


def _mark_novelty(frames: Sequence[Atoms], model: KNNModel) -> None:
    """Tell how far the model that drove the sampling can be trusted with what came of it."""
    found = correct_frames(model.with_baseline(None), frames)
    for i, atoms in enumerate(frames):
        atoms.info.update(
            energy_std=float(found.energy_std[i]),
            novelty=float(found.novelty[i]),
            outside=bool(found.outside[i]),
        )
    warn_of_novelty(frames, found, stacklevel=4)


def _about(
    ingredients: Sequence[Ingredient], engine: Any, settings: SamplingSettings
) -> dict[str, Any]:
    """All that the outcomes of runs depend on."""
    return {
        "molecules": [
            (
                i.name,
                i.count,
                i.molecule.numbers.tolist(),
                i.molecule.positions.tolist(),
                resolve_charge(i.molecule),
            )
            for i in ingredients
        ],
        "engine": engine if isinstance(engine, str) else type(engine).__name__,
        "settings": asdict(settings),
    }


@dataclass
class _Tally:
    """What to tell of the runs."""

    composition: str
    runs: int = 0
    fruitful: int = 0
    failed: int = 0
    curtailed: int = 0
    fell_apart: int = 0
    reason: str = ""

    def count(self, outcome: Outcome) -> None:
        self.runs += 1
        self.fruitful += bool(outcome.frames)
        self.fell_apart += outcome.fell_apart
        if outcome.failures:
            self.failed += not outcome.frames
            self.curtailed += bool(outcome.frames)
            self.reason = self.reason or outcome.failures[0]

    def problem(self) -> str:
        """Runs that failed, or found nothing; empty if all is well."""
        if self.reason and not self.fruitful:
            return f"{self.composition}: none of {self.runs} sampling runs succeeded: {self.reason}"
        if self.reason:
            less = f", {self.curtailed} found less than they would have" if self.curtailed else ""
            return (
                f"{self.composition}: {self.failed} of {self.runs} sampling runs failed{less}: "
                f"{self.reason}"
            )
        if self.fruitful:
            return ""
        return (
            f"{self.composition}: no structures, since the cluster fell apart in all "
            f"{self.runs} sampling runs ({self.fell_apart} relaxed packings did): its molecules do "
            "not hold together with this engine; add others that bind them, try another engine, or "
            "take packings as they are (--no-relax, relax = false)"
        )


def _outcomes(
    ingredients: Sequence[Ingredient],
    engine: Any,
    settings: SamplingSettings,
    runs: range,
    n_jobs: int,
) -> Iterator[Outcome]:
    """Results of the runs of these numbers, computed as far as they are asked for."""
    check_jobs(n_jobs)
    if isinstance(engine, Calculator) or n_jobs == 1:
        calculator = make_engine(engine)
        for number in runs:
            yield _run(ingredients, calculator, settings, number)
        return
    from joblib import effective_n_jobs

    # No more than what is likely to be asked for: runs may end before all are done.
    block = 2 * max(1, effective_n_jobs(min(n_jobs, max(1, len(runs)))))
    for first in range(0, len(runs), block):
        part = runs[first : first + block]
        jobs = ((ingredients, engine, settings, number) for number in part)
        yield from run(_run, jobs, total=len(part), n_jobs=n_jobs)


def _run(
    ingredients: Sequence[Ingredient], engine: Any, settings: SamplingSettings, run: int
) -> Outcome:
    rng = np.random.default_rng([settings.seed, run])
    method = settings.methods[run % len(settings.methods)]
    turn = run // len(settings.methods)
    temperature = settings.temperatures[turn % len(settings.temperatures)]
    fell_apart = 0
    try:
        calculator = make_engine(engine)
        # A packing that falls apart is no loss where each is a run of its own.
        for _ in range(1 if method == "packing" else _STARTS):
            outcome = _RUNS[method](pack(ingredients, rng), calculator, rng, temperature, settings)
            if not outcome.fell_apart:
                break
            fell_apart += 1
    except FAILURES as e:
        outcome = Outcome(failures=[str(e)])
    outcome.fell_apart = fell_apart
    return outcome
