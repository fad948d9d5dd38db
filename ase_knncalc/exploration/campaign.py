"""From a composition to Gibbs energies and inputs of other programs, in one folder.

Each step writes a file when it is done, and is not done again where the file is: a campaign that
was killed goes on with the structure that it was at.

====================  =============================================================================
``explore.toml``      the settings: all of them, to be read, kept and used again
``candidates-*``      sampled structures, a file for each way to place the protons
``relaxed.extxyz``    all candidates, relaxed on the surface of the model, with their marks
``unique.extxyz``     each structure once
``gibbs.extxyz``      the lowest of them with Gibbs energies; ``gibbs.csv`` at every condition
``acdc.txt``          ΔH and ΔS for cluster dynamics, where the molecules are known
``inputs/``           inputs of ORCA and Gaussian for those that were chosen
``report.html``       what was found
``finished.db``       finished relaxations and vibrations (and ``*.runs``, of samplings)
====================  =============================================================================
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from ase import Atoms

from ase_knncalc._lib.arguments import (
    Count,
    NotNegative,
    OneOf,
    Positive,
    Seed,
    Settings,
    Several,
    Whole,
)
from ase_knncalc._lib.files import atomic_write
from ase_knncalc._lib.tables import csv_text
from ase_knncalc.analysis.thermochemistry import TREATMENTS
from ase_knncalc.data import Omission, read_structures, write_frames
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.exploration.acdc import write_acdc
from ase_knncalc.exploration.chosen import Inputs, lowest_frames, write_inputs
from ase_knncalc.exploration.distinct import distinct_groups, unique_frames
from ase_knncalc.exploration.relaxation import relax_frames
from ase_knncalc.exploration.report import write_page
from ase_knncalc.exploration.thermo import COLUMNS, Conditions, GibbsTable, gibbs_table
from ase_knncalc.sampling import SamplingSettings, parse_ingredients, sample
from ase_knncalc.sampling.molecules import MOLECULES, Ingredient, composition_of
from ase_knncalc.sampling.settings import METHODS
from ase_knncalc.settings import DEFAULT_MODEL
from ase_knncalc.store import load_model

CONFIG = "explore.toml"
REPORT = "report.html"

# Å, by which structures on saddle points are shaken.
_SHAKE = 0.05

# More ways to place the protons than this are not tried.
_MOST_STATES = 30


@dataclass(frozen=True)
class ExploreSettings(Settings):
    """A campaign.

    Parameters
    ----------
    composition
        Such as ``"2 sa, 2 am"``: molecules as for ``knncalc sample``, by name, file or SMILES.
    model
        Name or file.
    candidates
        Structures to sample of each way to place the protons; 0 samples none.
    files
        More candidates, of any format that ``knncalc relax`` reads.
    protonation
        Whether ions are tried, too: acids that have given a proton to a base.
    methods, engine, seed
        Of the sampling, see :class:`~ase_knncalc.sampling.SamplingSettings` and
        :func:`~ase_knncalc.sampling.engines.make_engine`.
    optimizer, fmax, steps
        Of the relaxation, see :func:`~ase_knncalc.exploration.relax_frames`.
    energy_tolerance, rmsd_tolerance
        eV and Å, see :func:`~ase_knncalc.exploration.unique_frames`.
    vibrations
        Gibbs energies are computed of so many of the lowest.
    temperatures, pressures, treatment, lowest
        See :class:`~ase_knncalc.exploration.Conditions`.
    window, top
        What is chosen, by Gibbs energy: kcal/mol, and at most so many.
    orca, gaussian, cores, memory
        See :class:`~ase_knncalc.exploration.Inputs`.
    """

    composition: str
    model: str = DEFAULT_MODEL
    candidates: Whole = 100
    files: tuple[str, ...] = ()
    protonation: bool = True
    methods: Several[Annotated[str, OneOf(METHODS)]] = ("packing", "basin-hopping")
    engine: str = "auto"
    seed: Seed = 0
    optimizer: str = "BFGS"
    fmax: Positive = 0.01
    steps: Count = 500
    energy_tolerance: Positive = 0.005
    rmsd_tolerance: Positive = 0.3
    vibrations: Count = 20
    temperatures: Several[Positive] = (298.15,)
    pressures: Several[Positive] = (101325.0,)
    treatment: Annotated[str, OneOf(TREATMENTS)] = "truhlar"
    lowest: Positive = 100.0
    window: NotNegative = 3.0
    top: Count = 10
    orca: str = Inputs.orca
    gaussian: str = Inputs.gaussian
    cores: Count = Inputs.cores
    memory: Count = Inputs.memory

    def toml(self) -> str:
        """The settings as a file that :func:`read_settings` reads."""
        # Texts, numbers and lists of JSON are those of TOML.
        values = asdict(self).items()
        return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values)


def read_settings(path: str | os.PathLike[str]) -> ExploreSettings:
    """Settings of a file such as a campaign's ``explore.toml``.

    Raises
    ------
    SettingsError
        If it cannot be read, or a setting is unknown or makes no sense.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise SettingsError(f"{path}: cannot be read: {e}") from e
    try:
        return ExploreSettings.from_dict(values)
    except SettingsError as e:
        raise SettingsError(f"{path}: {e}") from None


def given_settings(path: Path | None, **given: Any) -> ExploreSettings:
    """Settings of a file, if there is one, with those in place that are given and not None.

    Raises
    ------
    SettingsError
        If there is no composition, or a setting makes no sense.
    """
    told = {name: value for name, value in given.items() if value is not None}
    if path is not None:
        return replace(read_settings(path), **told)
    if "composition" not in told:
        raise SettingsError(
            "what is to be explored? Give a composition, such as '2 sa, 2 am', or settings"
        )
    return ExploreSettings(**told)


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
    ingredients = [_ingredients(counts, settings) for counts in _states(settings)]
    if not settings.candidates and not settings.files:
        raise SettingsError("candidates is 0 and there are no files: nothing to explore")
    _take(folder, settings)
    engine, kept = f"model:{settings.model}", folder / "finished.db"
    parallel: dict[str, Any] = {"n_jobs": n_jobs, "progress": progress}
    notes: list[str] = []
    omitted: list[Omission] = []
    frames = [atoms for kinds in ingredients for atoms in _sampled(folder, kinds, settings, notes,
                                                                  parallel)]  # fmt: skip
    frames += read_structures(settings.files) if settings.files else []
    if not frames:
        raise DataError("no candidate could be sampled; " + "; ".join(notes))
    composition = composition_of(ingredients[0])
    for atoms in frames:
        atoms.info["composition"] = composition
    relaxed = _step(folder / "relaxed.extxyz", lambda: _told(omitted, *relax_frames(
        frames, engine, optimizer=settings.optimizer, fmax=settings.fmax, steps=settings.steps,
        kept=kept, **parallel)))  # fmt: skip
    unique = _step(folder / "unique.extxyz", lambda: unique_frames(
        relaxed, energy_tolerance=settings.energy_tolerance,
        rmsd_tolerance=settings.rmsd_tolerance))  # fmt: skip
    places, _ = lowest_frames(unique, top=settings.vibrations)
    # Of what is kept nothing is computed again: a table is made anew in each call.
    table = gibbs_table(
        [unique[i] for i in places], engine, _conditions(settings), kept=kept, **parallel
    )
    if any(len(m.imaginary) for m in table.minima):
        table = _mended(table, unique, places, settings, kept, parallel)
    omitted += table.omitted
    if not table.minima:
        raise DataError(f"no structure is a minimum: {omitted[0].reason if omitted else ''}")
    found = table.frames()
    rows = _ranked(folder, table, found, notes)
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
    names = [str(found[i].info["name"]) for i in chosen]
    outcome = Explored(
        len(frames), len(relaxed), len(unique), rows, names, omitted, notes, folder / REPORT
    )
    write_page(folder / REPORT, settings.composition, settings.model, table, found, relaxed,
               {**asdict(settings), "chosen by": by}, names,
               [*notes, *(f"{o.name}: {o.reason}" for o in omitted)])  # fmt: skip
    return outcome


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
    return gibbs_table(frames, engine, _conditions(settings), kept=kept, **parallel)


def _told(omitted: list[Omission], found: list[Atoms], more: list[Omission]) -> list[Atoms]:
    omitted += more
    if not found:
        raise DataError(f"no candidate could be relaxed; the first: {more[0].reason}")
    return found


def _conditions(settings: ExploreSettings) -> Conditions:
    return Conditions(
        settings.temperatures, settings.pressures, settings.treatment, settings.lowest
    )


def _take(folder: Path, settings: ExploreSettings) -> None:
    """Begin in a folder, or go on in it, if it is of the same campaign."""
    path = folder / CONFIG
    if path.exists():
        there = read_settings(path)
        if there != settings:
            names = [k for k, v in asdict(settings).items() if getattr(there, k) != v]
            raise SettingsError(
                f"{folder} is of a campaign with other settings ({', '.join(names)}): restore "
                "them, or name another folder"
            )
        return
    try:
        folder.mkdir(exist_ok=True)
        if any(p for p in folder.iterdir() if not p.name.startswith(".")):
            raise SettingsError(f"{folder} has files in it but no {CONFIG}: name a new folder")
    except OSError as e:
        raise SettingsError(f"{folder} cannot be made: {e.strerror}") from e
    with atomic_write(path, SettingsError) as handle:
        handle.write(settings.toml().encode("utf-8"))


def _step(path: Path, work: Any) -> list[Atoms]:
    """Structures of a file, after they were made and written if it is not there."""
    if not path.exists():
        write_frames(path, work())
    return read_structures(path)


def _counts(composition: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in composition.split(","):
        match = re.fullmatch(r"\s*(\d+)?\s*([^\d\s].*?)\s*", part)
        if match is None or match[1] == "0":
            raise SettingsError(f"composition {composition!r}: expected such as '2 sa, 2 am'")
        counts[match[2]] = counts.get(match[2], 0) + int(match[1] or 1)
    return counts


def _states(settings: ExploreSettings) -> list[dict[str, int]]:
    """Numbers of molecules for each way to give protons of acids to bases, none first."""
    counts = _counts(settings.composition)
    if not settings.protonation:
        return [counts]
    monomers = load_model(settings.model, baseline=None).info.monomers
    known = {name.removeprefix("1") for name in monomers} | set(MOLECULES)
    # Water takes part in what relaxation makes of it: ions of it alone are no minima.
    acids = {n: a for n in counts if n != "w" and (a := {"sa": "b"}.get(n, f"{n}m")) in known}
    bases = {n: f"{n}p" for n in counts if n != "w" and f"{n}p" in known}
    found = []
    for given in product(*(range(counts[n] + 1) for n in acids)):
        for taken in product(*(range(counts[n] + 1) for n in bases)):
            if sum(given) != sum(taken):
                continue
            state = dict(counts)
            for own, ions, numbers in ((acids, acids, given), (bases, bases, taken)):
                for name, n in zip(own, numbers, strict=True):
                    state[name] -= n
                    state[ions[name]] = state.get(ions[name], 0) + n
            if min(state.values()) >= 0:
                found.append((sum(given), {k: n for k, n in state.items() if n}))
    return [state for _, state in sorted(found, key=lambda f: f[0])][:_MOST_STATES]


def _ingredients(counts: Mapping[str, int], settings: ExploreSettings) -> list[Ingredient]:
    return parse_ingredients([f"{name}:{n}" for name, n in counts.items()], settings.model)


def _sampled(
    folder: Path,
    ingredients: list[Ingredient],
    settings: ExploreSettings,
    notes: list[str],
    parallel: dict[str, Any],
) -> list[Atoms]:
    """Candidates of one way to place the protons; a note where there are none."""
    if not settings.candidates:
        return []
    how = SamplingSettings(methods=settings.methods, seed=settings.seed)
    path = folder / f"candidates-{composition_of(ingredients)}.extxyz"
    runs = path.with_suffix(".runs")
    try:
        found = _step(path, lambda: sample(
            ingredients, settings.candidates, engine=settings.engine, settings=how, journal=runs,
            **parallel,
        ))  # fmt: skip
        runs.unlink(missing_ok=True)
        return found
    except SettingsError:
        raise
    except KNNCalcError as e:
        notes.append(str(e))
        return []


def _ranked(
    folder: Path, table: GibbsTable, found: list[Atoms], notes: list[str]
) -> list[dict[str, Any]]:
    """Write the tables; rows of the first condition, lowest Gibbs energy first."""
    rows = table.rows()
    write_frames(folder / "gibbs.extxyz", found)
    with atomic_write(folder / "gibbs.csv", DataError) as handle:
        text = csv_text(COLUMNS, [[row[key] for key in COLUMNS] for row in rows])
        handle.write(text.encode("utf-8"))
    try:
        write_acdc(folder / "acdc.txt", table, temperature=table.conditions.temperatures[0])
    except DataError as e:
        notes.append(f"no acdc.txt: {e}")
    first = rows[:: len(table.conditions.temperatures) * len(table.conditions.pressures)]
    real = [r["energy_eV"] for r in first if r["gibbs_eV"] is not None]
    notes += [
        f"{r['name']} has a lower energy than all minima, but no Gibbs energy, since its lowest "
        f"mode is {-r['lowest_mode_cm1']:.0f}i cm⁻¹: compute it"
        for r in first
        if r["gibbs_eV"] is None and real and r["energy_eV"] < min(real)
    ]
    return sorted(first, key=lambda r: (r["gibbs_eV"] is None, r["gibbs_eV"] or 0.0))
