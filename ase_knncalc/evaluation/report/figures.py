"""What the page's figures show, as plain numbers; drawing them is the page's business.

A figure is a dict of title, caption, axes and series; a series has ``x``, ``y`` and optionally
``labels`` (the name of a list of labels that figures share), ``bars`` (lower and upper ends in y)
and ``value`` (a quantity for the colour). Energies are in kcal/mol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, FloatArray
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.evaluation.report.judged import Judged
from ase_knncalc.model import KNNModel

Figure = dict[str, Any]

_SETS = {"training": "training structures, left out", "test": "test data"}


def numbers(values: Any, digits: int = 5) -> list[float | None]:
    """Plain numbers with few digits; None for what is not finite (JSON has no NaN)."""
    return [
        float(f"{x:.{digits}g}") if np.isfinite(x) else None
        for x in np.asarray(values, dtype=np.float64).tolist()
    ]


def _points(which: str, x: AnyArray, y: FloatArray, **more: Any) -> dict[str, Any]:
    return {
        "name": _SETS[which],
        "set": which,
        "style": "points",
        "x": numbers(x),
        "y": numbers(y),
        "labels": which,
        **more,
    }


def _line(which: str, name: str, x: Any, y: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "set": which, "style": "line", "x": numbers(x), "y": numbers(y), **more
    }  # fmt: skip


def offsets_removed(judged: Mapping[str, Judged]) -> dict[str, FloatArray]:
    """Δ of each set without what composition and charge explain, eV.

    The offsets come from the first set by least squares: they move points along the diagonal only.
    """
    first = next(iter(judged.values()))
    offsets = np.linalg.lstsq(first.counts.astype(float), first.delta, rcond=None)[0]
    return {name: j.delta - j.counts @ offsets for name, j in judged.items()}


def parity(judged: Mapping[str, Judged]) -> Figure:
    """Predicted against reference correction."""
    truth = offsets_removed(judged)
    return {
        "id": "parity",
        "title": "Parity",
        "caption": "Correction Δ = E(reference) − E(baseline) without what composition and charge "
        "alone explain.",
        "xlabel": "reference Δ (kcal/mol)",
        "ylabel": "predicted Δ (kcal/mol)",
        "diagonal": True,
        "series": [
            _points(
                name,
                KCAL_PER_MOL * truth[name],
                KCAL_PER_MOL * (truth[name] + j.error),
            )
            for name, j in judged.items()
        ],
    }


def error_against_std(judged: Mapping[str, Judged]) -> Figure:
    """Actual error against predicted standard deviation, with root mean squares in bins."""
    series = []
    for name, j in judged.items():
        size, std = KCAL_PER_MOL * np.abs(j.error), KCAL_PER_MOL * j.std
        series.append(_points(name, std, np.maximum(size, 1e-3 * np.median(std))))
        order = np.argsort(std, kind="stable")
        bins = np.array_split(order, int(np.clip(len(order) // 20, 1, 12)))
        if len(bins) > 1:
            series.append(
                _line(
                    name,
                    "root mean square in bins",
                    [np.sqrt(np.mean(std[b] ** 2)) for b in bins],
                    [np.sqrt(np.mean(size[b] ** 2)) for b in bins],
                )
            )
    return {
        "id": "trust",
        "title": "Error against energy_std",
        "caption": "Where the standard deviation is right, the root mean square error of a bin "
        "lies on the diagonal.",
        "xlabel": "energy_std (kcal/mol)",
        "ylabel": "|error| (kcal/mol)",
        "xlog": True,
        "ylog": True,
        "diagonal": True,
        "series": series,
    }


def coverage(model: KNNModel, judged: Mapping[str, Judged]) -> Figure:
    """Observed against nominal coverage, with 95 % Wilson intervals."""
    levels = model.calibration.coverages
    series = []
    for name, j in judged.items():
        observed = np.array(
            [
                np.mean(np.abs(j.error) <= model.calibration.multiple(float(p)) * j.std)
                for p in levels
            ]
        )
        low, high = wilson(observed, len(j))
        series.append(
            _line(name, _SETS[name], levels, observed, bars=[numbers(low), numbers(high)])
        )
    return {
        "id": "coverage",
        "title": "Coverage",
        "caption": "Fraction of references inside the interval of the stated coverage. Bars: 95 % "
        "Wilson intervals. The intervals were set on the left-out training structures, so these "
        "lie on the diagonal by construction; test data are the judge.",
        "xlabel": "stated coverage",
        "ylabel": "observed coverage",
        "diagonal": True,
        "series": series,
    }


def wilson(fraction: FloatArray, n: int, z: float = 1.96) -> tuple[FloatArray, FloatArray]:
    """Confidence interval of a proportion seen in n trials.

    References
    ----------
    E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(fraction * (1 - fraction) / n + (z / (2 * n)) ** 2)
    return centre - half, centre + half


def error_against_size(judged: Mapping[str, Judged]) -> Figure:
    """Errors and their mean for each number of atoms."""
    series = []
    for name, j in judged.items():
        size = KCAL_PER_MOL * np.abs(j.error)
        series.append(_points(name, j.n_atoms, size))
        sizes = np.unique(j.n_atoms)
        means = [size[j.n_atoms == s].mean() for s in sizes]
        series.append(_line(name, "mean", sizes, means))
    return {
        "id": "size",
        "title": "Error against cluster size",
        "caption": "Lines: mean absolute error of each size.",
        "xlabel": "atoms",
        "ylabel": "|error| (kcal/mol)",
        "series": series,
    }


def learning_curve(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Mean absolute error against the number of training structures, one line a method."""
    series = []
    for number, (name, rows) in enumerate(curves.items()):
        size, mae, sd = (np.array([r[k] for r in rows]) for k in ("size", "mae", "mae_sd"))
        low = np.maximum(mae - sd, 0.1 * mae)
        series.append(
            _line(
                ("training", "test")[number % 2],
                name,
                size,
                KCAL_PER_MOL * mae,
                bars=[numbers(KCAL_PER_MOL * low), numbers(KCAL_PER_MOL * (mae + sd))],
            )
        )
    return {
        "id": "learning",
        "title": "Learning curve",
        "caption": "Mean absolute error on structures that were left out, against the number of "
        "training structures. Bars: standard deviation over random splits.",
        "xlabel": "training structures",
        "ylabel": "MAE (kcal/mol)",
        "wide": True,
        "xlog": True,
        "ylog": True,
        "series": series,
    }


def metric_map(model: KNNModel, judged: Mapping[str, Judged]) -> Figure:
    """The two principal components of the training set in the learned metric."""
    points = model.knn.index.points.astype(np.float64)
    centre = points.mean(axis=0)
    variances, axes = np.linalg.eigh(
        np.cov(points - centre, rowvar=False).reshape(2 * [len(centre)])
    )
    axes = axes[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.column_stack([axes, np.zeros(len(axes))])
    total = float(variances.sum())
    shown = float(variances[::-1][:2].sum() / total) if total > 0 else 1.0
    held = judged.get("training")
    value = np.abs(held.error if held is not None else model.knn.residuals)
    flat = (points - centre) @ axes
    series = [
        {
            **_points("training", flat[:, 0], flat[:, 1]),
            "name": "training structures",
            "value": numbers(KCAL_PER_MOL * value),
            "valuelabel": "|error| when left out (kcal/mol)"
            if held is not None
            else "|residual of the trend| (kcal/mol)",
        }
    ]
    test = judged.get("test")
    if test is not None and test.points is not None:
        seen = (test.points - centre) @ axes
        series.append(_points("test", seen[:, 0], seen[:, 1]))
    return {
        "id": "map",
        "title": "Map of the training set",
        "caption": "First two principal components of the training set in the metric; they hold "
        f"{100 * shown:.0f} % of its variance. Distances that look short may be long in the "
        "other dimensions.",
        "xlabel": "first component",
        "ylabel": "second component",
        "wide": True,
        "series": series,
    }
