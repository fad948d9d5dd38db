"""Table and plot of a loop's iterations."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.errors import SettingsError
from ase_knncalc.evaluation.plots import plot_active

COLUMNS = (
    "iteration", "asked", "failed", "labels", "learned", "structures",
    "batch_n", "batch_mae", "batch_coverage", "batch_novelty",
    "test_n", "test_mae", "test_rmse", "test_coverage", "test_novelty",
    "pool", "pool_not_covered", "pool_std", "pool_novelty",
)  # fmt: skip
_ENERGIES = {"batch_mae", "test_mae", "test_rmse", "pool_std"}


def row(report: dict[str, Any]) -> list[Any]:
    """Values of :data:`COLUMNS`, energies in kcal/mol; empty where there is nothing."""
    values = []
    for name in COLUMNS:
        value = report.get(name)
        if value is None:
            values.append("")
        elif name in _ENERGIES:
            values.append(f"{KCAL_PER_MOL * value:.3f}")
        else:
            values.append(f"{value:.2f}" if isinstance(value, float) else value)
    return values


def write_report(directory: Path, reports: Sequence[dict[str, Any]], *, plot: bool = True) -> None:
    """``report.csv``, and ``report.png`` where matplotlib is installed."""
    if not reports:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row(r) for r in reports)
    with atomic_write(directory / "report.csv") as handle:
        handle.write(text.getvalue().encode("utf-8"))
    if not plot:
        return
    # Without matplotlib the table says the same.
    with contextlib.suppress(SettingsError):
        plot_active(directory / "report.png", reports)


def sentence(report: dict[str, Any]) -> str:
    """One line that says how an iteration went."""
    learned = report["learned"]
    if not report.get("changes_energies", True):
        learned += " (energies unchanged: the k-NN term is off)"
    if report["reasons"]:
        why = "; ".join(report["reasons"])
        learned += f", time to train again: {why}" if learned.startswith("app") else f" ({why})"
    parts = [f"iteration {report['iteration']}: {report['labels']} labels, {learned}"]
    for kind, text in (("batch", "batch before"), ("test", "test after")):
        if report.get(f"{kind}_mae") is not None:
            parts.append(
                f"{text} {KCAL_PER_MOL * report[f'{kind}_mae']:.3f} kcal/mol "
                f"(coverage {report[f'{kind}_coverage']:.2f})"
            )
    if report["failed"]:
        parts.append(f"{report['failed']} failed")
    parts += [f"left out: {text}" for text in report["left_out"]]
    return ", ".join(parts)
