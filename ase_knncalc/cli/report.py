"""``knncalc report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    CacheOption,
    JobsOption,
    JsonOption,
    QuietOption,
    ReferenceKey,
)
from ase_knncalc.cli.outputs import cache_place, check_outputs
from ase_knncalc.cli.printing import print_json, print_table


def report(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model file.")],
    data: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads it at run time
        typer.Option("--data", "-d", help="Labelled structures that the model has not seen."),
    ] = None,
    training: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            help="Its training structures: adds their geometries and a learning curve, which "
            "takes several trainings."
        ),
    ] = None,
    curve: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Learning curve that is known, from knncalc learning-curve --json."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Page to write (default: <model>.report.html)."),
    ] = None,
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    baseline: BaselineOption = "auto",
    cache: CacheOption = None,
    jobs: JobsOption = -1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write one HTML page about a model: errors, calibration, map, worst cases.

    Example: knncalc report my.h5 --data test.extxyz -r wb97xd_energy
    """
    from ase_knncalc.data import KeyMap
    from ase_knncalc.evaluation.report import read_curves, write_report
    from ase_knncalc.store import find_model, load_model

    file = find_model(model)
    name = file.stem
    output = output or Path(f"{name}.report.html")
    check_outputs(
        [file, *(data or []), *(training or []), curve],
        ("--output", output, None),
        ("--cache", cache, cache_place),
    )
    needs_baseline = bool(data or training)
    outcome = write_report(
        output,
        load_model(model, baseline=baseline if needs_baseline else None),
        name=name,
        data=data or None,
        training=training or None,
        curves=None if curve is None else read_curves(curve),
        keys=KeyMap(reference_energy=reference_key, baseline_energy=baseline_key),
        cache=cache,
        n_jobs=jobs,
        progress=not quiet,
    )
    if as_json:
        print_json(
            {
                "report": outcome.path,
                "figures": outcome.figures,
                "held_out": outcome.held_out,
                "test": outcome.test,
                "refused": outcome.refused,
                "missing": outcome.missing,
            }
        )
        return
    rows: list[list[Any]] = [
        [label, s["n"], *(f"{KCAL_PER_MOL * s[k]:.3f}" for k in ("mae", "rmse")),
         f"{s['coverage']:.3f}"]
        for label, s in (("left out in training", outcome.held_out), ("test", outcome.test))
        if s is not None
    ]  # fmt: skip
    print_table(
        f"{outcome.path}: errors in kcal/mol",
        ["", "n", "MAE", "RMSE", "coverage 90 %"],
        rows,
    )
    for text in outcome.missing:
        print(f"not shown: {text}")
    if outcome.refused:
        print(f"not in the test: {len(outcome.refused)}; first: {outcome.refused[0]}")
