"""The ``knncalc`` program: its commands, and how errors reach the user."""

from __future__ import annotations

import sys
import warnings

import typer

from ase_knncalc.cli import (
    active,
    checking,
    conversion,
    evaluation,
    insight,
    models,
    predictions,
    report,
    training,
)
from ase_knncalc.errors import KNNCalcError

app = typer.Typer(
    name="knncalc",
    help="Correct GFN1-xTB to a reference level with k nearest neighbours, and know the error.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(training.train)
app.command("predict")(predictions.predict)
app.command("rank")(predictions.rank)
app.command("explain")(insight.explain)
app.command("binding")(insight.binding)
app.command("cv")(evaluation.cv)
app.command("compare")(evaluation.compare)
app.command("learning-curve")(evaluation.learning_curve)
app.command("tune")(evaluation.tune)
app.command("report")(report.report)
app.command("sample")(active.sample)
app.command("select")(active.select)
app.command("append")(active.append)
app.command("active")(active.active)
app.command("check")(checking.check)
app.command("convert")(conversion.convert)
app.command("info")(models.info)
app.command("models")(models.models)


def main() -> None:
    """Run the program; errors of this package end in one line and exit code 1."""
    warnings.showwarning = _print_warning
    try:
        app()
    except KNNCalcError as e:
        print(f"knncalc: error: {e}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("knncalc: interrupted; finished labels are kept", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    print(f"knncalc: warning: {message}", file=sys.stderr)
