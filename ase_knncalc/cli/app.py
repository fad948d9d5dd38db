"""The ``knncalc`` program: its commands, and how errors reach the user."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ase_knncalc.cli import (
    active,
    conversion,
    evaluation,
    exploration,
    insight,
    interrupts,
    membership,
    models,
    predictions,
    report,
    suspects,
    training,
)
from ase_knncalc.errors import KNNCalcError

# Each paragraph is one line of the help.
_EXAMPLES = """Examples:

knncalc rank conformers.xyz -m saw-wb97xd

knncalc predict clusters.xyz -m multibase-wb97xd -o predicted.extxyz

knncalc train data.extxyz -r my_dft_energy -o my.h5

knncalc report my.h5 --data test.extxyz -r my_dft_energy

knncalc COMMAND --help tells each command's options and an example.
"""


class _Program(TyperGroup):
    """The group of commands; what typer would end without a word, or with another exit code."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _ends_our_way():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _ends_our_way():
            return super().invoke(ctx)


@contextlib.contextmanager
def _ends_our_way() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(interrupts.EXIT_CODE) from None
    except BrokenPipeError:
        _nobody_reads()
        raise typer.Exit from None
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # by rich, of a help
            raise typer.Exit from None
        raise


def _nobody_reads() -> None:
    """Whoever read the output, such as ``head``, has enough: the interpreter's last flush too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Program,
    name="knncalc",
    help="Correct GFN1-xTB to a reference level with k nearest neighbours, and know the error.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLES,
)
_state = {"verbose": False}


def _version(wanted: bool) -> None:
    if wanted:
        from ase_knncalc import __version__

        print(f"knncalc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Tracebacks of errors, and where each warning comes from."
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    _state["verbose"] = verbose


app.command("train")(training.train)
app.command("predict")(predictions.predict)
app.command("rank")(predictions.rank)
app.command("known")(membership.known)
app.command("explain")(insight.explain)
app.command("binding")(insight.binding)
app.command("cv")(evaluation.cv)
app.command("compare")(evaluation.compare)
app.command("learning-curve")(evaluation.learning_curve)
app.command("tune")(evaluation.tune)
app.command("report")(report.report)
app.command("sample")(active.sample)
app.command("relax")(exploration.relax)
app.command("unique")(exploration.unique)
app.command("thermo")(exploration.thermo)
app.command("explore")(exploration.explore)
app.command("select")(active.select)
app.command("append")(active.append)
app.command("active")(active.active)
app.command("check")(suspects.check)
app.command("convert")(conversion.convert)
app.command("info")(models.info)
app.command("models")(models.models)


# For tools that read click's commands, such as the documentation.
command = typer.main.get_command(app)


def main() -> None:
    """Run the program; errors of this package, or of files, end in one line and exit code 1."""
    warnings.showwarning = _print_warning
    for stream in (sys.stdout, sys.stderr):
        # Names of files are any bytes, and a terminal may know few letters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with interrupts.interruptible():
                command()
        finally:
            if sys.stdout is not None:  # closed by the shell
                sys.stdout.flush()
    except BrokenPipeError:
        _nobody_reads()
        raise SystemExit(0) from None
    except (KNNCalcError, OSError) as e:
        if _state["verbose"]:
            traceback.print_exc()
        print(f"knncalc: error: {e}", file=sys.stderr)
        raise SystemExit(1) from None


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    place = f" ({category.__name__}, {filename}:{lineno})" if _state["verbose"] else ""
    print(f"knncalc: warning: {message}{place}", file=sys.stderr)
