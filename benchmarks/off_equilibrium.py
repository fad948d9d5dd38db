"""What weights, penalties and the number of labels bring away from minima, compositions left out.

    python benchmarks/off_equilibrium.py                  # labels that the project ships, alone
    python benchmarks/off_equilibrium.py --data DATA      # with published minima, as the model has

Rows of energies and forces are made once; every line of the table is then five solutions of the
normal equations, each without a fifth of the compositions, judged on those. ``--data`` is the
folder of ``general_model.py``. The learning curve takes compositions of the labels in a random
order, so that a point of it knows nothing at all of the others. Shares of the sharper Gaussian in
the kernel change the rows, which are made anew. Metrics of environments are judged on the one fold
that they have not seen, and the first of them, of exponent 0, is none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms
from general_model import (
    BASELINE,
    KCAL_PER_MOL,
    labels,
    minima,
    monomers,
    some,
    stratum,
    without_baseline,
)

from ase_knncalc import TrainingSettings, load_model
from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.labels.training_data import ASSUMED, TrainingData, prepare
from ase_knncalc.trend.base import composition_columns
from ase_knncalc.trend.choice import choose_environments
from ase_knncalc.trend.force_fit import folds_of
from ase_knncalc.trend.force_rows import ForceRows
from ase_knncalc.trend.kernels import FORCES_FLOOR
from ase_knncalc.trend.normal_equations import FoldSums, NormalEquations
from ase_knncalc.trend.sparse import size_weights
from ase_knncalc.trend.sparse_fit import learned_roots

FOLDS = 5
SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)
WEIGHTS = (0.01, 0.03, 0.1, 0.3)
PENALTIES = (1e-4, 3e-4, 1e-3)
MINIMA_WEIGHTS = (1.0, 0.3, 0.1, 0.03)
SIZE_EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)
SHARP_SHARES = (0.0, 0.03, 0.1, 0.3)
METRIC_EXPONENTS = (0.0, 0.25, 0.5, 1.0)
JUDGED_MINIMA = 250
# By whether they have more atoms than this.
SMALL = 24
MINIMA = {False: f"minima up to {SMALL} atoms", True: "larger minima"}


@dataclass(frozen=True)
class Components:
    """Force components: columns (n, n_columns), Δ forces (eV/Å) and structures, (n,) both."""

    rows: FloatArray
    targets: FloatArray
    owners: IntArray


@dataclass(frozen=True)
class Problem:
    """All rows of the regression, kept in memory.

    Attributes
    ----------
    free, columns, delta, weights, folds : ndarray
        Of the n energies.
    strata : ndarray of str, shape (n,)
    labelled : ndarray of bool, shape (n,)
        Whether forces were computed.
    groups : ndarray of str, shape (n,)
    sizes : ndarray of int, shape (n,)
    forces, judged : Components
        What is taught, and all components of a sample of the minima.
    """

    free: FloatArray
    columns: FloatArray
    delta: FloatArray
    weights: FloatArray
    folds: IntArray
    strata: Any
    labelled: BoolArray
    groups: Any
    sizes: IntArray
    forces: Components
    judged: Components

    def equations(
        self, minima_weight: float, size_exponent: float, known: BoolArray
    ) -> NormalEquations:
        """Of all minima, and of the labels the ``known`` ones alone."""
        kept = known | ~self.labelled
        taught = self.forces
        by_size = size_weights(self.sizes, size_exponent)
        kinds = np.where(self.labelled, 1.0, minima_weight)
        root = np.sqrt(kinds * by_size)[taught.owners]
        sums = FoldSums.zeros(FOLDS, self.columns.shape[1])
        for fold in range(FOLDS):
            chosen = (self.folds[taught.owners] == fold) & kept[taught.owners]
            scaled = root[chosen].astype(taught.rows.dtype)
            sums.add(fold, taught.rows[chosen] * scaled[:, None], taught.targets[chosen] * scaled)
        return NormalEquations(
            self.free, self.columns, self.delta, self.weights * by_size * kept, self.folds, sums
        )

    def evaluate(
        self,
        equations: NormalEquations,
        force_weight: float,
        penalty: float,
        judged: IntArray,
    ) -> dict[str, dict[str, float]]:
        """Errors of left-out compositions by stratum, of those in the ``judged`` folds."""
        solutions = [equations.solve(force_weight, penalty, fold) for fold in range(FOLDS)]
        energies = np.empty(len(self.delta))
        for fold, solution in enumerate(solutions):
            members = np.flatnonzero(self.folds == fold)
            energies[members] = equations.residuals(solution, members)

        def left_out(of: Components) -> FloatArray:
            errors = np.empty(len(of.targets))
            for fold, solution in enumerate(solutions):
                own = self.folds[of.owners] == fold
                errors[own] = of.targets[own] - of.rows[own] @ solution.coefficients
            return np.abs(errors)

        minima = self.judged, left_out(self.judged)
        forces = dict.fromkeys(MINIMA.values(), minima)
        others = self.forces, left_out(self.forces)
        found = {}
        for name in sorted(set(self.strata)):
            of = (self.strata == name) & np.isin(self.folds, judged)
            parts, errors = forces.get(name, others)
            size = KCAL_PER_MOL * np.abs(energies[of])
            found[name] = {
                "n": int(of.sum()),
                "energy_mae": float(size.mean()),
                "energy_median": float(np.median(size)),
                "force_mae": float(errors[of[parts.owners]].mean()),
            }
        return found


def frames_of(data: Path | None, n: int, most_atoms: int) -> list[Atoms]:
    """Minima that the general model was trained on and did not call false, and labels."""
    return labels() if data is None else some(believed(data, most_atoms), n) + labels()


def believed(data: Path, most_atoms: int) -> list[Atoms]:
    """Small minima that the general model was trained on and did not call false."""
    told = load_model("multibase-wb97xd", baseline=None).info.provenance
    false = {*told.trend["not_minima"], *(o["name"] for o in told.omitted)}
    return [a for a in minima(data) if len(a) <= most_atoms and a.info["name"] not in false]


def problem_of(
    data: TrainingData, strata: list[str], settings: TrainingSettings, exponent: float = 0.0
) -> Problem:
    """Rows of all energies and forces, in a metric of environments that the first fold taught not.

    The exponent 0 is that of no metric.
    """
    assert data.forces is not None
    elements = data.descriptor.elements
    roots = None
    if exponent:
        roots = learned_roots(
            data.batch,
            data.delta,
            elements,
            folds_of(data.groups, len(data), FOLDS) > 0,
            groups=data.groups,
            weights=data.weights,
            settings=replace(settings.sparse, metric_exponent=exponent),
            forces=data.forces,
            seed=0,
            descriptor=data.descriptor,
            n_jobs=2,
        )
    environments = choose_environments(data.batch, elements, settings.sparse, 0, roots)
    whiteners = environments.whiteners(FORCES_FLOOR)
    (columns,) = environments.columns(data.batch, whiteners)
    folds = folds_of(data.groups, len(data), FOLDS)
    one = environments.first(np.ones_like(environments.counts)).whiteners(FORCES_FLOOR)

    every = data.forces

    def components(places: IntArray, most_assumed: int) -> Components:
        if not len(places):
            return Components(np.zeros((0, columns.shape[1])), np.zeros(0), places)
        labels_ = every.take(places)
        rows = ForceRows(
            environments, data.descriptor, whiteners, one, 0, most_assumed, dtype="float32"
        )
        # Frames in their order: each block of them is a fold of its own.
        blocks = list(rows.blocks(labels_, np.arange(len(places)) // 64, 2, places))
        lengths = [
            3 * len(z) if not (assumed and most_assumed) else min(3 * len(z), most_assumed)
            for z, assumed in zip(labels_.numbers, labels_.assumed, strict=True)
        ]
        return Components(
            np.concatenate([block[2] for block in blocks]),
            np.concatenate([block[4] for block in blocks]),
            np.repeat(labels_.rows, lengths),
        )

    assumed = np.flatnonzero(every.assumed)
    sample = np.sort(np.random.default_rng(1).permutation(assumed)[:JUDGED_MINIMA])
    return Problem(
        composition_columns(data.batch, data.descriptor.elements),
        np.asarray(columns[:]),
        data.delta,
        data.weights,
        folds,
        np.array(strata),
        every.computed(len(data)),
        np.array(data.groups),
        data.batch.sizes,
        components(np.arange(len(every)), settings.sparse.minima_rows),
        components(sample, 0),
    )


def main(
    data: Annotated[Path | None, typer.Option(help="folder of published minima")] = None,
    n_minima: Annotated[int, typer.Option("--minima")] = 1500,
    most_atoms: int = 60,
    environments: int = 400,
    baseline: str = BASELINE,
    output: Path | None = None,
) -> None:
    """Print the table, a line for each choice."""
    settings = TrainingSettings.for_forces(environments=environments, curvature_frames=0)
    prepared = prepare(
        without_baseline(frames_of(data, n_minima, most_atoms)),
        baseline=baseline,
        settings=settings,
        monomers=monomers(data) if data else None,
        minima=True,
        progress=True,
    )
    strata = [
        MINIMA[len(a) > SMALL]
        if a.info.get(ASSUMED) or "reference_forces" not in a.arrays
        else stratum(a)
        for a in prepared.frames
    ]
    problem = problem_of(prepared.data, strata, settings)
    names = np.random.default_rng(0).permutation(sorted(set(problem.groups[problem.labelled])))
    usual = {
        "force_weight": settings.sparse.force_weights[0],
        "penalty": settings.sparse.penalties[0],
        "minima_weight": settings.sparse.minima_weight,
        "size_exponent": settings.sparse.size_exponent,
    }
    choices: list[tuple[str, dict[str, Any]]] = [
        *(("force weight", {"force_weight": w}) for w in WEIGHTS),
        *(("penalty", {"penalty": p}) for p in PENALTIES),
        *(("minima weight", {"minima_weight": w}) for w in MINIMA_WEIGHTS if data),
        *(("size exponent", {"size_exponent": p}) for p in SIZE_EXPONENTS if data),
        *(("labels", {"share": s}) for s in SHARES if data or s > 0),
    ]
    table: list[dict[str, Any]] = []

    def keep(what: str, options: dict[str, Any], strata: dict[str, Any], **more: Any) -> None:
        table.append({"what": what, **options, **more, "strata": strata})
        print(json.dumps(table[-1]), flush=True)
        if output is not None:
            output.write_text(json.dumps(table, indent=1) + "\n")

    made: tuple[Any, NormalEquations] | None = None
    for what, chosen in choices:
        options = usual | chosen
        share = options.pop("share", 1.0)
        known = np.isin(problem.groups, names[: round(share * len(names))]) & problem.labelled
        # Weight of forces and penalty are choices of the solution: the equations stay.
        weights = options["minima_weight"], options["size_exponent"]
        if made is None or made[0] != (weights, share):
            made = (weights, share), problem.equations(*weights, known)
        found = problem.evaluate(
            made[1], options["force_weight"], options["penalty"], np.arange(FOLDS)
        )
        keep(what, options, found, labels=int(known.sum()))

    def keep_of(problem: Problem, folds: int, what: str, **more: float) -> None:
        equations = problem.equations(
            usual["minima_weight"], usual["size_exponent"], problem.labelled
        )
        found = problem.evaluate(
            equations, usual["force_weight"], usual["penalty"], np.arange(folds)
        )
        keep(what, usual, found, **more)

    for share in SHARP_SHARES:
        sharp = replace(settings, sparse=replace(settings.sparse, sharp_share=share))
        keep_of(problem_of(prepared.data, strata, sharp), FOLDS, "sharp share", sharp_share=share)
    for exponent in METRIC_EXPONENTS:
        if exponent:  # the rows above are those of 0
            problem = problem_of(prepared.data, strata, settings, exponent)
        keep_of(problem, 1, "metric exponent", metric_exponent=exponent)


if __name__ == "__main__":
    typer.run(main)
