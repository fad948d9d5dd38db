"""``knncalc relax``, ``unique``, ``thermo`` and ``explore``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ase_knncalc.cli.options import (
    ChargeOption,
    CsvOption,
    DaskOption,
    IgnoreCell,
    JobsOption,
    JsonOption,
    LevelOption,
    ModelOption,
    QuietOption,
    StrictOption,
    Structures,
    pairs,
    ranges,
)
from ase_knncalc.cli.outputs import check_outputs, tell_omissions
from ase_knncalc.cli.printing import print_json, show
from ase_knncalc.settings import DEFAULT_MODEL

_NOTHING = "no structure is left"

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="extxyz, xyz(.gz), traj, db, pkl (JKQC) or csv.")
]


def relax(
    structures: Structures,
    output: OutputOption,
    model: ModelOption = DEFAULT_MODEL,
    csv: CsvOption = None,
    optimizer: Annotated[str, typer.Option(help="Any of ASE's: BFGS, LBFGS, FIRE, …")] = "BFGS",
    fmax: Annotated[float, typer.Option(help="Largest force on an atom in the end, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of each structure.")] = 500,
    engine: Annotated[
        str, typer.Option(help="A baseline to relax with (GFN1-xTB, …) in place of the model.")
    ] = "",
    charge: ChargeOption = None,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Relax structures, and say which fell apart, moved protons, or left what the model knows.

    Killed, it goes on where it was: finished relaxations are in <output>.part.db until all are.

    Example: knncalc relax pool.extxyz -m multibase-wb97xd -o relaxed.extxyz
    """
    from ase_knncalc.data import KeyMap, read_usable, write_frames
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.exploration import relax_frames
    from ase_knncalc.exploration.relaxation import COLUMNS, relaxation_row
    from ase_knncalc.store import find_model

    inputs = structures if engine else [*structures, find_model(model)]
    check_outputs(inputs, ("--output", output, frame_writer), ("--csv", csv, None))
    frames, omitted = read_usable(structures, KeyMap(ignore_cell=ignore_cell))
    kept = Path(f"{output}.part.db")
    found, failed = relax_frames(
        frames,
        engine or f"model:{model}",
        optimizer=optimizer,
        fmax=fmax,
        steps=steps,
        charge=charge,
        kept=kept,
        n_jobs=jobs,
        progress=not quiet,
    )
    tell_omissions([*omitted, *failed], len(frames) + len(omitted), strict, _NOTHING)
    write_frames(output, found)
    kept.unlink()
    rows = [list(relaxation_row(a).values()) for a in found]
    show(f"{len(rows)} structures relaxed, in {output}", COLUMNS, rows, csv, as_json)


def unique(
    structures: Structures,
    output: OutputOption,
    energy: Annotated[
        float, typer.Option(help="Energies of one structure differ by this at most, eV.")
    ] = 0.005,
    rmsd: Annotated[
        float, typer.Option(help="Its atoms are shifted by this at most, root mean square, Å.")
    ] = 0.3,
    charge: ChargeOption = None,
    csv: CsvOption = None,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Keep each structure once, whatever its orientation, order of atoms and handedness.

    Example: knncalc unique relaxed.extxyz -o unique.extxyz
    """
    from ase_knncalc.data import KeyMap, read_usable, write_frames
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.exploration import distinct_groups
    from ase_knncalc.exploration.distinct import COLUMNS, group_row, representatives

    check_outputs(structures, ("--output", output, frame_writer), ("--csv", csv, None))
    frames, omitted = read_usable(structures, KeyMap(ignore_cell=ignore_cell))
    groups, failed = distinct_groups(
        frames, energy_tolerance=energy, rmsd_tolerance=rmsd, charge=charge
    )
    tell_omissions([*omitted, *failed], len(frames) + len(omitted), strict, _NOTHING)
    write_frames(output, representatives(frames, groups))
    rows = [list(group_row(frames, group).values()) for group in groups]
    show(f"{len(rows)} of {len(frames)} structures differ, in {output}",
         COLUMNS, rows, csv, as_json)  # fmt: skip


# eV/Å. What is learned was learned at minima of the reference, where the model has forces.
_FAST_FMAX = 0.2


def thermo(
    structures: Structures,
    model: ModelOption = DEFAULT_MODEL,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            "--output", "-o", help="Structures with all of it: extxyz, traj, db, pkl, csv."
        ),
    ] = None,
    csv: CsvOption = None,
    temperature: Annotated[
        str,
        typer.Option("--temperature", "-T", help="K: one, several (250,298.15), or 200:300:10."),
    ] = "298.15",
    pressure: Annotated[
        str, typer.Option("--pressure", "-p", help="Pa, in the same ways.")
    ] = "101325",
    treatment: Annotated[
        str, typer.Option(help="Of soft modes: truhlar, grimme or harmonic.")
    ] = "truhlar",
    lowest: Annotated[float, typer.Option(help="Modes below are soft, cm⁻¹.")] = 100.0,
    symmetry: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Rotational symmetry number of each (default: counted)."),
    ] = None,
    fmax: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Largest force on an atom of what counts as relaxed, eV/Å (default: 0.05; with "
            "--fast 0.2, so that minima of the reference do)."
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Thermochemistry that the model has learned, with its error."),
    ] = False,
    hessian: Annotated[
        bool,
        typer.Option(
            "--hessian", help="Vibrations of the model's surface (default); with --fast: both."
        ),
    ] = False,
    level: LevelOption = None,
    boltzmann: Annotated[
        bool, typer.Option("--boltzmann", help="A row for each composition in equilibrium.")
    ] = False,
    acdc: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of energies for ACDC: ΔH and ΔS of each cluster at 1 atm."),
    ] = None,
    acdc_dipoles: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of dipoles and polarizabilities for ACDC, as the model knows."),
    ] = None,
    acdc_names: Annotated[
        str, typer.Option(help="What molecules are called there: sa=A,am=N (default: as here).")
    ] = "",
    charge: ChargeOption = None,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Enthalpies, entropies and Gibbs energies, of structures and of binding, with their error.

    Structures are relaxed with the same model before (knncalc relax); molecules are here. Killed,
    it goes on where it was: what is finished is in <output>.part.db until all is. With --fast no
    Hessian is computed: one calculation a structure.

    Example: knncalc thermo unique.extxyz -T 250,298.15 --treatment grimme --csv gibbs.csv
    """
    from ase_knncalc.data import KeyMap, read_usable, write_frames
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.exploration import Conditions, gibbs_table, write_acdc
    from ase_knncalc.exploration.acdc import write_acdc_dipoles
    from ase_knncalc.exploration.learned import at_level
    from ase_knncalc.exploration.thermo import SHOWN
    from ase_knncalc.heads.dipole import require_dipole
    from ase_knncalc.heads.levels import require_level
    from ase_knncalc.store import find_model, load_model

    check_outputs(
        [*structures, find_model(model)],
        ("--output", output, frame_writer),
        ("--csv", csv, None),
        ("--acdc", acdc, None),
        ("--acdc-dipoles", acdc_dipoles, None),
    )
    names = pairs("--acdc-names", acdc_names)
    conditions = Conditions(
        temperatures=ranges("--temperature", temperature),
        pressures=ranges("--pressure", pressure),
        treatment=treatment,
        lowest=lowest,
    )
    known = load_model(model)
    if level is not None:
        require_level(known.heads, level)
    if acdc_dipoles is not None:  # before any work
        require_dipole(known.heads)
    frames, omitted = read_usable(structures, KeyMap(ignore_cell=ignore_cell))
    kept = None if output is None else Path(f"{output}.part.db")
    ways = [learned for learned, wanted in ((False, hessian or not fast), (True, fast)) if wanted]
    tables = [
        gibbs_table(
            frames,
            f"model:{model}",
            conditions,
            symmetry=symmetry,
            fmax=fmax if fmax is not None else _FAST_FMAX if learned else 0.05,
            learned=learned,
            charge=charge,
            kept=kept,
            n_jobs=jobs,
            progress=not quiet,
        )
        for learned in ways
    ]
    if level is not None:
        tables = [at_level(table, known, level) for table in tables]
    # What files hold is of the first way.
    table = tables[0]
    tell_omissions([*omitted, *table.omitted], len(frames) + len(omitted), strict, _NOTHING)
    if output is not None:
        write_frames(output, table.frames())
    if acdc is not None:
        write_acdc(acdc, table, temperature=conditions.temperatures[0], names=names)
    if acdc_dipoles is not None:
        write_acdc_dipoles(
            acdc_dipoles, table, known, temperature=conditions.temperatures[0], names=names
        )
    if kept is not None:
        kept.unlink()
    found = [row for t in tables for row in (t.averages() if boltzmann else t.rows())]
    if not found:
        from ase_knncalc.errors import DataError

        raise DataError("no structure is a minimum: all have imaginary modes; relax them further")
    shown = {*SHOWN, "vibrations"} if len(tables) > 1 else SHOWN
    columns = [key for key in found[0] if as_json or csv is not None or boltzmann or key in shown]
    show(
        f"{len(table.minima)} minima; binding is against the molecules' own minima on the "
        f"same surface, {model}; soft modes: {treatment}{f'; energies: {level}' if level else ''}",
        columns,
        [[row[key] for key in columns] for row in found],
        csv,
        as_json,
    )


def explore(
    composition: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Such as '2 sa, 2 am': molecules as for knncalc sample."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of all that is made.")
    ] = Path("explored"),
    grid: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="In place of a composition: '0-4 sa, 0-4 am', each in a subfolder."),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Compositions of the grid to leave out: '4 sa', '2-4 am'."),
    ] = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Settings (TOML), such as the explore.toml of another folder."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--model", "-m", help="Name of a shipped model, or a model file."),
    ] = None,
    candidates: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("-n", "--n", min=0, help="Structures to sample of each protonation state."),
    ] = None,
    files: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--candidates", help="More candidates: files, folders of outputs."),
    ] = None,
    crest: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="Look for more with CREST, where it is installed (default: yes)."),
    ] = None,
    temperature: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--temperature", "-T", help="K: one, several, or 200:300:10."),
    ] = None,
    treatment: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of soft modes: truhlar, grimme or harmonic."),
    ] = None,
    level: LevelOption = None,
    window: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, help="Chosen up to so far above the lowest, kcal/mol."),
    ] = None,
    top: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Chosen at most so many."),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, max=2**32 - 1, help="Of all random choices."),
    ] = None,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """From a composition to Gibbs energies, inputs of ORCA and Gaussian, and a page about them.

    Sampling, relaxation, distinct structures, vibrations, ranking, choice, in one folder; killed,
    the same command goes on. All other settings are those of --config; see docs/exploration.md.

    Example: knncalc explore "2 sa, 2 am" -o 2sa2am
    """
    from dataclasses import asdict

    from ase_knncalc.errors import SettingsError
    from ase_knncalc.exploration import explore as run
    from ase_knncalc.exploration import explore_grid
    from ase_knncalc.exploration.compositions import is_grid
    from ase_knncalc.exploration.settings import CONFIG, given_settings
    from ase_knncalc.exploration.thermo import SHOWN

    if composition is not None and grid is not None:
        raise SettingsError("a composition and a grid: give one of them")
    there = folder / CONFIG
    settings = given_settings(
        config or (there if there.exists() else None),
        composition=composition or grid,
        exclude=None if exclude is None else tuple(exclude),
        model=model,
        candidates=candidates,
        crest=crest,
        files=None if files is None else tuple(str(f.absolute()) for f in files),
        temperatures=None if temperature is None else ranges("--temperature", temperature),
        treatment=treatment,
        level=level,
        window=window,
        top=top,
        seed=seed,
    )
    if is_grid(settings.composition):
        every = explore_grid(settings, folder, n_jobs=jobs, progress=not quiet)
        found_in, notes, omitted = every.found, every.notes, every.omitted
        left_out = [f"{name}: {reason}" for name, reason in every.failed.items()]
        title, as_dict = f"{len(found_in)} compositions", asdict(every)
        rows = [found.rows[0] for found in found_in.values()]
    else:
        found = run(settings, folder, n_jobs=jobs, progress=not quiet)
        notes, omitted, left_out, as_dict, rows = (
            found.notes, found.omitted, [], asdict(found), found.rows
        )  # fmt: skip
        title = (
            f"{found.candidates} candidates, {found.relaxed} relaxed, {found.unique} distinct; "
            f"{len(found.chosen)} chosen"
        )
    for text in [*notes, *left_out, *(f"left out: {o.name}: {o.reason}" for o in omitted)]:
        print(text, file=sys.stderr)
    if as_json:
        print_json(as_dict)
        return
    show(
        f"{title}; binding is against the molecules' own minima on the same surface, "
        f"{settings.model}; {as_dict['report']}",
        SHOWN,
        [[row[key] for key in SHOWN] for row in rows],
        None,
        as_json,
    )
