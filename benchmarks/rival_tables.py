"""Tables and the figure of ``rivals.json``, for ``tables.py``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tabulation import HERE, results, table

RIVALS_FIGURE = HERE.parent / "docs" / "rivals.png"
DRAWN = "4sa5w, off equilibrium"


def _rows(kind: str) -> list[dict[str, Any]]:
    return [row for row in results("rivals")["rows"] if row["kind"] == kind]


def _cell(value: float | None, text: str) -> str:
    return "–" if value is None else format(value, text)


def _without(row: dict[str, Any]) -> str:
    """How many structures a row is without, and why."""
    why = (("failed", "failed"), ("left_out", "not covered"))
    said = [f"{row[key]} {word}" for key, word in why if row.get(key)]
    return f" ({', '.join(said)})" if said else ""


def _of(some: int, n: int) -> str:
    return f" ({some})" if 0 < some < n else ""


def rivals() -> str:
    """Errors of all rivals within compositions, by where structures are from."""
    return table(
        "structures | method | n | energies | forces, eV/Å | Spearman | lowest found | in 90 %",
        (
            " | ".join(
                [
                    r["stratum"],
                    r["method"],
                    str(r["n"]) + _without(r),
                    _cell(r["energy_mae"], ".2f") + _of(r["n_energies"], r["n"]),
                    _cell(r["force_mae"], ".3f") + _of(r["n_forces"], r["n"]),
                    _cell(r["spearman"], ".2f"),
                    _cell(r["lowest_found"], ".0%"),
                    _cell(r["inside_90"], ".0%"),
                ]
            )
            for r in _rows("errors")
        ),
    )


def rivals_cost() -> str:
    """What a step of dynamics costs, and how far a method's minima are from the reference's."""
    costs = _rows("cost")
    relaxed = {r["method"]: f"{r['rmsd_median']:.2f} ({r['n']})" for r in _rows("relaxed")}
    sizes = [s["atoms"] for s in costs[0]["steps"]]
    heads = " | ".join(f"{n} atoms" for n in sizes)
    return table(
        f"method | covers | licence | MB | {heads} | 1,000 steps, s | RMSD of minima (n), Å",
        (
            " | ".join(
                [
                    c["method"],
                    c["coverage"],
                    c["licence"],
                    _cell(c["megabytes"], ".0f"),
                    *(f"{multiple:.1f}" for multiple in _multiples(c)),
                    f"{1000 * c['steps'][-1]['step_seconds']:.0f}",
                    relaxed.get(c["method"], "–"),
                ]
            )
            for c in costs
        ),
    )


def _multiples(cost: dict[str, Any]) -> list[float]:
    """Seconds of a step over GFN1-xTB's of the same run, by size."""
    (gfn1,) = (c for c in _rows("cost") if c["method"] == "GFN1-xTB")
    yard = cost.get("gfn1_step_seconds") or [s["step_seconds"] for s in gfn1["steps"]]
    return [s["step_seconds"] / y for s, y in zip(cost["steps"], yard, strict=True)]


def rival_points() -> list[tuple[str, float, float]]:
    """Method, cost of a step of the largest structure (GFN1-xTB is 1), error of forces in eV/Å."""
    errors = {r["method"]: r["force_mae"] for r in _rows("errors") if r["stratum"] == DRAWN}
    return [
        (c["method"], _multiples(c)[-1], errors[c["method"]])
        for c in _rows("cost")
        if errors.get(c["method"])
    ]


def rivals_digest() -> str:
    """Of what is drawn; the figure carries it."""
    return hashlib.sha256(json.dumps(rival_points()).encode()).hexdigest()


def draw_rivals(path: Path) -> None:
    """Error of forces against the cost of a step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, cost, error in rival_points():
        color = "#d1495b" if "multibase" in name else "#30638e"
        axis.plot(cost, error, "o", color=color)
        axis.annotate(name, (cost, error), xytext=(6, 4), textcoords="offset points", fontsize=8,
                      color=color)  # fmt: skip
    axis.set(
        xlabel="a step of dynamics, GFN1-xTB is 1",
        ylabel="forces, mean absolute error, eV/Å",
        xlim=(0, 1.5 * max(cost for _, cost, _ in rival_points())),
        ylim=(0, 1.15 * max(error for *_, error in rival_points())),
    )
    axis.grid(alpha=0.3, linewidth=0.4)
    figure.savefig(path, dpi=130, metadata={"Description": rivals_digest()})
