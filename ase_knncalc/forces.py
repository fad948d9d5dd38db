"""Forces in the training of the sparse trend.

A trend that is linear in its coefficients has forces that are, too: each force component is one
more row of the same least-squares problem. Rows are made frame by frame and kept only as sums, so
that memory does not grow with the number of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ase_knncalc.descriptors import Descriptor
from ase_knncalc.kernels import gaussian
from ase_knncalc.regression import RidgeFit, RidgeProblem

FloatArray = np.ndarray
IntArray = np.ndarray

# Frames on which weights are compared.
_JUDGED = 100


@dataclass(frozen=True)
class ForceLabels:
    """Δ forces of some of the training structures.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Which training structures.
    numbers, positions : list of ndarray
        Of each, shapes (n_atoms,) and (n_atoms, 3), Å.
    delta : list of ndarray
        Reference minus baseline forces, eV/Å, shape (n_atoms, 3).
    """

    rows: IntArray
    numbers: list[IntArray]
    positions: list[FloatArray]
    delta: list[FloatArray]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: IntArray) -> ForceLabels:
        """Labels of a selection of the training structures, renumbered."""
        place = {int(i): new for new, i in enumerate(indices)}
        keep = [j for j, row in enumerate(self.rows) if int(row) in place]
        order = sorted(keep, key=lambda j: place[int(self.rows[j])])
        return ForceLabels(
            np.array([place[int(self.rows[j])] for j in order], dtype=np.intp),
            [self.numbers[j] for j in order],
            [self.positions[j] for j in order],
            [self.delta[j] for j in order],
        )


Rows = Callable[[IntArray, FloatArray], FloatArray]


def force_rows(
    descriptor: Descriptor,
    elements: Sequence[int],
    project: Callable[[int, FloatArray], FloatArray],
    maps: Sequence[FloatArray],
    points: Sequence[FloatArray],
    whiteners: Sequence[FloatArray],
) -> Rows:
    """Function that gives the force rows of a structure, shape (3 n_atoms, n_columns).

    Parameters
    ----------
    descriptor
        With derivatives.
    elements
        Atomic numbers, ascending.
    project
        Environments of an element (by its place) in units of the length scale.
    maps
        The linear part of ``project`` for each element, shape (n_features, rank).
    points, whiteners
        Inducing environments of each element and their whitening.
    """
    widths = [w.shape[1] for w in whiteners]
    starts = np.concatenate([[0], np.cumsum(widths)])

    def rows(numbers: IntArray, positions: FloatArray) -> FloatArray:
        local, derivative = descriptor.local_with_gradient(numbers, positions)
        n = len(numbers)
        out = np.zeros((3 * n, starts[-1]))
        for e, number in enumerate(elements):
            atoms = np.flatnonzero(np.asarray(numbers) == number)
            if not len(atoms) or not widths[e]:
                continue
            z = project(e, local[atoms])
            kernel = gaussian(z, points[e])
            slope = np.zeros((3 * n, len(points[e])))
            for i, atom in enumerate(atoms):
                moved = derivative[atom].reshape(local.shape[1], 3 * n).T @ maps[e]
                # d k(z_i, p)/dR = k (p − z_i) · dz_i/dR
                slope += (moved @ points[e].T - (moved @ z[i])[:, None]) * kernel[i]
            out[:, starts[e] : starts[e + 1]] = -(slope @ whiteners[e])
        return out

    return rows


def accumulate(labels: ForceLabels, rows: Rows, n_columns: int) -> tuple[FloatArray, FloatArray]:
    """Gram matrix and right-hand side of all force rows with weight 1."""
    gram = np.zeros((n_columns, n_columns))
    target = np.zeros(n_columns)
    for numbers, positions, delta in zip(
        labels.numbers, labels.positions, labels.delta, strict=True
    ):
        block = rows(numbers, positions)
        gram += block.T @ block
        target += block.T @ np.ravel(delta)
    return gram, target


def leave_frames_out(
    labels: ForceLabels,
    rows: Rows,
    problem: RidgeProblem,
    fit: RidgeFit,
    weight: float,
    which: Sequence[int] | IntArray,
) -> tuple[FloatArray, FloatArray]:
    """Residuals of energy and forces of frames from fits without any of their rows.

    Parameters
    ----------
    which
        Places in ``labels``.

    Returns
    -------
    energy : ndarray, shape (len(which),)
        eV.
    forces : ndarray, shape (n_components,)
        All of them in one row, eV/Å.
    """
    energies, forces = [], [np.zeros(0)]
    for j in which:
        energy, force = problem.leave_block_out(
            fit,
            int(labels.rows[j]),
            rows(labels.numbers[j], labels.positions[j]),
            np.ravel(labels.delta[j]),
            weight,
        )
        energies.append(energy)
        forces.append(force)
    return np.array(energies), np.concatenate(forces)


def fit_with_forces(
    make_problem: Callable[[tuple[FloatArray, FloatArray] | None], RidgeProblem],
    labels: ForceLabels,
    rows: Rows,
    n_columns: int,
    penalties: Sequence[float],
    weights: Sequence[float],
    seed: int,
) -> tuple[RidgeFit, dict[str, Any]]:
    """Weight of forces against energies, and the penalty, by cross-validation.

    The candidate with the lowest sum of energy and force error, each relative to the best that
    any candidate reached, wins; it is judged on a sample of the frames with forces, each left out
    with all its rows.

    Returns
    -------
    fit
        Of the best candidate. Cross-validated residuals of frames with forces are from fits
        without their forces.
    details
        Weight, penalty and cross-validated force error (eV/Å).
    """
    gram, target = accumulate(labels, rows, n_columns)
    rng = np.random.default_rng(seed)
    judged = np.sort(rng.permutation(len(labels))[:_JUDGED])
    found = []
    for weight in weights:
        problem = make_problem((weight * gram, weight * target))
        fit = problem.best(penalties)
        energy, forces = leave_frames_out(labels, rows, problem, fit, weight, judged)
        energy_error = float(np.abs(energy).mean() + np.abs(fit.leave_one_out).mean())
        found.append((energy_error, float(np.abs(forces).mean()), weight, fit, problem))
    best_energy, best_force = min(f[0] for f in found), min(f[1] for f in found)
    _, force_error, weight, fit, problem = min(
        found, key=lambda f: f[0] / best_energy + f[1] / best_force
    )
    del found
    energy, _ = leave_frames_out(labels, rows, problem, fit, weight, range(len(labels)))
    one_out, group_out = fit.leave_one_out.copy(), fit.leave_group_out.copy()
    one_out[labels.rows] = energy
    # Without the group there is at least the frame missing: never better than without the frame.
    worse = np.abs(energy) > np.abs(group_out[labels.rows])
    group_out[labels.rows[worse]] = energy[worse]
    details = {
        "penalty": fit.penalty,
        "force_weight": weight,
        "force_mae": force_error,
        "force_frames": len(labels),
    }
    return replace(fit, leave_one_out=one_out, leave_group_out=group_out), details
