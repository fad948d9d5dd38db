"""From a composition to Gibbs energies and inputs of other programs, in one folder.

Each step writes a file when it is done, and is not done again where the file is: a campaign that
was killed goes on with the structure that it was at.

====================  =============================================================================
``explore.toml``      the settings: all of them, to be read, kept and used again
``candidates-*``      sampled structures, a file for each way to place the protons; and yours
``relaxed.extxyz``    all candidates, relaxed on the surface of the model, with their marks
``unique.extxyz``     each structure once
``gibbs.extxyz``      the lowest of them with Gibbs energies; ``gibbs.csv`` at every condition,
                      ``gibbs.pkl`` for JKQC
``learned.csv``       thermochemistry, dipoles, … that the model has learned, beside vibrations
``acdc.txt``          ΔH and ΔS for cluster dynamics, where the molecules are known; dipoles and
                      polarizabilities, where they were learned, in ``acdc-dipoles.txt``
``inputs/``           inputs of ORCA and Gaussian for those that were chosen
``report.html``       what was found
``finished.db``       finished relaxations and vibrations (and ``*.runs``, of samplings)
====================  =============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_knncalc._lib.files import atomic_write
from ase_knncalc._lib.tables import csv_text
from ase_knncalc.data import Omission, write_frames
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.exploration.acdc import write_acdc_files
from ase_knncalc.exploration.chosen import Inputs, lowest_frames, write_inputs
from ase_knncalc.exploration.compositions import proton_states
from ase_knncalc.exploration.distinct import distinct_groups, unique_frames
from ase_knncalc.exploration.learned import at_level, learned_rows
from ase_knncalc.exploration.pool import (
    RELAXED,
    fitting,
    given_candidates,
    keep_given,
    sampled_candidates,
    step,
)
from ase_knncalc.exploration.relaxation import relax_frames
from ase_knncalc.exploration.report import write_page
from ase_knncalc.exploration.settings import ExploreSettings, take_folder
from ase_knncalc.exploration.thermo import COLUMNS, GibbsTable, gibbs_table
from ase_knncalc.heads.levels import require_level
from ase_knncalc.model import KNNModel
from ase_knncalc.sampling.engines import engine_model, make_engine
from ase_knncalc.sampling.molecules import composition_of

REPORT = "report.html"

# Å, by which structures on saddle points are shaken.
_SHAKE = 0.05


@dataclass(frozen=True)
class Explored:
    """What a campaign found.

    Attributes
    ----------
    candidates, relaxed, unique : int
        Structures after each step.
    rows : list of dict
        Gibbs energies at the first condition, lowest first (:data:`thermo.COLUMNS`).
    chosen : list of str
        Names of the structures that inputs were written for.
    omitted : list of Omission
        Structures that could not be computed in this call, and why.
    notes : list of str
        What else there is to tell.
    report : Path
    """

    candidates: int
    relaxed: int
    unique: int
    rows: list[dict[str, Any]]
    chosen: list[str]
    omitted: list[Omission]
    notes: list[str]
    report: Path


def explore(
    settings: ExploreSettings,
    folder: str | os.PathLike[str],
    *,
    n_jobs: int = -1,
    progress: bool = False,
) -> Explored:
    """Sample, relax, tell apart, compute Gibbs energies, rank and choose.

    Parameters
    ----------
    settings
        What is explored, and how.
    folder
        Made if it is not there. One with a campaign of the same settings is gone on with.
    n_jobs, progress
        Processes (−1: all cores), and whether to show bars.

    Raises
    ------
    SettingsError
        If the folder is of another campaign, or a setting makes no sense.
    KNNCalcError
        If a step leaves nothing for the next.
    """
    folder = Path(folder)
    given, unread = given_candidates(folder, settings)
    found, _ = run_steps(
        settings, folder, given, kept=folder / "finished.db", n_jobs=n_jobs, progress=progress
    )
    found.omitted[:0] = unread
    return found


def run_steps(
    settings: ExploreSettings,
    folder: Path,
    given: Sequence[Atoms],
    *,
    kept: Path,
    others: bool = True,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[Explored, GibbsTable]:
    """All of :func:`explore`, with candidates that were read and a place for what is finished.

    Parameters
    ----------
    settings, folder, n_jobs, progress
        As there.
    given
        More candidates.
    kept
        File of finished calculations, which campaigns share that go on one after the other.
    others
        Whether to keep the candidates of the user in the folder, and to tell of those that are of
        another composition.

    Raises
    ------
    SettingsError
        As there.
    KNNCalcError
        As there.
    """
    states = proton_states(settings.composition, settings.model, ions=settings.protonation)
    if not settings.candidates and not settings.files:
        raise SettingsError("candidates is 0 and there are no files: nothing to explore")
    engine = f"model:{settings.model}"
    model = engine_model(engine)
    assert model is not None
    if settings.level:  # before any work
        require_level(model.heads, settings.level)
    fit, omitted = fitting(given, states[0])
    take_folder(folder, settings)
    if others:
        keep_given(folder, given)
    else:
        omitted = []
    parallel: dict[str, Any] = {"n_jobs": n_jobs, "progress": progress}
    notes: list[str] = []
    frames = [*sampled_candidates(folder, states, settings, notes, parallel), *fit]
    if not frames:
        raise DataError("there is no candidate; " + "; ".join([*notes, *_reasons(omitted)]))
    composition = composition_of(states[0])
    names: set[str] = set()
    for atoms in frames:
        atoms.info["composition"] = composition
        atoms.info["name"] = _another(str(atoms.info["name"]), names)
    relaxed = step(folder / RELAXED, lambda: _told(omitted, *relax_frames(
        frames, engine, optimizer=settings.optimizer, fmax=settings.fmax, steps=settings.steps,
        kept=kept, **parallel)))  # fmt: skip
    _check_model(folder, relaxed, engine)
    unique = step(folder / "unique.extxyz", lambda: unique_frames(
        relaxed, energy_tolerance=settings.energy_tolerance,
        rmsd_tolerance=settings.rmsd_tolerance))  # fmt: skip
    places, _ = lowest_frames(unique, top=settings.vibrations)
    # Of what is kept nothing is computed again: a table is made anew in each call.
    table = gibbs_table(
        [unique[i] for i in places], engine, settings.conditions(), kept=kept, **parallel
    )
    if any(len(m.imaginary) for m in table.minima):
        table = _mended(table, unique, places, settings, kept, parallel)
    omitted += table.omitted
    if settings.level:
        table = at_level(table, model, settings.level)
        notes.append(f"energies are those of {settings.level}, at minima of the reference")
    if not table.minima:
        raise DataError(f"no structure is a minimum: {omitted[-1].reason if omitted else ''}")
    found = table.frames()
    rows = _ranked(folder, table, found, notes)
    notes += write_acdc_files(folder, table, model)
    learned = _learned(folder, table, model)
    try:
        chosen, by = lowest_frames(found, top=settings.top, window=settings.window)
    except DataError:
        chosen, by = [], "nothing"
        notes.append(
            f"none of the {len(found)} lowest structures is a minimum of the model, and nothing "
            "was chosen: let it compute more of them (vibrations), or relax further (fmax)"
        )
    if chosen and not (folder / "inputs").exists():
        sizes = Inputs(settings.orca, settings.gaussian, settings.cores, settings.memory)
        write_inputs(folder / "inputs", [found[i] for i in chosen], sizes)
    taken = [str(found[i].info["name"]) for i in chosen]
    outcome = Explored(
        len(frames), len(relaxed), len(unique), rows, taken, omitted, notes, folder / REPORT
    )
    write_page(folder / REPORT, settings.composition, settings.model, table, found, relaxed,
               {**asdict(settings), "chosen by": by}, taken,
               [*notes, *_reasons(omitted)], learned)  # fmt: skip
    return outcome, table


def _another(name: str, names: set[str]) -> str:
    """The name, with a number where it is taken: files of one name come from several folders."""
    number, free = 1, name
    while free in names:
        number += 1
        free = f"{name}_{number}"
    names.add(free)
    return free


def _check_model(folder: Path, relaxed: Sequence[Atoms], engine: str) -> None:
    """Refuse to go on from minima of another surface."""
    now = make_engine(engine).origin(Atoms("He"))["model_checksum"]
    if any(atoms.info.get("model_checksum", now) != now for atoms in relaxed):
        raise SettingsError(
            f"{folder} was relaxed with another file than the one that {engine} is now: take that "
            "one, or name a new folder"
        )


def _reasons(omitted: Sequence[Omission]) -> list[str]:
    return [f"{o.name}: {o.reason}" for o in omitted]


def _mended(
    table: GibbsTable,
    unique: list[Atoms],
    places: list[int],
    settings: ExploreSettings,
    kept: Path,
    parallel: dict[str, Any],
) -> GibbsTable:
    """The table after what sat on saddle points was shaken off them and relaxed further."""
    engine = f"model:{settings.model}"
    # Structures that are not in the table could not be computed.
    saddles = {str(m.atoms.info["name"]) for m in table.minima if len(m.imaginary)}
    lowest = [unique[i] for i in places]
    sound = [a for a in lowest if a.info["name"] not in saddles]
    shaken = [a.copy() for a in lowest if a.info["name"] in saddles]
    for atoms in shaken:
        atoms.rattle(_SHAKE, seed=settings.seed)
    relaxed, _ = relax_frames(
        shaken, engine, optimizer=settings.optimizer, fmax=settings.fmax / 4, steps=settings.steps,
        kept=kept, **parallel,
    )  # fmt: skip
    # What falls into a minimum that is there already is that one.
    frames = [*sound, *relaxed]
    groups, _ = distinct_groups(frames, energy_tolerance=settings.energy_tolerance,
                                rmsd_tolerance=settings.rmsd_tolerance)  # fmt: skip
    frames = [frames[min(group)] for group in groups]
    return gibbs_table(frames, engine, settings.conditions(), kept=kept, **parallel)


def _told(omitted: list[Omission], found: list[Atoms], more: list[Omission]) -> list[Atoms]:
    omitted += more
    if not found:
        raise DataError(f"no candidate could be relaxed; the first: {more[0].reason}")
    return found


def _learned(folder: Path, table: GibbsTable, model: KNNModel) -> list[dict[str, Any]] | str:
    """Write what the model has learned of the minima; the rows, or why there are none."""
    try:
        rows = learned_rows(table, model)
    except KNNCalcError as e:
        return str(e)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(folder / "learned.csv", DataError) as handle:
        text = csv_text(keys, [[row.get(key) for key in keys] for row in rows])
        handle.write(text.encode("utf-8"))
    return rows


def _ranked(
    folder: Path, table: GibbsTable, found: list[Atoms], notes: list[str]
) -> list[dict[str, Any]]:
    """Write the tables; rows of the first condition, lowest Gibbs energy first."""
    rows = table.rows()
    write_frames(folder / "gibbs.extxyz", found)
    write_frames(folder / "gibbs.pkl", found)
    with atomic_write(folder / "gibbs.csv", DataError) as handle:
        text = csv_text(COLUMNS, [[row[key] for key in COLUMNS] for row in rows])
        handle.write(text.encode("utf-8"))
    first = rows[:: len(table.conditions.temperatures) * len(table.conditions.pressures)]
    real = [r["energy_eV"] for r in first if r["gibbs_eV"] is not None]
    notes += [
        f"{r['name']} has a lower energy than all minima, but no Gibbs energy, since its lowest "
        f"mode is {-r['lowest_mode_cm1']:.0f}i cm⁻¹: compute it"
        for r in first
        if r["gibbs_eV"] is None and real and r["energy_eV"] < min(real)
    ]
    return sorted(first, key=lambda r: (r["gibbs_eV"] is None, r["gibbs_eV"] or 0.0))
