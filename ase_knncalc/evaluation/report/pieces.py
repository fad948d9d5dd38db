"""Pieces of HTML pages; every text from outside goes through :func:`cell` or ``html.escape``."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors

# Columns of text.
_TEXT_COLUMNS = ("", "structure", "composition", "in 90 %", "nearest", "molecules", "why")
_LEFT = ' class="text"'


def template(name: str) -> str:
    """Text of one of the templates."""
    return (files("ase_knncalc.evaluation.report") / "templates" / name).read_text(encoding="utf-8")


def fill(name: str, values: Mapping[str, str]) -> str:
    """The template with its ``{{name}}`` marks replaced, in one pass: values stay as they are."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template(name))


def embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def cell(value: Any) -> str:
    """One cell; a dash for what is not known."""
    if value is None:
        value = float("nan")
    if isinstance(value, float):
        text = f"{value:.3f}" if np.isfinite(value) else "–"
        return f'<td class="number" data-value="{value if np.isfinite(value) else ""}">{text}</td>'
    if isinstance(value, int):
        return f'<td class="number" data-value="{value}">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def table(columns: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table of rows."""
    head = "".join(
        f'<th scope="col"{_LEFT if c in _TEXT_COLUMNS else ""}>{html.escape(c)}</th>'
        for c in columns
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(values: Sequence[Any]) -> str:
    """One row."""
    return "<tr>" + "".join(cell(v) for v in values) + "</tr>"


def listed(texts: Sequence[str]) -> str:
    """A list, or nothing."""
    return "<ul>" + "".join(f"<li>{html.escape(t)}</li>" for t in texts) + "</ul>" if texts else ""


def drawable(atoms: Atoms, name: str, text: str) -> dict[str, Any]:
    """A geometry as the page's script draws it, with what stands above and below it."""
    centred = atoms.positions - atoms.positions.mean(axis=0)
    return {
        "name": name,
        "text": text,
        "symbols": list(atoms.symbols),
        "positions": np.round(centred, 3).tolist(),
    }


def element_styles(symbols: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colours and radii of elements."""
    return {
        symbol: {
            "color": "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[number]),
            "radius": round(float(covalent_radii[number]), 2),
        }
        for symbol, number in ((s, atomic_numbers[s]) for s in sorted(set(symbols)))
    }
