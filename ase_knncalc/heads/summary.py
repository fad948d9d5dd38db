"""Errors of properties, as people read them."""

from __future__ import annotations

from typing import Any

from ase import units

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.heads.head import Head, Heads

COLUMNS = (
    "property", "unit", "structures", "error", "composition_left_out", "inside_90",
    "composition_inside_90",
)  # fmt: skip
"""Of :func:`head_rows`."""

SHOWN = {"eV": ("kcal/mol", KCAL_PER_MOL), "e Å": ("D", 1.0 / units.Debye)}
"""Units that people read, and factors, by the units of heads."""


def head_rows(heads: Heads | None) -> list[dict[str, Any]]:
    """Errors of each property where structures, or compositions, were left out, by COLUMNS."""
    return [row for head in heads or () for row in _rows(head)]


def _rows(head: Head) -> list[dict[str, Any]]:
    rows = []
    for output, errors in head.details["errors"].items():
        # Of thermochemistry, what is asked for most.
        if head.kind == "thermochemistry" and not (
            output.startswith("truhlar/") and output.endswith(("zero_point", "/300.0"))
        ):
            continue
        unit, factor = SHOWN.get(head.unit, (head.unit, 1.0))
        values = (
            output if head.kind == "thermochemistry" else head.name,
            unit,
            head.details["structures"],
            factor * errors["mae"],
            factor * errors["group_mae"],
            errors["inside_90"],
            errors["group_inside_90"],
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
