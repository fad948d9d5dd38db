"""``knncalc train``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    DaskOption,
    EnergyUnit,
    ForceUnit,
    IgnoreCell,
    JobsOption,
    JsonOption,
    LowOption,
    OwnPredictions,
    PropertyOption,
    PropertyTable,
    QuietOption,
    ReferenceKey,
    SeedOption,
    StrictOption,
    unit_or_factor,
)
from ase_knncalc.cli.outputs import (
    cache_place,
    check_folder,
    check_outputs,
    model_place,
    refuse_omissions,
)
from ase_knncalc.cli.printing import print_json, print_table
from ase_knncalc.cli.properties import show_heads
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.trend.sparse import SparseSettings

if TYPE_CHECKING:
    from ase_knncalc._lib.profiling import Profile


def train(
    data: Annotated[
        list[Path], typer.Argument(help="Labelled structures: extxyz(.gz), db, traj, …")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    monomers: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads it at run time
        typer.Option("--monomers", help="Monomers at both levels: the zero of binding energies."),
    ] = None,
    low: LowOption = None,
    low_monomers: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--low-monomers", help="The monomers at the low level, if in other files."),
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Name of the reference level, kept in the model.")
    ] = "",
    baseline: BaselineOption = "auto",
    trend: Annotated[str, typer.Option(help="Trend: sparse, linear or none.")] = "sparse",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of neighbours.")] = 10,
    weights: Annotated[
        str, typer.Option(help="auto, distance (1/d), uniform, kernel or kriging.")
    ] = "auto",
    components: Annotated[int, typer.Option(min=1, help="Dimensions of the learned metric.")] = 50,
    cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Label cache (default: <output>.labels.db); an interrupted run resumes."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Leave out structures with labels wrong beyond doubt."
        ),
    ] = True,
    energy_unit: EnergyUnit = "eV",
    force_unit: ForceUnit = None,
    own_predictions: OwnPredictions = False,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
    minima: Annotated[
        bool,
        typer.Option(
            "--minima",
            help="Frames without reference forces are minima of the reference: learn from that.",
        ),
    ] = False,
    frequencies: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Table (csv) of harmonic frequencies beside the data, columns name and "
            "frequencies_cm1: no minimum where one is negative; curvatures to learn elsewhere."
        ),
    ] = None,
    properties: PropertyOption = None,
    property_table: PropertyTable = None,
    preset: Annotated[
        str,
        typer.Option(help="energies (of minima), or forces: data off equilibrium, or --minima."),
    ] = "energies",
    environments: Annotated[
        int, typer.Option(min=1, help="Inducing environments of an element (sparse trend).")
    ] = SparseSettings.environments,
    length_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Length scale of the kernel (sparse trend; default: the preset's)."),
    ] = None,
    curvature_frames: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            help="Minima whose frequencies become curvatures, at 6 baseline calculations an atom "
            "(default: the preset's).",
        ),
    ] = None,
    metric_samples: Annotated[
        int, typer.Option(min=2, help="Most structures that MLKR learns from.")
    ] = TrainingSettings.metric_samples,
    seed: SeedOption = 0,
    scratch: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for tables too large for memory (default: that for temporary files)."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where time and memory went.")
    ] = False,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model on labelled structures.

    Example: knncalc train clusters.extxyz.gz -r wb97xd_energy --monomers monomers.extxyz -o my.h5

    JKQC files: knncalc train sa-w_DFT.pkl --low sa-w_XTB.pkl --monomers monsDFT.pkl
    --low-monomers monsXTB.pkl -o my.h5
    """
    from ase_knncalc._lib.arguments import OneOf, checked
    from ase_knncalc._lib.profiling import profiling
    from ase_knncalc.data import KeyMap, Omission, pair_sources, read_dataset, report_omissions
    from ase_knncalc.store import save_model
    from ase_knncalc.training import train as run

    checked("preset", preset, OneOf(("energies", "forces")))
    given = {"length_scale": length_scale, "curvature_frames": curvature_frames}
    sparse: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    sparse["environments"] = environments
    settings = replace(
        TrainingSettings.for_forces(**sparse)
        if preset == "forces"
        else TrainingSettings(sparse=SparseSettings(**sparse)),
        trend=trend,
        k=k,
        weights=weights,
        n_components=components,
        metric_samples=metric_samples,
        seed=seed,
    )
    keys = KeyMap(
        reference_energy=reference_key,
        baseline_energy=baseline_key,
        energy_unit=energy_unit,
        force_unit=unit_or_factor(force_unit),
        own_predictions=own_predictions,
        ignore_cell=ignore_cell,
    )
    if cache is None:
        old = Path(f"{output}.labels.h5")  # of an earlier version
        cache = old if old.exists() else Path(f"{output}.labels.db")
    check_outputs(
        [
            *(p for paths in (data, low, monomers, low_monomers) for p in paths or []),
            *([frequencies] if frequencies else []),
            *([property_table] if property_table else []),
        ],
        ("--output", output, model_place),
        ("--cache", cache, cache_place),
    )
    check_folder("--scratch", scratch)
    source, zero, keys = pair_sources(
        data, low or None, monomers or None, low_monomers or None, keys
    )
    if strict:
        for part in (source, zero):
            if part is not None:
                dataset = read_dataset(part, keys=keys)
                refuse_omissions(dataset.omitted, len(dataset) + len(dataset.omitted))
    with profiling() as stages:
        model = run(
            source,
            monomers=zero,
            baseline=baseline,
            reference=reference or reference_key,
            keys=keys,
            minima=minima,
            frequencies=frequencies,
            properties=properties or (),
            property_table=property_table,
            check_labels=check,
            settings=settings,
            cache=cache,
            n_jobs=jobs,
            progress=not quiet,
            scratch=scratch,
        )
    omitted = [Omission(**entry) for entry in model.info.provenance.omitted]
    if strict:  # what the baseline, or the check of labels, left out
        refuse_omissions(omitted, len(model) + len(omitted))
    save_model(model, output)
    if profile:
        _show_profile(stages)
    if as_json:
        found = {"model": str(output), **model.info.to_dict()}
        print_json({**found, "profile": stages.rows()} if profile else found)
        return
    rows = [
        [name, f"{1000 * value:.2f}", f"{KCAL_PER_MOL * value:.3f}"]
        for name, value in model.info.named_errors()
    ]
    print_table(
        f"{output}: {model.info.n_structures} structures, "
        f"{len(model.info.provenance.omitted)} left out; cross-validated errors",
        ["error", "meV", "kcal/mol"],
        rows,
    )
    show_heads(model)
    if omitted:
        print(report_omissions(omitted, len(model) + len(omitted)), file=sys.stderr)


def _show_profile(stages: Profile) -> None:
    rows = [
        [row["name"], *(f"{row[key]:.1f}" for key in ("seconds", "cpu_seconds", "peak_mib"))]
        for row in stages.rows()
    ]
    print_table(
        "Where the time went",
        ["stage", "seconds", "of one processor", "peak MiB so far"],
        rows,
        to_stderr=True,
    )
