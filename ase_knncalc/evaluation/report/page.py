"""From a model to the page: what is known is gathered, judged and put into the template."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.data import KeyMap
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.evaluation.report import figures
from ase_knncalc.evaluation.report.judged import Judged, judge_data, judge_held_out
from ase_knncalc.evaluation.report.pieces import (
    cell,
    drawable,
    element_styles,
    embedded,
    fill,
    listed,
    row,
    table,
    template,
)
from ase_knncalc.heads.summary import COLUMNS, head_rows
from ase_knncalc.labels.training_data import TrainingData, prepare
from ase_knncalc.model import KNNModel
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.store.container import package_versions

# Rows of the table of worst cases, and most atoms of all structures in the page.
_WORST = 20
_MOST_ATOMS = 20_000

Curves = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Report:
    """What a page shows.

    Attributes
    ----------
    path : Path
    figures : list of str
        Identifiers of the figures, in their order on the page.
    held_out, test : dict or None
        Number of structures, mean absolute and root mean square error (eV), coverage of the
        90 % interval.
    refused : list of str
        Test structures that could not be predicted, and why.
    missing : list of str
        What the page does not show, and what would make it.
    """

    path: Path
    figures: list[str]
    held_out: dict[str, float] | None
    test: dict[str, float] | None
    refused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_report(
    path: str | os.PathLike[str],
    model: KNNModel,
    *,
    name: str = "",
    data: Any = None,
    training: Any = None,
    curves: Curves | None = None,
    keys: KeyMap | None = None,
    cache: str | os.PathLike[str] | None = None,
    repeats: int = 3,
    n_jobs: int = -1,
    progress: bool = False,
) -> Report:
    """Write one HTML page about a model that needs no network and no other file.

    Parameters
    ----------
    path
        File to write.
    model
        With its baseline attached if there are data.
    name
        Of the model, for the title.
    data
        Labelled test structures, file(s) or frames: everything is shown for them too.
    training
        The structures that the model was trained on: geometries for the table of worst cases,
        and a learning curve (the model is trained about ``2 * repeats`` times over).
    curves
        Learning curves that are known already (:func:`ase_knncalc.evaluation.learning_curve`), by
        name; they are not computed again.
    keys
        Where data and training keep their labels.
    cache
        SQLite file of baseline labels.
    repeats
        Random splits of each size of the learning curve.
    n_jobs, progress
        As for :func:`ase_knncalc.train`.

    Raises
    ------
    DataError
        If data or training cannot be used.
    BaselineError
        If a baseline energy is needed and cannot be had.
    """
    if (data is not None or training is not None) and model.baseline is None:
        raise SettingsError("data are judged with the model's baseline: none is attached")
    judged: dict[str, Judged] = {}
    held = judge_held_out(model)
    if held is not None:
        judged["training"] = held
    if data is not None:
        judged["test"] = judge_data(
            model, data, keys=keys, cache=cache, n_jobs=n_jobs, progress=progress
        )
    if training is not None:
        settings = TrainingSettings.from_dict(model.info.provenance.settings)
        prepared = prepare(
            training,
            settings=settings,
            baseline=model.baseline,
            keys=keys,
            cache=cache,
            n_jobs=n_jobs,
            progress=progress,
        )
        if held is not None:
            judged["training"] = held.with_geometries(model, prepared.frames)
        if curves is None:
            curves = _curves(prepared.data, settings, repeats, progress)
    return _write(Path(path), model, name, judged, curves)


def read_curves(path: str | os.PathLike[str]) -> dict[str, list[dict[str, float]]]:
    """Learning curves as ``knncalc learning-curve --json`` prints them.

    Raises
    ------
    DataError
        If the file is missing or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return {
            str(name): [{k: float(row[k]) for k in ("size", "mae", "mae_sd")} for row in rows]
            for name, rows in found.items()
        }
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise DataError(
            f"{path} does not hold learning curves as `knncalc learning-curve --json` prints them"
        ) from e


def _curves(
    data: TrainingData, settings: TrainingSettings, repeats: int, progress: bool
) -> Curves | None:
    """Curve over five sizes, each twice the one before; None for very few structures."""
    from ase_knncalc.evaluation.curves import learning_curve

    largest = int(0.8 * len(data))
    least = max(8, settings.k + 1)
    sizes = [largest // 2**i for i in range(5) if largest // 2**i >= least]
    if len(sizes) < 2:
        return None
    rows = learning_curve(data, settings, sizes=sizes, repeats=repeats, progress=progress)
    return {settings.trend: rows}


def _write(
    path: Path, model: KNNModel, name: str, judged: dict[str, Judged], curves: Curves | None
) -> Report:
    missing = _missing(judged, curves)
    drawn = []
    if judged:
        drawn += [
            figures.parity(judged),
            figures.error_against_std(judged),
            figures.coverage(model, judged),
            figures.error_against_size(judged),
        ]
    if curves:
        drawn.append(figures.learning_curve(curves))
    drawn.append(figures.metric_map(model, judged))
    title = name or model.info.reference or "model"
    document = fill(
        "report.html",
        {
            "title": html.escape(title),
            "style": template("report.css"),
            "script": template("report.js"),
            "facts": _facts(model),
            "scores": _scores_table(judged),
            "missing": listed(missing),
            "refused": _refused(judged.get("test")),
            "figures": "\n".join(_figure(f) for f in drawn),
            "worst": "\n".join(_worst_table(which, j) for which, j in judged.items()),
            "properties": _properties_table(model),
            "compositions": _composition_table(model, judged),
            "citations": listed(
                model.info.provenance.citations or ["arXiv:2509.11728 (the k-NN method)"]
            ),
            "versions": html.escape(", ".join(f"{k} {v}" for k, v in package_versions().items())),
            "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "data": embedded(
                {"figures": drawn, "labels": _labels(model, judged), **_structures(judged)}
            ),
        },
    )
    with atomic_write(path, SettingsError) as handle:
        handle.write(document.encode("utf-8"))
    return Report(
        path=path,
        figures=[f["id"] for f in drawn],
        held_out=_scores(judged.get("training")),
        test=_scores(judged.get("test")),
        refused=judged["test"].refused if "test" in judged else [],
        missing=missing,
    )


def _missing(judged: Mapping[str, Judged], curves: Curves | None) -> list[str]:
    missing = []
    if "training" not in judged:
        missing.append(
            "Errors of left-out training structures: the model file was written before such files "
            "kept them. Train again to have them."
        )
    elif not any(judged["training"].frames):
        missing.append(
            "Geometries of training structures: model files keep none. Give them with --training."
        )
    if "test" not in judged:
        missing.append("Errors on data the model has never seen: give them with --data.")
    if not curves:
        missing.append(
            "A learning curve: give the training data with --training, or the output of "
            "`knncalc learning-curve --json` with --curve."
        )
    return missing


def _scores(judged: Judged | None) -> dict[str, float] | None:
    if judged is None:
        return None
    return {
        "n": len(judged),
        "mae": float(np.abs(judged.error).mean()),
        "rmse": float(np.sqrt(np.mean(judged.error**2))),
        "coverage": float(judged.inside.mean()),
    }


def _facts(model: KNNModel) -> str:
    about = model.info
    settings = model.knn.settings
    facts = {
        "reference": about.reference or "not named",
        "baseline": about.baseline.get("method", "none"),
        "elements": " ".join(chemical_symbols[z] for z in model.elements),
        "charges": " ".join(f"{q:+d}" if q else "0" for q in about.charges),
        "training structures": f"{about.n_structures} of "
        f"{len(set(model.compositions.tolist()))} compositions, "
        f"{about.size_range[0]} to {about.size_range[1]} atoms",
        "left out in training": str(len(about.provenance.omitted)),
        "descriptor": f"{model.descriptor.kind}, {model.descriptor.n_features} features",
        "trend": model.trend.kind,
        "neighbours": f"k = {settings.k}, weights {settings.weights}, "
        f"metric of {model.metric.n_components} dimensions",
        "trained": about.provenance.created or "at an unknown time",
    }
    facts |= {
        key: f"{KCAL_PER_MOL * value:.3f} kcal/mol ({1000 * value:.1f} meV)"
        for key, value in about.named_errors()
    }
    return "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>"
        for key, value in facts.items()
    )


def _scores_table(judged: Mapping[str, Judged]) -> str:
    rows = []
    for which, j in judged.items():
        size = KCAL_PER_MOL * np.abs(j.error)
        rows.append(
            row(
                [
                    "training structures, left out (intervals are fitted to them)"
                    if which == "training"
                    else "test data",
                    len(j),
                    float(size.mean()),
                    float(KCAL_PER_MOL * np.sqrt(np.mean(j.error**2))),
                    float(np.quantile(size, 0.95)),
                    float(KCAL_PER_MOL * j.error.mean()),
                    float(j.inside.mean()),
                    float("nan") if j.novelty is None else float(np.mean(j.novelty > 1)),
                ]
            )
        )
    columns = ["", "n", "MAE", "RMSE", "95 %", "mean error", "90 % coverage", "novelty > 1"]
    return table(columns, rows) if rows else ""


def _refused(test: Judged | None) -> str:
    if test is None or not test.refused:
        return ""
    shown = test.refused[:20]
    if len(test.refused) > len(shown):
        shown.append(f"… and {len(test.refused) - len(shown)} more")
    return (
        f"<details><summary>{len(test.refused)} structures of the data are not in the test"
        f"</summary>{listed(shown)}</details>"
    )


def _figure(figure: Mapping[str, Any]) -> str:
    kind = "wide" if figure.get("wide") else ""
    return (
        f'<figure id="{figure["id"]}" class="{kind}"><h3>{html.escape(figure["title"])}</h3>'
        f'<canvas role="img" aria-label="{html.escape(figure["title"])}"></canvas>'
        f'<div class="legend"></div><figcaption>{html.escape(figure["caption"])}</figcaption>'
        "</figure>"
    )


def _worst_table(which: str, judged: Judged) -> str:
    rows = []
    for i in judged.worst(_WORST):
        shown = bool(judged.frames) and judged.frames[i] is not None
        label = html.escape(judged.names[i])
        first = f'<button data-structure="{which}:{i}">{label}</button>' if shown else label
        values: list[Any] = [
            judged.compositions[i],
            float(KCAL_PER_MOL * judged.error[i]),
            float(KCAL_PER_MOL * judged.std[i]),
            float(abs(judged.error[i]) / judged.std[i]),
            "yes" if judged.inside[i] else "no",
        ]
        if judged.novelty is not None:
            name, distance = judged.nearest[i]
            values += [float(judged.novelty[i]), name, float(distance)]
        rows.append(f"<tr><td>{first}</td>{''.join(cell(v) for v in values)}</tr>")
    columns = ["structure", "composition", "error", "energy_std", "|error|/std", "in 90 %"]
    if judged.novelty is not None:
        columns += ["novelty", "nearest", "distance"]
    title = "Test data" if which == "test" else "Training structures, left out"
    return f"<h3>{title}</h3>{table(columns, rows, 'sortable')}"


def _properties_table(model: KNNModel) -> str:
    rows = head_rows(model.heads)
    if not rows:
        return "<p>None: this model knows energies alone.</p>"
    return table([key.replace("_", " ") for key in COLUMNS], [row(list(r.values())) for r in rows])


def _composition_table(model: KNNModel, judged: Mapping[str, Judged]) -> str:
    in_training = [c.decode("utf-8") for c in model.compositions]
    columns = ["composition", "in training"]
    rows: dict[str, list[Any]] = {c: [c, 0] for c in dict.fromkeys(in_training)}
    for c in in_training:
        rows[c][1] += 1
    if "test" in judged:
        for c in judged["test"].compositions:
            rows.setdefault(c, [c, 0])
    for which, j in judged.items():
        short = "left out" if which == "training" else "test"
        columns += [f"{short} MAE", f"{short} 90 % coverage"]
        columns += ["test n", "test mean novelty"] if which == "test" else []
        members: dict[str, list[int]] = {}
        for i, c in enumerate(j.compositions):
            members.setdefault(c, []).append(i)
        for c, one in rows.items():
            at = members.get(c, [])
            one.append(float(KCAL_PER_MOL * np.abs(j.error[at]).mean()) if at else float("nan"))
            one.append(float(j.inside[at].mean()) if at else float("nan"))
            if j.novelty is not None:
                one += [len(at), float(j.novelty[at].mean()) if at else float("nan")]
    if "test" in judged:  # what the data hold comes first
        place = columns.index("test n")
        rows = dict(sorted(rows.items(), key=lambda item: -item[1][place]))
    return table(columns, [row(r) for r in rows.values()], "sortable")


# --- what the script reads ------------------------------------------------------------------------


def _labels(model: KNNModel, judged: Mapping[str, Judged]) -> dict[str, list[str]]:
    labels = {
        "training": [
            f"{name.decode('utf-8')} ({composition.decode('utf-8')})"
            for name, composition in zip(model.names, model.compositions, strict=True)
        ]
    }
    if "test" in judged:
        test = judged["test"]
        labels["test"] = [
            f"{name} ({composition})"
            for name, composition in zip(test.names, test.compositions, strict=True)
        ]
    return labels


def _structures(judged: Mapping[str, Judged]) -> dict[str, Any]:
    """Geometries, the worst predicted first, and how to draw their elements."""
    structures: dict[str, Any] = {}
    elements: set[str] = set()
    n_atoms = 0
    for which, j in judged.items():
        if not j.frames:
            continue
        for rank, i in enumerate(j.worst(len(j))):
            atoms = j.frames[i]
            if atoms is None:
                continue
            n_atoms += len(atoms)
            if n_atoms > _MOST_ATOMS and rank >= _WORST:
                break
            structures[f"{which}:{i}"] = _structure(atoms, j, i)
            elements.update(atoms.symbols)
    return {"structures": structures, "elements": element_styles(elements)}


def _structure(atoms: Atoms, judged: Judged, i: int) -> dict[str, Any]:
    text = (
        f"{judged.compositions[i]}: error {KCAL_PER_MOL * judged.error[i]:+.2f}, "
        f"energy_std {KCAL_PER_MOL * judged.std[i]:.2f} kcal/mol"
    )
    return drawable(atoms, judged.names[i], text)
