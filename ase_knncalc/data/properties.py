"""Properties of structures in a table (``*.csv``, ``*.csv.gz``) beside them."""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import DataError

FREQUENCIES = "frequencies_cm1"
"""In ``info``: harmonic frequencies of the reference, cm⁻¹, imaginary ones negative."""

_LONGEST = 2**24  # characters of a field


def add_frequencies(frames: Sequence[Atoms], path: str | os.PathLike[str]) -> int:
    """Put harmonic frequencies of a table into ``info["frequencies_cm1"]`` of frames.

    Parameters
    ----------
    frames
        With ``info["name"]``.
    path
        Table with the columns ``name`` and ``frequencies_cm1``, numbers between semicolons or
        blanks. Where a name stands in several rows, as many frames must have it, in that order;
        else it says nothing.

    Returns
    -------
    int
        How many frames got theirs.

    Raises
    ------
    DataError
        If the table cannot be read, lacks a column, or has none of the frames.
    """
    return add_columns(frames, path, [FREQUENCIES])[FREQUENCIES]


def add_columns(
    frames: Sequence[Atoms], path: str | os.PathLike[str], columns: Sequence[str]
) -> dict[str, int]:
    """Put columns of a table into ``info`` of frames under their names.

    Parameters
    ----------
    frames
        With ``info["name"]``.
    path
        Table with a column ``name``. A cell is a number, a word, or empty; of
        ``frequencies_cm1``, numbers between semicolons or blanks. Where a name stands in several
        rows, as many frames must have it, in that order; else it says nothing.
    columns
        Which of its columns.

    Returns
    -------
    dict
        How many frames got something from each column.

    Raises
    ------
    DataError
        If the table cannot be read, lacks a column, or a column has nothing for the frames.
    """
    path = Path(path)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    previous = csv.field_size_limit(_LONGEST)
    try:
        opened = gzip.open if path.name.lower().endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            for column in ("name", *columns):
                if column not in (table.fieldnames or ()):
                    raise DataError(
                        f"{path} has no column {column!r}; its columns are "
                        f"{', '.join(table.fieldnames or ['none'])}"
                    )
            for row in table:
                found = {c: _value(c, row[c] or "", path, table.line_num) for c in columns}
                rows[row["name"]].append({c: v for c, v in found.items() if v is not None})
    except (OSError, EOFError, UnicodeError, csv.Error) as e:
        raise DataError(f"cannot read {path}: {e}") from e
    finally:
        csv.field_size_limit(previous)
    by_name: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in frames:
        by_name[str(atoms.info["name"])].append(atoms)
    added = dict.fromkeys(columns, 0)
    for name, members in by_name.items():
        if len(rows.get(name, ())) == len(members):
            for atoms, found in zip(members, rows[name], strict=True):
                atoms.info |= found
                for column in found:
                    added[column] += 1
    example = next(iter(by_name), "none")
    for column, n in added.items():
        if not n:
            raise DataError(
                f"{path} has {_WHAT.get(column, repr(column))} of none of the {len(frames)} "
                f"structures: names such as {next(iter(rows), 'none')!r} in the table, "
                f"{example!r} in the data"
            )
    return added


_WHAT = {FREQUENCIES: "frequencies"}


def _value(column: str, text: str, path: Path, line: int) -> Any:
    """What a cell says: None where it is empty."""
    if column == FREQUENCIES:
        found = _numbers(text, path, line)
        return found if len(found) else None
    try:
        return float(text)
    except ValueError:
        return text.strip() or None


def frequencies_of(atoms: Atoms) -> FloatArray:
    """Harmonic frequencies that a frame has in ``info``, cm⁻¹, shape (n,); none where it has none.

    Raises
    ------
    DataError
        If what is there is no list of finite numbers.
    """
    value = atoms.info.get(FREQUENCIES, ())
    try:
        found = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if not np.all(np.isfinite(found)):
        raise DataError(
            f"{atoms.info.get('name', atoms.symbols)}: info[{FREQUENCIES!r}] should be a list of "
            f"frequencies in cm⁻¹, got {value!r}"
        )
    return found


def _numbers(text: str, path: Path, line: int) -> FloatArray:
    try:
        found = np.array([float(part) for part in re.split(r"[;\s]+", text.strip()) if part])
    except ValueError as e:
        raise DataError(f"{path}, line {line}: {FREQUENCIES} are no numbers: {e}") from None
    if not np.all(np.isfinite(found)):
        raise DataError(f"{path}, line {line}: {FREQUENCIES} are not finite")
    return found
