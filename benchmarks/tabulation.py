"""Results of benchmarks, and tables of them in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def results(name: str) -> Any:
    """What the benchmark of that name found."""
    return json.loads((HERE / f"{name}.json").read_text())


def table(header: str, rows: Iterable[str]) -> str:
    """A Markdown table of rows whose cells are separated by bars."""
    rule = " | ".join("---" for _ in header.split("|"))
    return "\n".join(f"| {row} |" for row in (header, rule, *rows))
