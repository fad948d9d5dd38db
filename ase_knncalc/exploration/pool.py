"""Candidates of a campaign: sampled, found by CREST, and brought along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_knncalc._lib.parallel import on_cluster, run
from ase_knncalc._lib.progress import track
from ase_knncalc.charges import stated_copy
from ase_knncalc.data import Omission, read_structures, read_usable, write_frames
from ase_knncalc.errors import ChargeError, KNNCalcError, SettingsError
from ase_knncalc.exploration.compositions import MOST_STATES
from ase_knncalc.exploration.relaxation import energy_of
from ase_knncalc.exploration.settings import ExploreSettings
from ase_knncalc.sampling import SamplingSettings, sample
from ase_knncalc.sampling.crest import crest_conformers, find_crest
from ase_knncalc.sampling.molecules import Ingredient, charge_and_multiplicity, composition_of
from ase_knncalc.structure import resolve_charge, structure_label

GIVEN = "candidates-given.extxyz"

RELAXED = "relaxed.extxyz"

# End of the names of files of CREST's conformers.
_CREST = "-crest"

# Molecules of no more have no conformers.
_FEWEST_ATOMS = 3

_KEPT = ("numbers", "positions", "initial_charges", "initial_magmoms")


def step(path: Path, work: Callable[[], list[Atoms]]) -> list[Atoms]:
    """Structures of a file, after they were made and written if it is not there."""
    if not path.exists():
        write_frames(path, work())
    return read_structures(path)


def given_candidates(folder: Path, settings: ExploreSettings) -> tuple[list[Atoms], list[Omission]]:
    """Structures that the user has, and what could not be read.

    Once the folder has them, the files that they came from are not read any more.

    Raises
    ------
    DataError
        If the only file cannot be read.
    """
    if (folder / GIVEN).exists():
        return read_structures(folder / GIVEN), []
    return read_usable(settings.files) if settings.files else ([], [])


def keep_given(folder: Path, frames: Sequence[Atoms]) -> None:
    """Copy structures of the user into the folder, without the arrays that they bring."""
    if not frames or (folder / GIVEN).exists():
        return
    copies = [stated_copy(atoms) for atoms in frames]
    for copy in copies:
        copy.info = {k: v for k, v in copy.info.items() if isinstance(v, str | int | float)}
        copy.arrays = {k: v for k, v in copy.arrays.items() if k in _KEPT}
    write_frames(folder / GIVEN, copies)


def fitting(
    frames: Sequence[Atoms], ingredients: Sequence[Ingredient]
) -> tuple[list[Atoms], list[Omission]]:
    """Copies of the structures of a composition, in its charge; and the others, with the reason.

    A structure that says nothing of its charge has that of the composition.
    """
    whole = sorted(z for i in ingredients for z in i.molecule.numbers.tolist() * i.count)
    charge, multiplicity = charge_and_multiplicity(ingredients)
    formula = Atoms(whole).get_chemical_formula()
    found, others = [], []
    for place, atoms in enumerate(frames):
        reason = ""
        if sorted(atoms.numbers.tolist()) != whole:
            reason = f"it is {atoms.get_chemical_formula() or 'empty'}, and not {formula}"
        else:
            try:
                resolve_charge(atoms, charge, multiplicity)
            except ChargeError as e:
                reason = str(e)
        if reason:
            source = str(atoms.info.get("source", f"#{place}"))
            others.append(Omission(place, structure_label(atoms), source, reason, "composition"))
            continue
        copy = stated_copy(atoms)
        copy.info.update(charge=charge, multiplicity=multiplicity)
        found.append(copy)
    return found, others


def sampled_candidates(
    folder: Path,
    states: Sequence[list[Ingredient]],
    settings: ExploreSettings,
    notes: list[str],
    parallel: dict[str, Any],
) -> list[Atoms]:
    """Structures for each way to place the protons; ``notes`` tells where there are none.

    Once candidates were relaxed, there are those that there were.
    """
    if not settings.candidates:
        return []
    if len(states) > MOST_STATES:
        notes.append(
            f"{len(states)} ways to place the protons: only the {MOST_STATES} with the fewest "
            "ions were sampled"
        )
    states, over = states[:MOST_STATES], (folder / RELAXED).exists()
    found = {}
    for ingredients in states:
        path = _place(folder, ingredients)
        if path.exists():
            found[path] = read_structures(path)
        elif not over:
            found[path] = _sampled(path, ingredients, settings, notes, parallel)
    if settings.crest:
        _add_conformers(folder, found, states, over, notes, parallel)
    order = [_place(folder, i, end) for end in ("", _CREST) for i in states]
    return [atoms for path in order for atoms in found.get(path, ())]


def _place(folder: Path, ingredients: Sequence[Ingredient], end: str = "") -> Path:
    return folder / f"candidates-{composition_of(ingredients)}{end}.extxyz"


def _sampled(
    path: Path,
    ingredients: list[Ingredient],
    settings: ExploreSettings,
    notes: list[str],
    parallel: dict[str, Any],
) -> list[Atoms]:
    # A molecule alone has nothing to be arranged.
    alone = sum(i.count for i in ingredients) == 1
    how = SamplingSettings(methods=("packing",) if alone else settings.methods, seed=settings.seed)
    runs = path.with_suffix(".runs")
    try:
        found = step(path, lambda: sample(
            ingredients, 1 if alone else settings.candidates, engine=settings.engine, settings=how,
            journal=runs, **parallel,
        ))  # fmt: skip
        runs.unlink(missing_ok=True)
        return found
    except SettingsError:
        raise
    except KNNCalcError as e:
        notes.append(str(e))
        return []


def _add_conformers(
    folder: Path,
    found: dict[Path, list[Atoms]],
    states: Sequence[list[Ingredient]],
    over: bool,
    notes: list[str],
    parallel: dict[str, Any],
) -> None:
    """What CREST finds from the lowest sampled structure of each way to place the protons."""
    jobs: list[tuple[Any, ...]] = []
    for ingredients in states:
        frames = found.get(_place(folder, ingredients), [])
        kept = _place(folder, ingredients, _CREST)
        if kept.exists():
            found[kept] = read_structures(kept)
        elif not over and frames and len(frames[0]) > _FEWEST_ATOMS:
            lowest = min(frames, key=lambda a: energy_of(a) or 0.0)
            jobs.append((kept, lowest, sum(i.count for i in ingredients) > 1))
    if jobs and find_crest() is None:
        notes.append("CREST is not installed, and none of the candidates are of it")
        return
    from joblib import cpu_count

    n_jobs = parallel["n_jobs"]
    cores = cpu_count() if n_jobs == -1 else n_jobs
    threads = 1 if on_cluster() else max(1, cores // max(1, len(jobs)))
    work = ((kept, atoms, cluster, threads) for kept, atoms, cluster in jobs)
    done = run(_conformers, work, total=len(jobs), n_jobs=n_jobs, ordered=False)
    for kept, conformers, reason in track(done, total=len(jobs), text="CREST",
                                          show=parallel["progress"]):  # fmt: skip
        if reason:
            notes.append(f"{kept.stem.removeprefix('candidates-')}: {reason}")
            continue
        for number, atoms in enumerate(conformers):
            atoms.info["name"] = f"{kept.stem.removeprefix('candidates-')}-{number}"
        write_frames(kept, conformers)
        found[kept] = read_structures(kept)


def _conformers(
    kept: Path, start: Atoms, cluster: bool, threads: int
) -> tuple[Path, list[Atoms], str]:
    try:
        return kept, crest_conformers(start, cluster=cluster, threads=threads), ""
    except KNNCalcError as e:
        return kept, [], str(e)
