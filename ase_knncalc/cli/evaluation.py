"""``knncalc cv``, ``tune``, ``learning-curve`` and ``compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    CacheOption,
    DaskOption,
    JobsOption,
    JsonOption,
    QuietOption,
    ReferenceKey,
    SeedOption,
    numbers,
)
from ase_knncalc.cli.outputs import cache_place, check_outputs
from ase_knncalc.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from ase_knncalc.evaluation import Held
    from ase_knncalc.labels.training_data import TrainingData
    from ase_knncalc.settings import TrainingSettings

Data = Annotated[list[Path], typer.Argument(help="Labelled structures.")]
TrendOption = Annotated[str, typer.Option(help="Trend: sparse, linear or none.")]
KOption = Annotated[int, typer.Option("-k", min=1, help="Number of neighbours.")]
WeightsOption = Annotated[
    str, typer.Option(help="auto, distance (1/d), uniform, kernel or kriging.")
]
FoldsOption = Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")]
SplitOption = Annotated[
    str, typer.Option(help="random, or composition (no composition in both parts).")
]
PlotOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option("--plot", help="Write a plot (png, pdf, svg)."),
]


def cv(
    data: Data,
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    baseline: BaselineOption = "auto",
    trend: TrendOption = "sparse",
    k: KOption = 10,
    weights: WeightsOption = "auto",
    folds: FoldsOption = 5,
    split: SplitOption = "random",
    cache: CacheOption = None,
    plot: PlotOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cross-validate one method.

    Example: knncalc cv clusters.extxyz.gz -r wb97xd_energy --split composition --plot cv.png
    """
    from ase_knncalc._lib.arguments import OneOf, checked
    from ase_knncalc.evaluation import SPLITS, cross_validate
    from ase_knncalc.settings import TrainingSettings

    settings = TrainingSettings(trend=trend, k=k, weights=weights, seed=seed)
    checked("split", split, OneOf(SPLITS))
    _check_outputs(data, plot, cache)
    known = _load(data, reference_key, baseline_key, baseline, settings, cache, jobs, quiet)
    held = cross_validate(
        known, settings, split=split, folds=folds, n_jobs=jobs, progress=not quiet
    )
    _plot(plot, held, known, f"{trend}, {split} split")
    _show({trend: held}, as_json)


def compare(
    data: Data,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated: trend or trend/weights, e.g. sparse,none/distance."),
    ] = "sparse,linear,none/distance",
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    baseline: BaselineOption = "auto",
    k: KOption = 10,
    folds: FoldsOption = 5,
    split: SplitOption = "random",
    cache: CacheOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cross-validate several methods on the same folds.

    Example: knncalc compare clusters.extxyz.gz -r wb97xd_energy --methods sparse,none/distance
    """
    from ase_knncalc._lib.arguments import OneOf, checked
    from ase_knncalc.evaluation import SPLITS, cross_validate
    from ase_knncalc.settings import TrainingSettings

    checked("split", split, OneOf(SPLITS))
    wanted = {}
    for name in methods.split(","):
        trend, _, weights = name.strip().partition("/")
        wanted[name.strip()] = TrainingSettings(
            trend=trend, k=k, weights=weights or "auto", seed=seed
        )
    _check_outputs(data, None, cache)
    found = {}
    known: dict[str, TrainingData] = {}
    for name, settings in wanted.items():
        trend = settings.trend
        if trend not in known:
            known[trend] = _load(
                data, reference_key, baseline_key, baseline, settings, cache, jobs, quiet
            )
        found[name] = cross_validate(
            known[trend], settings, split=split, folds=folds, n_jobs=jobs, progress=not quiet
        )
    _show(found, as_json)


def learning_curve(
    data: Data,
    sizes: Annotated[str, typer.Option(help="Comma-separated numbers of training structures.")],
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    baseline: BaselineOption = "auto",
    trends: Annotated[str, typer.Option(help="Comma-separated trends.")] = "sparse",
    k: KOption = 10,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Random splits a size.")] = 3,
    cache: CacheOption = None,
    plot: PlotOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Error against the number of training structures.

    Example: knncalc learning-curve data.extxyz.gz --sizes 100,200,400,800 --plot curve.png
    """
    from ase_knncalc.evaluation import learning_curve as run
    from ase_knncalc.settings import TrainingSettings

    wanted_sizes = numbers("--sizes", sizes, int)
    wanted = [TrainingSettings(trend=t.strip(), k=k, seed=seed) for t in trends.split(",")]
    _check_outputs(data, plot, cache)
    curves = {}
    for settings in wanted:
        known = _load(data, reference_key, baseline_key, baseline, settings, cache, jobs, quiet)
        curves[settings.trend] = run(
            known, settings, sizes=wanted_sizes, repeats=repeats, n_jobs=jobs, progress=not quiet
        )
    if plot is not None:
        from ase_knncalc.evaluation.plots import plot_learning_curves

        plot_learning_curves(plot, curves)
    if as_json:
        print_json(curves)
        return
    print_table(
        "Learning curve (kcal/mol)",
        ["trend", "structures", "MAE", "± over repeats", "RMSE", "coverage 90 %", "Spearman"],
        [
            [
                trend,
                row["size"],
                f"{KCAL_PER_MOL * row['mae']:.3f}",
                f"{KCAL_PER_MOL * row['mae_sd']:.3f}",
                f"{KCAL_PER_MOL * row['rmse']:.3f}",
                f"{row['coverage']:.3f}",
                f"{row['spearman']:.2f}",
            ]
            for trend, rows in curves.items()
            for row in rows
        ],
    )


def tune(
    data: Data,
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    baseline: BaselineOption = "auto",
    length_scales: Annotated[str, typer.Option(help="σ of the sparse trend to try.")] = "10,20,40",
    environments: Annotated[
        str, typer.Option(help="Inducing environments an element to try.")
    ] = "1000",
    folds: FoldsOption = 3,
    cache: CacheOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find settings of the sparse trend by cross-validation on random and composition splits.

    Example: knncalc tune clusters.extxyz.gz -r wb97xd_energy --length-scales 10,20
    """
    from ase_knncalc.evaluation import tune as run
    from ase_knncalc.settings import TrainingSettings

    base = TrainingSettings(trend="sparse", seed=seed)
    candidates = {
        f"σ={sigma:g} m={m}": replace(
            base, sparse=replace(base.sparse, length_scale=sigma, environments=m)
        )
        for sigma in numbers("--length-scales", length_scales, float)
        for m in numbers("--environments", environments, int)
    }
    _check_outputs(data, None, cache)
    known = _load(data, reference_key, baseline_key, baseline, base, cache, jobs, quiet)
    best, table = run(known, candidates, folds=folds, n_jobs=jobs, progress=not quiet)
    if as_json:
        print_json({"best": best, "table": table})
        return
    print_table(
        f"Mean absolute errors (kcal/mol); best: {best}",
        ["settings", *next(iter(table.values()))],
        [[n, *(f"{KCAL_PER_MOL * x:.3f}" for x in row.values())] for n, row in table.items()],
    )


def _check_outputs(data: list[Path], plot: Path | None, cache: Path | None) -> None:
    from ase_knncalc.evaluation.plots import check_plot

    check_outputs(data, ("--plot", plot, check_plot), ("--cache", cache, cache_place))


def _load(
    paths: list[Path],
    reference_key: str,
    baseline_key: str,
    baseline: str,
    settings: TrainingSettings,
    cache: Path | None,
    jobs: int,
    quiet: bool,
) -> TrainingData:
    from ase_knncalc.data import KeyMap
    from ase_knncalc.labels.training_data import prepare

    return prepare(
        paths,
        baseline=baseline,
        keys=KeyMap(reference_energy=reference_key, baseline_energy=baseline_key),
        settings=settings,
        cache=cache,
        n_jobs=jobs,
        progress=not quiet,
    ).data


def _plot(path: Path | None, held: Held, known: TrainingData, title: str) -> None:
    if path is None:
        return
    from ase_knncalc.evaluation.plots import plot_held_out
    from ase_knncalc.trend.kinds import fit_trend

    offsets = fit_trend("none", known.batch, known.delta, known.descriptor.elements).trend
    truth = (known.delta - offsets.predict(known.batch))[held.indices]
    plot_held_out(path, held, truth, known.batch.sizes[held.indices], title)


def _show(found: dict[str, Held], as_json: bool) -> None:
    if as_json:
        print_json({name: held.scores.to_dict() for name, held in found.items()})
        return
    rows: list[list[Any]] = []
    for name, held in found.items():
        s = held.scores
        rows.append(
            [
                name,
                s.n,
                *(f"{KCAL_PER_MOL * x:.3f}" for x in (s.mae, s.rmse, s.p95)),
                f"{s.coverage:.3f}",
                f"{s.spearman:.2f}",
                f"{s.train_seconds:.1f}",
                f"{s.predict_milliseconds:.2f}",
            ]
        )
    print_table(
        "Held-out errors (kcal/mol)",
        ["method", "n", "MAE", "RMSE", "95 %", "coverage 90 %", "Spearman", "train s", "ms each"],
        rows,
    )
