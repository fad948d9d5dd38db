"""``knncalc check``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    CacheOption,
    DaskOption,
    JobsOption,
    JsonOption,
    QuietOption,
    ReferenceKey,
    SeedOption,
)
from ase_knncalc.cli.outputs import cache_place, check_outputs
from ase_knncalc.cli.printing import print_json, print_table


def check(
    data: Annotated[list[Path], typer.Argument(help="Labelled structures.")],
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    baseline: BaselineOption = "auto",
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            "--output", "-o", help="Write the structures without those that are wrong for certain."
        ),
    ] = None,
    minima: Annotated[
        bool,
        typer.Option(
            "--minima",
            help="Frames without reference forces are said to be minima: which of them are none?",
        ),
    ] = False,
    frequencies: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Table (csv) of harmonic frequencies, as for knncalc train."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if a label is wrong for certain.")
    ] = False,
    cache: CacheOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find labels that are wrong: units, charges, duplicates, fragments, outliers, no minima.

    Example: knncalc check clusters.extxyz.gz -r wb97xd_energy --output clean.extxyz.gz
    """
    from ase_knncalc.data import KeyMap, write_frames
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.labels.files import check_files
    from ase_knncalc.labels.suspects import leave_out

    inputs = [*data, *([frequencies] if frequencies else [])]
    check_outputs(inputs, ("--output", output, frame_writer), ("--cache", cache, cache_place))
    prepared, suspects = check_files(
        data,
        baseline=baseline,
        keys=KeyMap(reference_energy=reference_key, baseline_energy=baseline_key),
        cache=cache,
        minima=minima,
        frequencies=frequencies,
        seed=seed,
        n_jobs=jobs,
        progress=not quiet,
    )
    clean = leave_out(prepared, suspects)
    if output is not None:
        write_frames(output, clean.frames)
    # Units are screened before anything is computed: these are among the omitted.
    n_certain = sum(o.category == "suspect" for o in clean.omitted)
    if as_json:
        rows = [asdict(s) for s in suspects]
        for row, suspect in zip(rows, suspects, strict=True):
            row["source"] = str(prepared.frames[suspect.index].info.get("source", ""))
            for key in ("residual_ev", "expected_ev", "score"):
                row[key] = row[key] if row[key] == row[key] else None  # JSON has no NaN
        print_json(
            {
                "structures": len(prepared.frames),
                "certain": n_certain,
                "suspects": rows,
                "omitted": [asdict(o) for o in prepared.omitted],
                "output": output,
            }
        )
    else:
        table: list[list[Any]] = [
            [o.name, "", "unit", "", "", "yes", o.reason]
            if o.category == "suspect"
            else [o.name, "", o.category, "", "", "left out", o.reason]
            for o in prepared.omitted
        ]
        table += [
            [
                s.name,
                s.composition,
                s.category,
                f"{KCAL_PER_MOL * s.residual_ev:.2f}",
                f"{s.score:.1f}",
                "yes" if s.certain else "",
                s.reason,
            ]
            for s in suspects
        ]
        print_table(
            f"{len(prepared.frames)} structures checked: {len(suspects)} suspects; "
            f"{n_certain} labels are wrong for certain",
            ["name", "composition", "category", "kcal/mol off", "score", "certain", "reason"],
            table,
        )
    if strict and n_certain:
        raise typer.Exit(1)
