"""Options and output that several commands share."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
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
Output = tuple[str, Path | None, Callable[[Path], object] | None]


def check_outputs(inputs: Iterable[Path | None], *outputs: Output) -> None:
    """Refuse before any work what cannot be written, or would take the place of what is read.

    Parameters
    ----------
    inputs
        Files and folders that the command reads; None where an option was not given.
    outputs
        For each file to write: the option, the path or None, and a function that raises for a
        format that cannot be written, or None.

    Raises
    ------
    SettingsError
        If an output is an input, under whatever name, or another output; if it is a folder or
        another thing that is no file; or if its folder is missing or cannot be written to.
    """
    from ase_knncalc.errors import SettingsError

    read = [p for path in inputs if path is not None for p in _files_of(path)]
    wanted = [(option, path, check) for option, path, check in outputs if path is not None]
    for option, path, check in wanted:
        problem = _unwritable(path)
        if problem:
            raise SettingsError(f"{option} {path}: {problem}")
        for given in read:
            if _same(path, given):
                raise SettingsError(
                    f"{option} {path} would overwrite {given}, which is read; name another file"
                )
        if check is not None:
            check(path)
    for (option, path, _), (other, second, _) in combinations(wanted, 2):
        if _same(path, second):
            raise SettingsError(f"{option} and {other} are one file, {path}; name two")


def model_place(path: Path) -> None:
    """Check of :func:`check_outputs` that a model takes the place of no other kind of file."""
    from ase_knncalc.container import check_replaceable

    check_replaceable(path, "model")


def cache_place(path: Path) -> None:
    """Check of :func:`check_outputs` that a label cache takes the place of no other file."""
    from ase_knncalc.container import check_replaceable

    check_replaceable(path, "labels")


def check_folder(option: str, path: Path | None) -> None:
    """Refuse before any work a folder that is not there or cannot be written to.

    Raises
    ------
    SettingsError
        If so.
    """
    problem = "" if path is None else _unwritable(path / "x")
    if problem:
        from ase_knncalc.errors import SettingsError

        raise SettingsError(f"{option} {path}: {problem}")


def _files_of(path: Path) -> list[Path]:
    """A file; or the outputs in a folder, which are read in its place."""
    from ase_knncalc.data.frames import output_files

    try:
        return output_files(path) if path.is_dir() else [path]
    except OSError:  # told by what reads it
        return []


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:  # one is not there (yet)
        return os.path.realpath(first) == os.path.realpath(second)


def _unwritable(path: Path) -> str:
    """Why no file can be written there; empty if it can."""
    try:
        if path.is_dir():
            return "that is a folder; name a file"
        # /dev/stdout is as good as a file where the output goes to one, and must not be replaced.
        place = os.path.realpath(path.parent)
        if place in ("/dev", "/proc") or place.startswith("/proc/"):
            return "that is no regular file"
        if path.exists() and not path.is_file():
            return "that is no regular file"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        if not os.access(path.parent, os.W_OK | os.X_OK):
            return f"the folder {path.parent} cannot be written to"
        # Files in the making have longer names.
        os.stat(path.with_name(f".{path.name}.part-12345678{''.join(path.suffixes[-2:])}"))
    except FileNotFoundError:
        return ""
    except OSError as e:
        return e.strerror or str(e)
    return ""


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
