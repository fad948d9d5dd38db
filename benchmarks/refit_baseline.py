"""Parameters of GFN1-xTB fitted anew, with the trend that learns the rest in the same regression.

    python benchmarks/refit_baseline.py DATA -o gfn1-multibase.json

``DATA`` is the folder of ``general_model.py``, whose labels and some of whose minima are learned
from. Each step is one of Gauss and Newton: energies and forces are linear in the trend's
coefficients and, by differences, in changes of the parameters, so that one ridge regression finds
both and a parameter moves for what the trend cannot learn. The same rows without the trend, at a
small weight ``--rho``, keep the baseline sensible by itself. After each step errors of a fifth of
the compositions, which that fit has not seen, are printed (kcal/mol and eV/Å; the parameters taken
as linear), and then the errors of forces of the new baseline alone. Slopes are kept in ``--cache``:
a run that was ended goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms
from general_model import labels, some, stratum
from joint_regression import Joint, Weights
from off_equilibrium import believed, problem_of
from parameter_slopes import (
    all_slopes,
    force_errors,
    moved,
    parameters_of,
    rounded,
    starting_table,
    units_of,
    values,
)

from ase_knncalc import TrainingSettings
from ase_knncalc.baselines.parameters import Table, read_parameters
from ase_knncalc.data.properties import frequencies_of
from ase_knncalc.labels.training_data import ASSUMED, prepare

META = {
    "format": 1,
    "version": 1,
    "reference": (
        "GFN1-xTB (DOI: 10.1021/acs.jctc.7b00118) with parameters of H, C, N, O, S refitted to "
        "wB97X-D/6-31++G(d,p) forces and energies of atmospheric clusters"
    ),
}


def minima_of(folder: Path, n: int, most_atoms: int) -> list[Atoms]:
    """As many small published minima that are minima, of all compositions in turn."""
    real = [a for a in believed(folder, most_atoms) if not np.any(frequencies_of(a) < 0)]
    return some(real, n)


def refit(
    frames: Sequence[Atoms],
    *,
    environments: int = 400,
    steps: int = 2,
    rho: float = 0.003,
    ridge: float = 0.001,
    n_jobs: int = 2,
    cache: Path | None = None,
) -> Table:
    """Parameters fitted to frames with reference energies; those without forces are minima.

    Prints errors as JSON, a line each: of the baseline alone at first and after each step, and
    before that of the compositions left out.
    """
    settings = TrainingSettings.for_forces(environments=environments, curvature_frames=0)
    settings = replace(settings, sparse=replace(settings.sparse, minima_rows=0))
    sparse = settings.sparse
    weights = Weights(
        rho, ridge, sparse.force_weights[0], sparse.minima_weight, sparse.size_exponent
    )
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    prepared = prepare(
        frames,
        settings=settings,
        baseline="tblite:GFN1-xTB",
        minima=True,
        cache=None if cache is None else cache / "baseline.cache",
        n_jobs=n_jobs,
        progress=True,
    )
    frames = prepared.frames
    taught = [not a.info.get(ASSUMED) and "reference_forces" in a.arrays for a in frames]
    computed = [a for a, label in zip(frames, taught, strict=True) if label]
    strata = [stratum(a) if label else "minima" for a, label in zip(frames, taught, strict=True)]
    problem = problem_of(prepared.data, strata, settings)
    symbols = sorted({s for a in frames for s in a.get_chemical_symbols()})
    start = starting_table(symbols)
    parameters = parameters_of(start)
    table, units = rounded(start), units_of(parameters)
    _tell(step=0, baseline_force_mae=_alone(computed, table, n_jobs))
    for step in range(1, steps + 1):
        found = all_slopes(frames, table, parameters, cache=cache, n_jobs=n_jobs)
        for atoms, slopes in zip(frames, found, strict=True):
            if isinstance(slopes, str):
                _tell(step=step, left_out=atoms.info["name"], reason=slopes)
        changes = (values(table, parameters) - values(start, parameters)) / units
        joint = Joint.of(problem, frames, found, changes, weights)
        for row in joint.judged():
            _tell(step=step, **row)
        changes = joint.parameters()
        table = rounded(moved(start, parameters, changes))
        _tell(
            step=step,
            baseline_force_mae=_alone(computed, table, n_jobs),
            root_mean_square_change=float(np.sqrt(np.mean(changes**2))),
            largest_change=float(np.abs(changes).max()),
        )
    return table


def _alone(frames: Sequence[Atoms], table: Table, n_jobs: int) -> float:
    return float(force_errors(frames, table, n_jobs=n_jobs).mean())


def _tell(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def main(
    folder: Annotated[Path, typer.Argument(metavar="DATA")],
    output: Annotated[Path, typer.Option("-o", "--output")],
    n_minima: Annotated[int, typer.Option("--minima")] = 500,
    most_atoms: int = 24,
    environments: int = 400,
    steps: int = 2,
    rho: Annotated[float, typer.Option(help="weight of rows without the trend")] = 0.003,
    ridge: Annotated[float, typer.Option(help="on changes of parameters, in units")] = 0.001,
    jobs: int = 2,
    cache: Path = Path("refit_baseline.cache"),
    name: str = "GFN1-multibase",
) -> None:
    """Fit, and write the parameters as JSON that `baseline="tblite:FILE"` takes."""
    table = refit(
        minima_of(folder, n_minima, most_atoms) + labels(),
        environments=environments,
        steps=steps,
        rho=rho,
        ridge=ridge,
        n_jobs=jobs,
        cache=cache,
    )
    output.write_text(json.dumps({**table, "meta": {**META, "name": name}}))
    # As tblite itself has them complete.
    output.write_text(json.dumps(read_parameters(str(output)), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    typer.run(main)
