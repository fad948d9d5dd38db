"""``knncalc sample``, ``select``, ``append`` and ``active``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    CacheOption,
    EnergyUnit,
    JobsOption,
    JsonOption,
    ModelOption,
    OwnPredictions,
    QuietOption,
    ReferenceKey,
    SeedOption,
    numbers,
)
from ase_knncalc.cli.outputs import cache_place, check_outputs
from ase_knncalc.cli.printing import print_json, print_table, show
from ase_knncalc.settings import DEFAULT_MODEL

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="extxyz, xyz(.gz) or traj to write.")
]


def sample(
    molecules: Annotated[
        list[str],
        typer.Argument(
            help="NAME:COUNT (sa, b, w, am, amp, ma, dma, tma, and what a model was trained on), "
            "FILE.xyz:COUNT, FILE.xyz@INDEX:COUNT, - (standard input) or SMILES:COUNT."
        ),
    ],
    output: OutputOption,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Structures wanted.")] = 100,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated: packing, monte-carlo, basin-hopping, md."),
    ] = "packing",
    engine: Annotated[
        str,
        typer.Option(help="What drives it: a baseline (GFN1-xTB, …), or model:NAME_OR_FILE."),
    ] = "auto",
    relax: Annotated[bool, typer.Option("--relax/--no-relax", help="Relax packings.")] = True,
    temperatures: Annotated[
        str, typer.Option(help="Comma-separated, K, for walks and dynamics.")
    ] = "200,300,400",
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample distinct structures of a cluster; what was interrupted goes on when called again.

    Example: knncalc sample sa:2 am:2 --n 200 -o pool.extxyz
    """
    from ase_knncalc.data import write_frames
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.sampling import SamplingSettings, parse_ingredients
    from ase_knncalc.sampling import sample as run
    from ase_knncalc.sampling.ingredients import ingredient_files

    read = ingredient_files(molecules)
    model = DEFAULT_MODEL
    if engine.startswith("model:"):
        model = engine.removeprefix("model:")
        read.append(Path(model))
    check_outputs(read, ("--output", output, frame_writer))
    journal = output.with_name(f"{output.name}.runs")
    frames = run(
        parse_ingredients(molecules, model),
        n,
        engine=engine,
        settings=SamplingSettings(
            methods=tuple(m.strip() for m in methods.split(",")),
            relax=relax,
            temperatures=numbers("--temperatures", temperatures, float),
            seed=seed,
        ),
        n_jobs=jobs,
        progress=not quiet,
        journal=journal,
    )
    write_frames(output, frames)
    journal.unlink()
    energies = [a.info["energy"] for a in frames]
    spread = KCAL_PER_MOL * (max(energies) - min(energies))
    if as_json:
        print_json({"structures": len(frames), "spread_kcal_mol": spread, "output": output})
        return
    less = "" if len(frames) >= n else f" (no more than these were found, {n} were asked for)"
    print(f"{len(frames)} distinct structures over {spread:.1f} kcal/mol in {output}{less}")


def select(
    pool: Annotated[list[Path], typer.Argument(help="Structures to choose from.")],
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Structures to choose.")] = 20,
    model: ModelOption = DEFAULT_MODEL,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            "--output",
            "-o",
            help="Write the chosen structures; with --top or --window, a folder of inputs.",
        ),
    ] = None,
    top: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="The lowest N of each composition, whatever a model knows."),
    ] = None,
    window: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Those up to so far above the lowest of each composition, kcal/mol."),
    ] = None,
    orca: Annotated[str, typer.Option(help="Keywords of ORCA's inputs.")] = "",
    gaussian: Annotated[str, typer.Option(help="Route of Gaussian's inputs.")] = "",
    cores: Annotated[int, typer.Option(min=1, help="Processes of each job of theirs.")] = 4,
    strategy: Annotated[
        str,
        typer.Option(
            help="random, energy_std, novelty, diversity, combined (std × distance) or variance."
        ),
    ] = "combined",
    energy_window: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Only structures up to this far above the lowest of their composition, eV."
        ),
    ] = None,
    baseline: BaselineOption = "auto",
    baseline_key: BaselineKey = "baseline_energy",
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose the structures whose labels would teach a model most, or the lowest, with inputs.

    With --top or --window no model is asked: the lowest by the Gibbs energies (knncalc thermo -o),
    or else energies, that the file brings go into a folder of ORCA, Gaussian and xyz inputs.

    Example: knncalc select pool.extxyz -n 20 -m saw-wb97xd -o chosen.extxyz

    The lowest: knncalc select gibbs.extxyz --window 3 --top 10 -o inputs
    """
    if top is not None or window is not None:
        sizes = {"orca": orca, "gaussian": gaussian, "cores": cores}
        _lowest(pool, top, window, output, {k: v for k, v in sizes.items() if v}, as_json)
        return
    from ase_knncalc._lib.arguments import OneOf, checked
    from ase_knncalc.data import KeyMap, read_structures, write_frames
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.sampling import select_frames
    from ase_knncalc.sampling.selection import STRATEGIES
    from ase_knncalc.store import find_model, load_model

    checked("strategy", strategy, OneOf(STRATEGIES))
    check_outputs([*pool, find_model(model)], ("--output", output, frame_writer))
    loaded = load_model(model, baseline=None if energy_window is None else baseline)
    frames = read_structures(pool)
    chosen, found = select_frames(
        loaded,
        frames,
        n,
        strategy,
        seed=seed,
        energy_window=energy_window,
        keys=KeyMap(baseline_energy=baseline_key),
        n_jobs=jobs,
        progress=not quiet,
    )
    if output is not None and len(chosen):
        write_frames(output, [frames[i] for i in chosen])
    columns = ["name", "energy_std_kcal_mol", "novelty"]
    rows: list[list[Any]] = [
        [
            str(frames[i].info["name"]),
            KCAL_PER_MOL * float(found.energy_std[i]),
            float(found.novelty[i]),
        ]
        for i in chosen
    ]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    print_table(
        f"{len(rows)} of {len(frames)} structures, by {strategy}",
        columns,
        [[name, f"{std:.3f}", f"{novelty:.2f}"] for name, std, novelty in rows],
    )


def _lowest(
    pool: list[Path],
    top: int | None,
    window: float | None,
    folder: Path | None,
    inputs: dict[str, Any],
    as_json: bool,
) -> None:
    from ase_knncalc.data import read_structures
    from ase_knncalc.exploration import Inputs, lowest_frames, write_inputs
    from ase_knncalc.exploration.chosen import COLUMNS, check_new_folder, chosen_rows

    if folder is not None:
        check_new_folder(folder)
    frames = read_structures(pool)
    places, by = lowest_frames(frames, top=top, window=window)
    if folder is not None:
        write_inputs(folder, [frames[i] for i in places], Inputs(**inputs))
    rows = [list(row.values()) for row in chosen_rows(frames, places, by)]
    where = "" if folder is None else f", with inputs in {folder}"
    show(f"{len(rows)} of {len(frames)} structures, by {by}{where}", COLUMNS, rows, None, as_json)


def append(
    data: Annotated[list[Path], typer.Argument(help="Labelled structures.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="Model file to extend.")],
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    source: Annotated[
        str, typer.Option(help="Where the labels come from; kept with each addition.")
    ] = "",
    baseline: BaselineOption = "auto",
    cache: CacheOption = None,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Refuse labels of another level of theory."),
    ] = True,
    energy_unit: EnergyUnit = "eV",
    own_predictions: OwnPredictions = False,
    jobs: JobsOption = -1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add labelled structures to a model file without training it anew.

    Example: knncalc append new.extxyz -m my.h5
    """
    import numpy as np

    from ase_knncalc.data import KeyMap
    from ase_knncalc.training import append_to_file, needs_retraining

    check_outputs([*data, model], ("--cache", cache, cache_place))
    outcome = append_to_file(
        model,
        data,
        keys=KeyMap(
            reference_energy=reference_key,
            baseline_energy=baseline_key,
            energy_unit=energy_unit,
            own_predictions=own_predictions,
        ),
        source=source,
        baseline=baseline,
        cache=cache,
        check_labels=check,
        n_jobs=jobs,
        progress=not quiet,
    )
    advice = needs_retraining(outcome.model)
    mae = float(np.abs(outcome.errors).mean()) if outcome.added else None
    if as_json:
        print_json(
            {
                "added": outcome.added,
                "omitted": [{"name": o.name, "reason": o.reason} for o in outcome.omitted],
                "mae_before_ev": mae,
                "changes_energies": outcome.changes_energies,
                "needs_retraining": advice.needed,
                "reasons": advice.reasons,
            }
        )
        return
    print(f"{len(outcome.added)} structures added to {model}, {len(outcome.omitted)} left out")
    for omission in outcome.omitted[:5]:
        print(f"  left out: {omission.name}: {omission.reason}")
    if mae is not None:
        print(f"mean absolute error there before: {KCAL_PER_MOL * mae:.3f} kcal/mol")
    if not outcome.changes_energies:
        print("the k-NN term of this model is off: energies stay, uncertainty and novelty follow")
    for reason in advice.reasons:
        print(f"time to train again: {reason}")


def active(
    config: Annotated[Path, typer.Argument(help="TOML file; see docs/active-learning.md.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be asked next; label nothing.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask again for labels that failed.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose, label and learn in turn; a loop that was stopped goes on where it was.

    Example: knncalc active config.toml
    """
    from ase_knncalc.active import ActiveLoop, read_config
    from ase_knncalc.active.report import COLUMNS, row

    loop = ActiveLoop(
        read_config(config),
        progress=not quiet,
        retry=retry,
        on_iteration=_say(quiet or as_json),
    )
    if dry_run:
        _show_plan(loop, as_json)
        return
    reports = loop.run()
    if as_json:
        print_json(reports)
        return
    rows = [row(r) for r in reports]
    shown = [i for i in range(len(COLUMNS)) if any(r[i] != "" for r in rows)]
    print_table(
        f"{loop.directory}: energies in kcal/mol",
        [COLUMNS[i].replace("_", " ") for i in shown],
        [[r[i] for i in shown] for r in rows],
    )


def _say(silent: bool) -> Any:
    def say(report: dict[str, Any]) -> None:
        import sys

        from ase_knncalc.active.report import sentence

        print(sentence(report), file=sys.stderr)

    return None if silent else say


def _show_plan(loop: Any, as_json: bool) -> None:
    plan = loop.plan()
    names = [str(a.info.get("name", "")) for a in plan.chosen]
    if as_json:
        print_json(
            {
                "iteration": plan.iteration,
                "pool": plan.pool,
                "not_covered": plan.not_covered,
                "chosen": names,
                "energy_std_ev": plan.energy_std,
                "novelty": plan.novelty,
                "note": plan.note,
            }
        )
        return
    print_table(
        f"iteration {plan.iteration} would ask {len(names)} of {plan.pool} structures"
        + (f" ({plan.not_covered} the model does not cover)" if plan.not_covered else "")
        + (f"; {plan.note}" if plan.note else ""),
        ["name", "energy_std_kcal_mol", "novelty"],
        [
            [name, "" if s is None else f"{KCAL_PER_MOL * s:.3f}", "" if v is None else f"{v:.2f}"]
            for name, s, v in zip(names, plan.energy_std, plan.novelty, strict=True)
        ],
    )
