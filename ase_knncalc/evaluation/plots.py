"""Plots of evaluations, as files; each function takes arrays in eV and draws kcal/mol."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc._lib.files import replacing
from ase_knncalc.errors import SettingsError

if TYPE_CHECKING:
    from ase_knncalc.evaluation.scores import Held


def _figure(columns: int = 1) -> tuple[Any, Any]:
    # No pyplot: no window system, no state shared with the user's own figures.
    figure = _matplotlib().Figure(figsize=(4.6 * columns, 4.0), layout="constrained", dpi=150)
    return figure, figure.subplots(1, columns)


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as e:
        raise SettingsError(
            'plots need matplotlib: pip install "ase_knncalc[plot]", or leave out --plot'
        ) from e
    return matplotlib.figure


def check_plot(path: str | os.PathLike[str]) -> None:
    """Make sure that a plot can be drawn in the format that the file's name asks for.

    Raises
    ------
    SettingsError
        Without matplotlib, or if the format is unknown.
    """
    known = _matplotlib().Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.lower().removeprefix(".") not in known:
        raise SettingsError(f"{os.fspath(path)}: plots are written as .png, .pdf, .svg, …")


def plot_held_out(
    path: str | os.PathLike[str], held: Held, truth: FloatArray, n_atoms: IntArray, title: str
) -> None:
    """Parity, calibration, error against std and error against cluster size, in one row.

    Parameters
    ----------
    path
        File to write (png, pdf, svg).
    held
        Predictions for m structures.
    truth
        True Δ after removal of offsets, eV, shape (m,); only its spread matters.
    n_atoms
        Of the m structures.
    title
        Of the figure.
    """
    figure, (parity, calibration, trust, size) = _figure(4)
    error = KCAL_PER_MOL * held.error
    true = KCAL_PER_MOL * truth
    parity.plot(true, true + error, ".", ms=3, alpha=0.5)
    parity.axline((float(true.mean()), float(true.mean())), slope=1, color="k", lw=0.8)
    parity.set(xlabel="reference Δ (kcal/mol)", ylabel="predicted Δ (kcal/mol)", title="parity")

    levels = np.linspace(0.05, 0.95, 19)
    from scipy.stats import norm

    observed = [np.mean(np.abs(held.error) <= norm.ppf(0.5 + p / 2) * held.std) for p in levels]
    calibration.plot(levels, observed, "o-", ms=3, label="energy_std, as if normal")
    calibration.plot(
        [0.9], [np.mean(np.abs(held.error) <= held.half_width)], "s", label="90 % interval"
    )
    calibration.plot([0, 1], [0, 1], "k", lw=0.8)
    calibration.set(xlabel="stated coverage", ylabel="observed coverage", title="calibration")
    calibration.legend(frameon=False, fontsize=8)

    std = KCAL_PER_MOL * held.std
    trust.loglog(std, np.maximum(np.abs(error), 1e-4), ".", ms=3, alpha=0.4)
    order = np.argsort(std)
    bins = np.array_split(order, max(2, min(12, len(order) // 20)))
    trust.loglog(
        [np.sqrt(np.mean(std[b] ** 2)) for b in bins],
        [np.sqrt(np.mean(error[b] ** 2)) for b in bins],
        "o-",
        color="C1",
        label="root mean square in bins",
    )
    ends = [std.min(), std.max()]
    trust.loglog(ends, ends, "k", lw=0.8)
    trust.set(
        xlabel="energy_std (kcal/mol)", ylabel="|error| (kcal/mol)", title="error against std"
    )
    trust.legend(frameon=False, fontsize=8)

    sizes = np.unique(n_atoms)
    size.plot(n_atoms, np.abs(error), ".", ms=3, alpha=0.3)
    size.plot(sizes, [np.abs(error[n_atoms == s]).mean() for s in sizes], "-", color="C1")
    size.set(xlabel="atoms", ylabel="|error| (kcal/mol)", title="error against cluster size")
    figure.suptitle(title)
    _save(figure, path)


def plot_learning_curves(
    path: str | os.PathLike[str], curves: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
    """Mean absolute error against training structures, log–log, one line a method."""
    figure, axes = _figure()
    for name, rows in curves.items():
        axes.errorbar(
            [r["size"] for r in rows],
            [KCAL_PER_MOL * r["mae"] for r in rows],
            [KCAL_PER_MOL * r["mae_sd"] for r in rows],
            marker="o",
            capsize=3,
            label=name,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training structures",
        ylabel="mean absolute error (kcal/mol)",
    )
    axes.legend(frameon=False)
    _save(figure, path)


def plot_active(path: str | os.PathLike[str], reports: Sequence[Mapping[str, Any]]) -> None:
    """Error, coverage and novelty against the labels bought, one panel each.

    Parameters
    ----------
    path
        File to write (png, pdf, svg).
    reports
        Of the iterations of a loop (:mod:`ase_knncalc.active`).
    """
    figure, (error, coverage, novelty) = _figure(3)
    for axes, name, unit in (
        (error, "mae", KCAL_PER_MOL),
        (coverage, "coverage", 1.0),
        (novelty, "novelty", 1.0),
    ):
        for kind, text in (("batch", "each batch, before"), ("test", "test set, after")):
            known = [r for r in reports if r.get(f"{kind}_{name}") is not None]
            if known:
                axes.plot(
                    [r["labels"] for r in known],
                    [unit * r[f"{kind}_{name}"] for r in known],
                    "o-",
                    label=text,
                )
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    error.set(xlabel="labels", ylabel="mean absolute error (kcal/mol)", title="error")
    coverage.axhline(0.9, color="k", lw=0.8)
    coverage.set(
        xlabel="labels", ylabel="inside the 90 % interval", title="coverage", ylim=(0, 1.05)
    )
    left = [r for r in reports if r.get("pool_novelty") is not None]
    novelty.plot(
        [r["labels"] for r in left], [r["pool_novelty"] for r in left], "s--", label="rest of pool"
    )
    novelty.axhline(1.0, color="k", lw=0.8)
    novelty.set(xlabel="labels", ylabel="mean novelty", title="novelty")
    novelty.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_strategies(
    path: str | os.PathLike[str], curves: Mapping[str, Mapping[str, FloatArray]]
) -> None:
    """Learning curves of selection strategies with their spread over seeds.

    Parameters
    ----------
    path
        File to write (png, pdf, svg).
    curves
        For each strategy ``labels`` (n,) and ``mae`` (n_seeds, n) in eV.
    """
    figure, axes = _figure()
    for name, curve in curves.items():
        mae = KCAL_PER_MOL * np.asarray(curve["mae"])
        error = mae.std(axis=0, ddof=1) / np.sqrt(len(mae)) if len(mae) > 1 else None
        axes.errorbar(curve["labels"], mae.mean(axis=0), error, marker="o", capsize=3, label=name)
    axes.set(yscale="log", xlabel="labels", ylabel="mean absolute error (kcal/mol)")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    check_plot(path)
    with replacing(path, SettingsError) as temporary:
        figure.savefig(temporary)
