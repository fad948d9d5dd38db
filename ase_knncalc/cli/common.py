"""Options and output that several commands share."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar

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
        help="auto, GFN1-xTB, GFN2-xTB, tblite, xtb, tblite:GFN2-xTB, none, given (with the data).",
    ),
]


def _jobs(jobs: int) -> int:
    from ase_knncalc.errors import SettingsError
    from ase_knncalc.parallel import check_jobs

    try:
        check_jobs(jobs)
    except SettingsError as e:
        raise typer.BadParameter(str(e)) from None
    return jobs


JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", callback=_jobs, help="Processes (-1: all cores).")
]
# The range that every library takes that draws random numbers here.
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all random choices.")]
CacheOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option(help="Label cache (HDF5) of baseline energies."),
]


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


Number = TypeVar("Number", int, float)


def unit_or_factor(text: str) -> str | float:
    """A number where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text


def numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    """Comma-separated numbers, each of them once.

    Raises
    ------
    SettingsError
        If one is no number.
    """
    from ase_knncalc.errors import SettingsError

    try:
        return tuple(dict.fromkeys(kind(x) for x in text.split(",")))
    except ValueError:
        what, example = ("whole numbers", "100,200") if kind is int else ("numbers", "0.5,200")
        raise SettingsError(f"{option} {text!r}: expected {what}, as in {example}") from None


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
    from rich.text import Text

    # Text and not str, in which [brackets] and :colons: of names would be markup.
    table = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[Text(str(x)) for x in row])
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is None:  # closed by the shell
        return

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # A pipe has no width of its own; a table cut to 80 columns would lose numbers.
    width = None if stream.isatty() else 160
    Piped(file=stream, width=width).print(table)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Comma-separated values with a header line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
