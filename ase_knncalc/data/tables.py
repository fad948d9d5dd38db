"""Tables of scalars (``*.csv``), which are written and not read."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ase import Atoms

_CSV_COLUMNS = {"formula", "n_atoms"}


def fits_csv(key: str, value: Any) -> bool:
    """Whether the table has no column of its own by that name."""
    return key not in _CSV_COLUMNS


def write_csv(path: Path, frames: Iterable[Atoms]) -> None:
    """One row a frame."""
    scalars = (str, int, float, bool)
    first = ["formula", "n_atoms", "name", "composition", "charge", "multiplicity"]
    rows = [
        {"formula": atoms.get_chemical_formula(), "n_atoms": len(atoms)}
        | {key: value for key, value in atoms.info.items() if isinstance(value, scalars)}
        for atoms in frames
    ]
    found = {key for row in rows for key in row}
    columns = [*(key for key in first if key in found), *sorted(found - set(first))]
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
