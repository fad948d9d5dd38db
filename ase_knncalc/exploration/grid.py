"""Campaigns of all compositions of a grid, in one folder.

====================  =============================================================================
``explore.toml``      the settings: those of a campaign, with a grid as their composition
``1am1sa/``, …        a campaign each, see :mod:`ase_knncalc.exploration.campaign`
``*/failed.txt``      why nothing was found of a composition, which is not tried again
``finished.db``       finished calculations of all of them: a molecule is computed once
``gibbs.csv``         every structure at every condition; ``gibbs.pkl`` for JKQC
``acdc.txt``          ΔH and ΔS of the lowest minimum of each cluster, for cluster dynamics; with
                      ``acdc-dipoles.txt``
``report.html``       the lowest of each composition, with links to the reports of each
====================  =============================================================================
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ase_knncalc._lib.files import atomic_write
from ase_knncalc._lib.tables import csv_text
from ase_knncalc.data import Omission, write_frames
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.exploration.acdc import write_acdc_files
from ase_knncalc.exploration.campaign import REPORT, Explored, run_steps
from ase_knncalc.exploration.compositions import grid_compositions, proton_states
from ase_knncalc.exploration.pool import fitting, given_candidates, keep_given
from ase_knncalc.exploration.report import GridEntry, write_grid_page
from ase_knncalc.exploration.settings import ExploreSettings, take_folder
from ase_knncalc.exploration.thermo import COLUMNS, GibbsTable
from ase_knncalc.sampling.engines import engine_model
from ase_knncalc.sampling.molecules import composition_of

FAILED = "failed.txt"


@dataclass(frozen=True)
class ExploredGrid:
    """What a grid of campaigns found.

    Attributes
    ----------
    found : dict of Explored
        By composition, such as ``"1am1sa"``, which is the name of the folder, too.
    failed : dict of str
        Why there is nothing of a composition, such as that it falls apart.
    omitted : list of Omission
        Candidates that could not be read, or are of none of the compositions.
    notes : list of str
        What else there is to tell.
    report : Path
    """

    found: dict[str, Explored]
    failed: dict[str, str]
    omitted: list[Omission]
    notes: list[str]
    report: Path


def explore_grid(
    settings: ExploreSettings,
    folder: str | os.PathLike[str],
    *,
    n_jobs: int = -1,
    progress: bool = False,
) -> ExploredGrid:
    """Explore every composition of a grid, those of few molecules first.

    A composition of which nothing is found does not stop the others, and is not tried again while
    there is a ``failed.txt`` in its folder.

    Parameters
    ----------
    settings
        With a grid as composition, such as ``"0-4 sa, 0-4 am"``, and what to leave out of it
        (``exclude``); all else is of each campaign. Of ``files``, each gets the structures that are
        of its composition.
    folder
        Made if it is not there. One with the same grid is gone on with.
    n_jobs, progress
        As for :func:`~ase_knncalc.exploration.explore`: jobs of one composition after the other.

    Raises
    ------
    SettingsError
        If the folder is of another grid, or a setting makes no sense.
    KNNCalcError
        If nothing is found of any composition.
    """
    folder = Path(folder)
    each = {}
    for composition in grid_compositions(settings.composition, settings.exclude):
        states = proton_states(composition, settings.model, ions=False)
        each[composition_of(states[0])] = composition, states[0]
    given, omitted = given_candidates(folder, settings)
    fit = {name: fitting(given, ingredients)[0] for name, (_, ingredients) in each.items()}
    used = {str(atoms.info["source"]) for frames in fit.values() for atoms in frames}
    reason = "it is of no composition of the grid"
    omitted += [
        Omission(i, str(a.info["name"]), source, reason, "composition")
        for i, a in enumerate(given)
        if (source := str(a.info["source"])) not in used
    ]  # fmt: skip
    take_folder(folder, settings)
    keep_given(folder, given)
    notes: list[str] = []
    entries: list[GridEntry] = []
    failed: dict[str, str] = {}
    for number, (name, (composition, _)) in enumerate(each.items()):
        if progress:
            print(f"{name}: {number + 1} of {len(each)}", file=sys.stderr)
        one = replace(settings, composition=composition, exclude=())
        why = folder / name / FAILED
        if why.exists():
            failed[name] = f"{why.read_text('utf-8')} (remove {why} to try again)"
            continue
        try:
            found, table = run_steps(
                one, folder / name, fit[name], kept=folder / "finished.db", others=False,
                n_jobs=n_jobs, progress=progress,
            )  # fmt: skip
        except SettingsError:
            raise
        except KNNCalcError as e:
            failed[name] = str(e)
            with atomic_write(why, DataError) as handle:
                handle.write(str(e).encode("utf-8"))
            continue
        entries.append(GridEntry(name, found, table))
    if not entries:
        raise DataError(f"nothing was found of any composition; {next(iter(failed.items()))}")
    rows = [row for entry in entries for row in entry.table.rows()]
    with atomic_write(folder / "gibbs.csv", DataError) as handle:
        text = csv_text(COLUMNS, [[row[key] for key in COLUMNS] for row in rows])
        handle.write(text.encode("utf-8"))
    write_frames(folder / "gibbs.pkl", [a for entry in entries for a in entry.table.frames()])
    together = _together([entry.table for entry in entries])
    notes += write_acdc_files(folder, together, engine_model(f"model:{settings.model}"))
    path = folder / REPORT
    told = [*notes, *(f"{o.name}: {o.reason}" for o in omitted)]
    write_grid_page(path, settings.composition, settings.model, entries, failed, asdict(settings),
                    told)  # fmt: skip
    return ExploredGrid({e.name: e.found for e in entries}, failed, omitted, notes, path)


def _together(tables: list[GibbsTable]) -> GibbsTable:
    """All minima and molecules in one table."""
    molecules: dict[str, Any] = {}
    for table in tables:
        molecules |= table.molecules
    return GibbsTable(
        [m for t in tables for m in t.minima],
        tables[0].conditions,
        [p for t in tables for p in t.parts],
        molecules,
        [],
    )
