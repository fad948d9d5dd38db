"""One ridge regression of the trend's coefficients and of changes of the baseline's parameters.

Energies and forces are linear in the trend's coefficients and, with slopes at the parameters as
they are, in their changes: a parameter moves for what the trend cannot learn. The same rows without
the trend, at a small weight, keep the baseline sensible by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from general_model import KCAL_PER_MOL
from off_equilibrium import Problem
from parameter_slopes import Slopes

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.trend.normal_equations import FREE_SCALE, FoldSums, damped
from ase_knncalc.trend.sparse import size_weights

# Of the trend's coefficients.
PENALTY = 1e-4
# The fold of compositions that a fit is judged on.
JUDGED = 0
BLOCK_ROWS = 6000


@dataclass(frozen=True)
class Weights:
    """How much what counts, against 1 for an energy of a label.

    Attributes
    ----------
    rho : float
        Of the rows without the trend.
    ridge : float
        On the square of all changes of a parameter since GFN1-xTB, in its units.
    force : float
        Of a force component.
    minima : float
        Of a zero force of a minimum, against a computed one.
    size_exponent : float
        Weights of minima fall with their size by it.
    """

    rho: float
    ridge: float
    force: float
    minima: float
    size_exponent: float


@dataclass(frozen=True)
class Joint:
    """Regression of the trend's coefficients and of the changes of parameters.

    Attributes
    ----------
    problem : Problem
        Rows of the trend; its own targets, those of GFN1-xTB, are not used.
    energies, forces : ndarray, shapes (n, 2) and (n_components, 2)
        Reference minus baseline, as if no parameter had been changed, which is linear in all
        changes; and with those made so far. Of energies what the composition does not tell.
    energy_slopes, force_slopes : ndarray, shapes (n, p) and (n_components, p)
        Of the baseline by the parameters, in units that give their changes the trend's penalty.
    known : ndarray of bool, shape (n,)
        Structures that there are slopes of.
    changes : ndarray, shape (p,)
        Made so far, in these units.
    weights : Weights
    """

    problem: Problem
    energies: FloatArray
    forces: FloatArray
    energy_slopes: FloatArray
    force_slopes: FloatArray
    known: BoolArray
    changes: FloatArray
    weights: Weights

    @classmethod
    def of(
        cls,
        problem: Problem,
        frames: Sequence[Atoms],
        found: Sequence[Slopes | str],
        changes: FloatArray,
        weights: Weights,
    ) -> Joint:
        """With slopes at the changes made so far, in units of change."""
        known = np.array([not isinstance(s, str) for s in found])
        kept: list[Slopes] = [
            _no_slopes(len(a), len(changes)) if isinstance(s, str) else s
            for a, s in zip(frames, found, strict=True)
        ]
        scale = np.sqrt(PENALTY / weights.ridge)
        changes = changes / scale
        # Components are those of all frames with forces, in the order of frames.
        owners = np.unique(problem.forces.owners)
        by_energy = scale * np.array([s.of_energy for s in kept])
        by_force = scale * np.concatenate([kept[i].of_forces for i in owners]).astype(np.float32)
        energy = np.array(
            [a.info["reference_energy"] - s.energy for a, s in zip(frames, kept, strict=True)]
        )
        force = np.concatenate(
            [np.ravel(frames[i].arrays["reference_forces"]) - kept[i].forces for i in owners]
        )
        both = np.column_stack([energy + by_energy @ changes, energy, by_energy])
        free = problem.free
        both -= free @ np.linalg.lstsq(free[known], both[known], rcond=None)[0]
        forces = np.column_stack([force + by_force @ changes, force])
        return cls(problem, both[:, :2], forces, both[:, 2:], by_force, known, changes, weights)

    @cached_property
    def sums(self) -> tuple[FoldSums, FoldSums]:
        """Products of rows with the trend, and of those without: of the judged fold, and others.

        Columns are free ones, those of the trend, and slopes.
        """
        of, w = self.problem, self.weights
        owners = of.forces.owners
        n_free, n_slopes = of.free.shape[1], len(self.changes)
        size = np.where(of.labelled, 1.0, size_weights(of.sizes, w.size_exponent)) * self.known
        of_force = w.force * np.where(of.labelled, 1.0, w.minima) * size
        free = FREE_SCALE * of.free
        none = np.zeros((BLOCK_ROWS, n_free), dtype=np.float32)

        def add(
            sums: FoldSums,
            targets: FloatArray,
            weight: FloatArray,
            rows: Callable[[IntArray], list[FloatArray]],
            owners: IntArray,
        ) -> None:
            root = np.sqrt(weight)[owners]
            judged = of.folds[owners] == JUDGED
            for fold in (0, 1):
                places = np.flatnonzero((judged == (fold == 0)) & (root > 0))
                for lot in np.split(places, range(BLOCK_ROWS, len(places), BLOCK_ROWS)):
                    if not len(lot):
                        continue
                    row = np.hstack(rows(lot))
                    scale = root[lot, None].astype(row.dtype)
                    sums.add(fold, scale * row, scale * targets[lot])

        with_trend = FoldSums.zeros(2, n_free + of.columns.shape[1] + n_slopes, 2)
        alone = FoldSums.zeros(2, n_free + n_slopes, 2)
        every = np.arange(len(size))
        add(
            with_trend,
            self.energies,
            size,
            lambda lot: [free[lot], of.columns[lot], self.energy_slopes[lot]],
            every,
        )
        add(
            with_trend,
            self.forces,
            of_force,
            lambda lot: [none[: len(lot)], of.forces.rows[lot], self.force_slopes[lot]],
            owners,
        )
        add(
            alone,
            self.energies,
            w.rho * self.known,
            lambda lot: [free[lot], self.energy_slopes[lot]],
            every,
        )
        add(
            alone,
            self.forces,
            w.rho * w.force * (of.labelled & self.known),
            lambda lot: [none[: len(lot)], self.force_slopes[lot]],
            owners,
        )
        return with_trend, alone

    def solve(self, folds: list[int], *, parameters: bool) -> tuple[FloatArray, FloatArray]:
        """Coefficients of free columns and trend, and all changes of the parameters.

        Parameters
        ----------
        folds
            Which of the sums: 0 is the judged fold, 1 all others.
        parameters
            Whether parameters move; otherwise their changes are those made so far.
        """
        with_trend, alone = self.sums
        n_free, n_slopes = self.problem.free.shape[1], len(self.changes)
        n_trend = with_trend.grams.shape[1] - n_slopes
        gram, target = (x[folds].sum(axis=0) for x in (with_trend.grams, with_trend.targets))
        if not parameters:
            _, found, _ = damped(
                lambda: gram[:n_trend, :n_trend].copy(), target[:n_trend, 1], PENALTY, "the trend"
            )
            return found, self.changes
        own, own_target = (x[folds].sum(axis=0) for x in (alone.grams, alone.targets))
        # Free columns, the trend, free columns of the rows without it, slopes.
        size = n_trend + n_free + n_slopes
        places = np.r_[:n_trend, n_trend + n_free : size]

        def matrix() -> FloatArray:
            both = np.zeros((size, size))
            both[np.ix_(places, places)] = gram
            both[n_trend:, n_trend:] += own
            return both

        right = np.zeros(size)
        right[places] = target[:, 0]
        right[n_trend:] += own_target[:, 0]
        _, found, _ = damped(matrix, right, PENALTY, "trend and parameters")
        return found[:n_trend], found[-n_slopes:]

    def parameters(self) -> FloatArray:
        """All changes of the parameters, in their units, by everything that is known, (p,)."""
        changes = self.solve([0, 1], parameters=True)[1]
        return np.asarray(np.sqrt(PENALTY / self.weights.ridge) * changes)

    def errors(self, coefficients: FloatArray, changes: FloatArray) -> tuple[FloatArray, ...]:
        """Magnitudes, of energies (eV, (n,)) and of force components (eV/Å, (n_components,))."""
        of = self.problem
        n_free = of.free.shape[1]
        free, trend = FREE_SCALE * coefficients[:n_free], coefficients[n_free:]
        energies = of.free @ free + of.columns @ trend + self.energy_slopes @ changes
        forces = of.forces.rows @ trend.astype(np.float32) + self.force_slopes @ changes
        return np.abs(self.energies[:, 0] - energies), np.abs(self.forces[:, 0] - forces)

    def judged(self) -> list[dict[str, Any]]:
        """Errors in the judged fold of fits without it, kcal/mol and eV/Å, by stratum."""
        of = self.problem
        inside = (of.folds == JUDGED) & self.known
        ways = {"trend": False, "trend and parameters": True}
        found = {w: self.errors(*self.solve([1], parameters=p)) for w, p in ways.items()}
        table = []
        for name in sorted(set(of.strata[inside])):
            own = inside & (of.strata == name)
            row: dict[str, Any] = {"left out": str(name), "n": int(own.sum())}
            for way, (energies, forces) in found.items():
                row[way] = {
                    "energy_mae": float(KCAL_PER_MOL * energies[own].mean()),
                    "energy_median": float(KCAL_PER_MOL * np.median(energies[own])),
                    "force_mae": float(forces[own[of.forces.owners]].mean()),
                }
            table.append(row)
        return table


def _no_slopes(n_atoms: int, n_parameters: int) -> Slopes:
    n = 3 * n_atoms
    return Slopes(0.0, np.zeros(n), np.zeros(n_parameters), np.zeros((n, n_parameters)))
