"""Options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Optional, TypeVar

import typer

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
    from ase_knncalc._lib.parallel import check_jobs
    from ase_knncalc.errors import SettingsError

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
    typer.Option(help="Label cache (SQLite) of baseline energies."),
]


def _on_cluster(context: typer.Context, address: str | None) -> str | None:
    """Run the rest of the command inside the cluster of that address."""
    if address is not None and not context.resilient_parsing:
        from ase_knncalc._lib.parallel import cluster

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
LevelOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(help="Energies at another level that the model knows at its minima, as dlpno."),
]
CsvOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option("--csv", help="Also write the table as CSV."),
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
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        help="Of forces in the data: eV/Å (default), Hartree/Bohr, … or a factor to eV/Å."
    ),
]
EnergyUnit = Annotated[
    str,
    typer.Option(
        help="Of energies in the data, unless keys or frames say it: eV, Hartree, kcal/mol, kJ/mol."
    ),
]
OwnPredictions = Annotated[
    bool,
    typer.Option("--own-predictions", help="Take energies for labels that this package predicted."),
]
IgnoreCell = Annotated[
    bool,
    typer.Option("--ignore-cell", help="Periodic structures are molecules in an empty box."),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="An error, and no output, if anything has to be left out."),
]
PropertyOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--property",
        help="Property to learn: thermochemistry (from frequencies_cm1), polarizability, dipole, "
        "dlpno; NAME=KEY for any number, level:NAME=KEY for a level of theory (@SETS at the end "
        "where sources have offsets). Several times.",
    ),
]
PropertyTable = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Table (csv) beside the data, by name, with the labels of properties."),
]

Number = TypeVar("Number", int, float)


def unit_or_factor(text: str | None) -> str | float | None:
    """A number where the text is one."""
    if text is None:
        return None
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


def ranges(option: str, text: str) -> tuple[float, ...]:
    """Numbers as for :func:`numbers`, of which each may be a range such as ``200:300:10``.

    Raises
    ------
    SettingsError
        If one is neither, or a range does not end.
    """
    import numpy as np

    from ase_knncalc.errors import SettingsError

    found: list[float] = []
    for part in text.split(","):
        try:
            first, *more = (float(x) for x in part.split(":"))
            last, step = [*(more or [first]), 1.0][:2] if len(more) < 2 else more
            count = int((last - first) / step + 1e-9) + 1
            found += (first + step * np.arange(count)).tolist() if 0 < count < 10**4 else [math.nan]
        except (ValueError, OverflowError, ZeroDivisionError):
            found = [math.nan]
        if not np.all(np.isfinite(np.array(found, dtype=float))):
            raise SettingsError(
                f"{option} {text!r}: expected numbers or ranges, as in 298.15 or 200:300:10"
            )
    return tuple(dict.fromkeys(found))


def pairs(option: str, text: str) -> dict[str, str]:
    """Names and what they stand for, from a text such as ``sa=A,am=N``.

    Raises
    ------
    SettingsError
        If it is no such text.
    """
    from ase_knncalc.errors import SettingsError

    found = [part.split("=") for part in text.split(",") if part.strip()]
    if not all(len(part) == 2 and all(word.strip() for word in part) for part in found):
        raise SettingsError(f"{option} {text!r}: expected pairs, as in sa=A,am=N")
    return {name.strip(): value.strip() for name, value in found}
