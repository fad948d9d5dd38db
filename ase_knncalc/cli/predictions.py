"""``knncalc predict`` and ``knncalc rank``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    ChargeOption,
    CsvOption,
    DaskOption,
    IgnoreCell,
    JobsOption,
    JsonOption,
    LevelOption,
    ModelOption,
    QuietOption,
    StrictOption,
    Structures,
)
from ase_knncalc.cli.outputs import (
    check_outputs,
    refuse_omissions,
    tell_omissions,
)
from ase_knncalc.cli.printing import show
from ase_knncalc.cli.properties import print_properties, property_row
from ase_knncalc.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from ase import Atoms

    from ase_knncalc.data import KeyMap
    from ase_knncalc.heads import Gas
    from ase_knncalc.model import KNNModel
    from ase_knncalc.prediction import Predictions

AllowOther = Annotated[
    bool,
    typer.Option(
        "--allow-other-baseline", help="Correct a baseline that the model was not made for."
    ),
]


def predict(
    structures: Structures,
    model: ModelOption = DEFAULT_MODEL,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Structures with predictions: extxyz, traj, db, pkl, csv."
        ),
    ] = None,
    csv: CsvOption = None,
    coverage: Annotated[float, typer.Option(help="Of the interval, 0.5 to 0.99.")] = 0.9,
    properties: Annotated[
        bool,
        typer.Option("--properties", help="Also what the model has learned beside the energy."),
    ] = False,
    temperature: Annotated[
        float, typer.Option("--temperature", "-T", help="Of the thermochemistry in it, K.")
    ] = 298.15,
    baseline: BaselineOption = "auto",
    allow_other_baseline: AllowOther = False,
    baseline_key: BaselineKey = "baseline_energy",
    charge: ChargeOption = None,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict energies with their uncertainty.

    Example: knncalc predict clusters.xyz -m saw-wb97xd -o predicted.extxyz
    """
    from ase_knncalc.data import KeyMap
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.heads import Gas, require_heads
    from ase_knncalc.heads.thermal import require_temperature
    from ase_knncalc.store import find_model, load_model

    check_outputs(
        [*structures, find_model(model)],
        ("--output", output, frame_writer),
        ("--csv", csv, None),
    )
    loaded = load_model(model, baseline=baseline, allow_other_baseline=allow_other_baseline)
    loaded.calibration.multiple(coverage)  # raises before the baseline is run
    gas = Gas(temperature=temperature) if properties else None
    if gas is not None:
        heads = require_heads(loaded.heads)
        if any(head.kind == "thermochemistry" for head in heads):
            require_temperature(gas.temperature)
    keys = KeyMap(baseline_energy=baseline_key, ignore_cell=ignore_cell)
    frames, found = _predicted(loaded, structures, charge, keys, jobs, quiet, strict, gas=gas)
    low, high = found.energy_interval(coverage)
    columns = [
        "name",
        "energy_eV",
        "energy_std_eV",
        "low_eV",
        "high_eV",
        "novelty",
        "outside",
        "nearest",
    ]
    rows = [
        [
            atoms.info["name"],
            found.energy[i],
            found.energy_std[i],
            low[i],
            high[i],
            found.novelty[i],
            bool(found.outside[i]),
            found.neighbors[i][0].name,
        ]
        for i, atoms in enumerate(frames)
    ]
    shown = len(columns)
    known = [property_row(one) for one in found.properties or ()]
    names = list(dict.fromkeys(name for row in known for name in row))
    columns += names
    for row, own in zip(rows, known, strict=properties):
        row += [own.get(name) for name in names]
    if output is not None:
        from ase_knncalc.analysis.results import annotate
        from ase_knncalc.data import write_frames

        pairs = zip(frames, found, strict=True)
        write_frames(output, [annotate(a, p, coverage, charge) for a, p in pairs])
    show(f"Predictions of {model}", columns, rows, csv, as_json, shown=shown)
    if properties and not as_json:
        print_properties([str(atoms.info["name"]) for atoms in frames], known)


def rank(
    structures: Structures,
    model: ModelOption = DEFAULT_MODEL,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="The structures in that order: extxyz, traj, db, pkl, csv."
        ),
    ] = None,
    csv: CsvOption = None,
    top: Annotated[
        int, typer.Option(min=0, help="The lowest N only, in all outputs (0: all).")
    ] = 0,
    level: LevelOption = None,
    baseline: BaselineOption = "auto",
    allow_other_baseline: AllowOther = False,
    baseline_key: BaselineKey = "baseline_energy",
    charge: ChargeOption = None,
    jobs: JobsOption = -1,
    dask: DaskOption = None,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank conformers of one composition by predicted energy.

    Example: knncalc rank conformers.xyz --csv ranking.csv
    """
    import numpy as np

    from ase_knncalc.analysis.ranking import predictions_at_level
    from ase_knncalc.data import KeyMap
    from ase_knncalc.data.frames import frame_writer
    from ase_knncalc.heads.levels import require_level
    from ase_knncalc.store import find_model, load_model

    check_outputs(
        [*structures, find_model(model)],
        ("--output", output, frame_writer),
        ("--csv", csv, None),
    )
    loaded = load_model(model, baseline=baseline, allow_other_baseline=allow_other_baseline)
    if level is not None:  # before any work
        require_level(loaded.heads, level)
    keys = KeyMap(baseline_energy=baseline_key, ignore_cell=ignore_cell)
    frames, found = _predicted(
        loaded, structures, charge, keys, jobs, quiet, strict, check=_species
    )
    if level is not None:
        found = predictions_at_level(loaded, frames, found, level, charge=charge)
    species = _species(frames, charge)
    order = np.argsort(found.energy, kind="stable")
    lowest = found.energy[order[0]]
    columns = [
        "name",
        "energy_eV",
        "relative_kcal_mol",
        "energy_std_kcal_mol",
        "novelty",
        "outside",
        "nearest",
        "distance",
    ]
    rows = [
        [
            frames[i].info["name"],
            found.energy[i],
            KCAL_PER_MOL * (found.energy[i] - lowest),
            KCAL_PER_MOL * found.energy_std[i],
            found.novelty[i],
            bool(found.outside[i]),
            found.neighbors[i][0].name,
            found.neighbors[i][0].distance,
        ]
        for i in order
    ]
    kept = top or len(rows)
    if output is not None:
        from ase_knncalc.analysis.results import annotate
        from ase_knncalc.data import write_frames

        best = order[:kept]
        write_frames(output, [annotate(frames[i], found[i], charge=charge) for i in best])
    show(f"{species}, {len(rows)} conformers", columns, rows[:kept], csv, as_json)


def _predicted(
    model: KNNModel,
    structures: list[Path],
    charge: int | None,
    keys: KeyMap,
    jobs: int,
    quiet: bool,
    strict: bool,
    check: Callable[[list[Atoms], int | None], object] | None = None,
    gas: Gas | None = None,
) -> tuple[list[Atoms], Predictions]:
    """Structures that can be predicted, and their predictions; the others are told.

    ``check`` looks at the structures that could be read and have a charge, before any work.
    """
    from ase_knncalc.analysis.ranking import predict_usable
    from ase_knncalc.data import read_usable
    from ase_knncalc.errors import DataError

    frames, omitted = read_usable(structures, keys)
    if strict:
        refuse_omissions(omitted, len(frames) + len(omitted))
    if check is not None:
        check(frames, charge)
    found, places, left = predict_usable(
        model,
        frames,
        charge=charge,
        keys=keys,
        gas=gas,
        n_jobs=jobs,
        progress=not quiet,
    )
    omitted += left
    total = len(frames) + len(omitted) - len(left)
    if not strict and not places and len(omitted) == total == 1:
        raise DataError(f"{left[0].name}: {left[0].reason}" if left else omitted[0].reason)
    tell_omissions(omitted, total, strict, "no structure can be predicted")
    return [frames[i] for i in places], found


def _species(frames: list[Atoms], charge: int | None) -> str:
    """Formula and charge that all conformers share."""
    from ase_knncalc.errors import StructureError
    from ase_knncalc.structure import resolve_charge

    found = set()
    for atoms in frames:
        try:
            total = resolve_charge(atoms, charge)[0]
        except StructureError:  # left out later, with the reason
            continue
        found.add(atoms.get_chemical_formula() + (f" ({total:+d})" if total else ""))
    species = sorted(found)
    if len(species) > 1:
        raise StructureError(
            f"conformers of one composition and charge are ranked, but the files hold "
            f"{len(species)}: {', '.join(species[:5])}; rank each on its own"
        )
    return str(species[0]) if species else ""
