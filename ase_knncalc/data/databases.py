"""ASE databases (``*.db``, ``*.json``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_knncalc.data.info import comes_back, move_arrays, per_atom
from ase_knncalc.data.paths import ErrorHandler
from ase_knncalc.data.slices import forwards, ordered
from ase_knncalc.errors import DataError


def iter_database(
    path: Path, frames: slice, on_error: ErrorHandler | None = None
) -> Iterator[tuple[int, Atoms]]:
    """Rows with their numbers, in the order of their ids; unreadable ones go to ``on_error``."""
    from ase.db import connect

    with connect(str(path)) as database:
        forward = forwards(frames, database.count)
        rows = islice(
            enumerate(database.select(sort="id")), forward.start, forward.stop, forward.step
        )
        yield from ordered(frames, _frames(rows, path, on_error))


def _frames(
    rows: Iterable[tuple[int, Any]], path: Path, on_error: ErrorHandler | None
) -> Iterator[tuple[int, Atoms]]:
    for number, row in rows:
        try:
            atoms = _from_row(row, path)
        except DataError as e:
            if on_error is None:
                raise
            on_error(path, e)
        else:
            yield number, atoms


def _from_row(row: Any, path: Path) -> Atoms:
    try:
        atoms = row.toatoms()
        if atoms.calc is not None:
            atoms.calc.parameters = dict(row.get("calculator_parameters") or {})
        atoms.info.update(row.key_value_pairs)
        atoms.info.update(row.data)
        move_arrays(atoms)
    except Exception as e:
        raise DataError(f"{path}: row {row.get('id')} cannot be read: {e}") from e
    return atoms


def write_database(path: Path, frames: Iterable[Atoms]) -> None:
    """One row a frame: numbers are key-value pairs, all of ``info`` is data."""
    from ase.db import connect
    from ase.db.core import reserved_keys

    # Names of a row's own attributes, beside those that ASE refuses.
    reserved = {*reserved_keys, "tags", "masses", "external_tables"}

    def searchable(key: str, value: Any) -> bool:
        # SQLite has no integers beyond these.
        number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        return number and key.isascii() and key.isidentifier() and key not in reserved

    path.unlink()  # it was made empty, which SQLite takes for a database without tables
    with connect(str(path), type="db", use_lock_file=False) as database:
        for atoms in frames:
            data = atoms.info | per_atom(atoms)
            pairs = {key: value for key, value in data.items() if searchable(key, value)}
            database.write(atoms, pairs, data=data)


def fits_database(key: str, value: Any) -> bool:
    """Whether the binary data of ASE's databases give the value back."""
    from ase.db.core import bytes_to_object, object_to_bytes

    return comes_back(key, value, lambda v: bytes_to_object(object_to_bytes(v)))
