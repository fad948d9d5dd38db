"""Options and output that several commands share."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer

KCAL_PER_MOL = 23.060547830619026  # of 1 eV

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Name of a shipped model, or a model file.")
]
BaselineOption = Annotated[
    str,
    typer.Option(
        "--baseline",
        "-b",
        help="auto, GFN1-xTB, GFN2-xTB, tblite, xtb, tblite:GFN2-xTB, none, given (training only).",
    ),
]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", help="Processes (-1: all cores).")]


def _on_cluster(context: typer.Context, address: str | None) -> str | None:
    """Run the rest of the command inside the cluster of that address."""
    if address is not None and not context.resilient_parsing:
        from ase_knncalc.parallel import cluster

        context.with_resource(cluster(address))
    return address


DaskOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        callback=_on_cluster,
        help="Scheduler of a Dask cluster, tcp://host:8786, to run on instead of local processes.",
    ),
]
Structures = Annotated[list[Path], typer.Argument(help="Structures in any format ASE reads.")]
ChargeOption = Annotated[
    Optional[int],  # noqa: UP045 - typer reads it at run time
    typer.Option(help="Total charge of every structure (default: each structure's own)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
ReferenceKey = Annotated[
    str, typer.Option("--reference-key", "-r", help="info key of the reference energy (eV).")
]
BaselineKey = Annotated[
    str, typer.Option("--baseline-key", help="info key of baseline energies the data hold (eV).")
]
LowOption = Annotated[
    Optional[list[Path]],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--low", help="The same structures at the low level, matched by geometry and name."
    ),
]
ForceUnit = Annotated[
    str, typer.Option(help="Of forces in the data: eV/Å, Hartree/Bohr, … or a factor to eV/Å.")
]


def unit_or_factor(text: str) -> str | float:
    """A number where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, to_stderr: bool = False
) -> None:
    """A table; the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[str(x) for x in row])
    stream = sys.stderr if to_stderr else sys.stdout
    # A pipe has no width of its own; a table cut to 80 columns would lose numbers.
    width = None if stream.isatty() else 160
    Console(file=stream, width=width).print(table)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Comma-separated values with a header line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
