"""The ``knncalc`` program: its commands, and how errors reach the user."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ase_knncalc.cli import interrupts

# Where each command stands, and the first line of its help: the list of commands imports none.
_COMMANDS = {
    "train": ("training", "Train a model on labelled structures."),
    "add-properties": (
        "properties",
        "Teach a model further properties; its energies stay as they are.",
    ),
    "predict": ("predictions", "Predict energies with their uncertainty."),
    "rank": ("predictions", "Rank conformers of one composition by predicted energy."),
    "known": (
        "membership",
        "Tell whether structures, or their compositions, were in a model's training data.",
    ),
    "explain": (
        "insight",
        "Take a correction apart: neighbours, atoms, elements, and what sets the distances.",
    ),
    "binding": (
        "insight",
        "Binding energies with their uncertainty; molecules are recognised, "
        "protons may have moved.",
    ),
    "cv": ("evaluation", "Cross-validate one method."),
    "compare": ("evaluation", "Cross-validate several methods on the same folds."),
    "learning-curve": ("evaluation", "Error against the number of training structures."),
    "tune": (
        "evaluation",
        "Find settings of the sparse trend by cross-validation on random and composition splits.",
    ),
    "report": (
        "report",
        "Write one HTML page about a model: errors, calibration, map, worst cases.",
    ),
    "sample": (
        "active",
        "Sample distinct structures of a cluster; what was interrupted goes on when called again.",
    ),
    "relax": (
        "exploration",
        "Relax structures, and say which fell apart, moved protons, or left what the model knows.",
    ),
    "unique": (
        "exploration",
        "Keep each structure once, whatever its orientation, order of atoms and handedness.",
    ),
    "thermo": (
        "exploration",
        "Enthalpies, entropies and Gibbs energies, of structures and of binding, with their error.",
    ),
    "explore": (
        "exploration",
        "From a composition to Gibbs energies, inputs of ORCA and Gaussian, and a page about them.",
    ),
    "select": (
        "active",
        "Choose the structures whose labels would teach a model most, or the lowest, with inputs.",
    ),
    "append": ("active", "Add labelled structures to a model file without training it anew."),
    "active": (
        "active",
        "Choose, label and learn in turn; a loop that was stopped goes on where it was.",
    ),
    "check": (
        "suspects",
        "Find labels that are wrong: units, charges, duplicates, fragments, outliers, no minima.",
    ),
    "convert": (
        "conversion",
        "Turn labelled structures into one file with the names that training reads.",
    ),
    "extopt": ("hosts", "Give ORCA an energy and a gradient (! ExtOpt, ProgExt)."),
    "serve": ("hosts", "Keep a model in memory for `knncalc extopt --server`."),
    "drive": (
        "hosts",
        "Compute for i-PI, or any program that has its server (ASE's SocketIOCalculator).",
    ),
    "info": ("models", "Show what a model was trained on, covers, and how accurate it is."),
    "models": ("models", "List the shipped models, and what each is for."),
}

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

    _listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        listed = super().get_command(ctx, cmd_name)
        return listed if listed is None or self._listing else load_command(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        super().format_help(ctx, formatter)
        self._listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self._listing = True
        found = super().shell_complete(ctx, incomplete)
        self._listing = False
        return found

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


def _listed() -> None:
    """Stands for a command where it is only named."""


for _name, (_, _summary) in _COMMANDS.items():
    app.command(_name, help=_summary)(_listed)


@functools.cache
def load_command(name: str) -> Any:
    """A command with its options, from the module that it stands in."""
    module = importlib.import_module(f"ase_knncalc.cli.{_COMMANDS[name][0]}")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(getattr(module, name.replace("-", "_")))
    return typer.main.get_command(alone)


def commands() -> dict[str, Any]:
    """All commands by name, for tools that read them, such as the documentation."""
    return {name: load_command(name) for name in _COMMANDS}


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
    except Exception as e:
        from ase_knncalc.errors import KNNCalcError  # numpy and ASE, which no help needs

        if not isinstance(e, KNNCalcError | OSError):
            raise
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
