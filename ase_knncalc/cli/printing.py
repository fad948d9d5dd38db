"""What commands print: tables and JSON, and CSV beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


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


def show(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    csv_file: Path | None,
    as_json: bool,
    *,
    shown: int | None = None,
) -> None:
    """Rows as a table (of the first ``shown`` columns) or JSON; and as CSV in a file, if any."""
    if csv_file is not None:
        from ase_knncalc._lib.files import atomic_write
        from ase_knncalc._lib.tables import csv_text
        from ase_knncalc.errors import DataError

        with atomic_write(csv_file, DataError) as handle:
            handle.write(csv_text(columns, rows).encode("utf-8"))
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    print_table(title, columns[:shown], [[_cell(x) for x in row[:shown]] for row in rows])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else ""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else value
