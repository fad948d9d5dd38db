"""Dipoles: the equations of :mod:`ase_knncalc.heads.dipole`, solved for magnitudes.

Labels at minima say nothing of slopes, and bonds hardly differ among minima: what fits them best
has charges that change wildly as bonds stretch. So there are rows, too, that say that charges stay
where atoms move a little: slopes are then those of the baseline and of fixed charges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc.baselines import Baseline, make_baseline
from ase_knncalc.descriptors import Descriptor, FeatureBatch, featurize
from ase_knncalc.errors import BaselineError
from ase_knncalc.heads.dipole import arms, baseline_dipole, directions, element_arms, moments
from ase_knncalc.structure import resolve_charge
from ase_knncalc.trend.environments import Environments

BROUGHT = "baseline_dipole"
"""In ``info``: the baseline's dipole about the centre of nuclear charge, e Å."""

# Steps along directions that are found anew; they settle in three.
_STEPS = 4

# Å, of finite differences.
_SHIFT = 0.01
# Structures that are described at a time.
_TOGETHER = 64


def baseline_dipoles(
    frames: Sequence[Atoms],
    baseline: Baseline | None,
    *,
    n_jobs: int = -1,
    progress: bool = False,
) -> FloatArray:
    """Of the baseline, e Å, shape (n, 3); NaN where it fails.

    Frames may bring theirs in ``info["baseline_dipole"]``.
    """
    found = np.full((len(frames), 3), np.nan)
    missing = []
    for i, atoms in enumerate(frames):
        if BROUGHT in atoms.info:
            found[i] = atoms.info[BROUGHT]
        else:
            missing.append(i)
    if not missing:
        return found
    if baseline is None or not baseline.is_repeatable:
        n_jobs = 1
    spec = None if baseline is None or n_jobs == 1 else baseline.spec()
    jobs = [
        (spec or baseline, Atoms(frames[i].numbers, frames[i].positions), resolve_charge(frames[i]))
        for i in missing
    ]
    made = track(
        run(_dipole, jobs, total=len(jobs), n_jobs=n_jobs),
        total=len(jobs), text="dipoles of the baseline", show=progress,
    )  # fmt: skip
    for i, dipole in zip(missing, made, strict=True):
        if dipole is not None:
            found[i] = dipole
    return found


def _dipole(
    described: Baseline | dict[str, str] | None, atoms: Atoms, state: tuple[int, int]
) -> FloatArray | None:
    baseline = make_baseline(described) if isinstance(described, dict) else described
    if baseline is None:
        return baseline_dipole(None, atoms, *state)
    try:
        return baseline_dipole(baseline, atoms, *state)
    except BaselineError:
        if baseline.is_repeatable:
            return None
        raise


@dataclass(frozen=True)
class DipoleProblem:
    """Rows of dipoles: the baseline's, and what each coefficient adds.

    Attributes
    ----------
    base : ndarray, shape (n, 3)
        e Å.
    columns : ndarray, shape (n, 3, p)
        Of each element its arms, then whitened moments.
    magnitudes : ndarray, shape (n,)
        e Å.
    slopes : ndarray, shape (n, 3, p)
        Weighted :func:`charge_slopes`, which are to be small.
    """

    base: FloatArray
    columns: FloatArray
    magnitudes: FloatArray
    slopes: FloatArray

    def vectors(self, coefficients: FloatArray, rows: IntArray | slice = slice(None)) -> FloatArray:
        """Dipoles of some structures, e Å, shape (m, 3)."""
        return np.asarray(self.base[rows] + self.columns[rows] @ coefficients)

    def solve(self, penalty: float, rows: IntArray) -> FloatArray:
        """Coefficients from some structures, shape (p,)."""
        coefficients = np.zeros(self.columns.shape[2])
        slopes = self.slopes[rows].reshape(-1, len(coefficients))
        damping = slopes.T @ slopes
        damping[np.diag_indices_from(damping)] += penalty
        for _ in range(_STEPS):
            along = directions(self.vectors(coefficients, rows))
            design = np.einsum("nx,nxp->np", along, self.columns[rows])
            target = self.magnitudes[rows] - np.einsum("nx,nx->n", along, self.base[rows])
            coefficients = np.linalg.solve(design.T @ design + damping, design.T @ target)
        return coefficients

    def left_out(self, penalty: float, folds: IntArray) -> FloatArray:
        """Magnitude minus label of each structure by the fit without its fold, (n,)."""
        errors = np.empty(len(self.magnitudes))
        for fold in np.unique(folds):
            members = np.flatnonzero(folds == fold)
            fit = self.solve(penalty, np.flatnonzero(folds != fold))
            sizes = np.linalg.norm(self.vectors(fit, members), axis=1)
            errors[members] = sizes - self.magnitudes[members]
        return errors


def dipole_columns(
    environments: Environments,
    whiteners: Sequence[FloatArray],
    batch: FeatureBatch,
    positions: Sequence[FloatArray],
) -> FloatArray:
    """What each coefficient of a dipole adds, shape (n, 3, n_elements + Σ columns)."""
    own = np.concatenate([arms(p) for p in positions])
    of_elements = element_arms(batch, environments.elements, own)
    n_elements = len(environments.elements)
    found = np.empty((len(batch), 3, n_elements + sum(w.shape[1] for w in whiteners)))
    found[:, :, :n_elements] = of_elements
    for block in environments.kernels(batch):
        tables = moments(block, own[batch.atoms_of(block.rows)])
        found[block.rows, :, n_elements:] = np.concatenate(
            [t @ w for t, w in zip(tables, whiteners, strict=True)], axis=2
        )
    return found


def charge_slopes(
    environments: Environments,
    whiteners: Sequence[FloatArray],
    descriptor: Descriptor,
    frames: Sequence[Atoms],
    seed: int,
) -> FloatArray:
    """What coefficients add to a dipole by charges that change, as all atoms move at random.

    Parameters
    ----------
    environments, whiteners
        As for :func:`dipole_columns`.
    descriptor
        Of the environments.
    frames
        Structures.
    seed
        Of displacements: normal, with a standard deviation of 1 for each coordinate.

    Returns
    -------
    ndarray, shape (n, 3, n_elements + Σ columns)
        Derivatives along the displacements.
    """
    rng = np.random.default_rng(seed)
    found = []
    for first in range(0, len(frames), _TOGETHER):
        part = frames[first : first + _TOGETHER]
        steps = [_SHIFT * rng.normal(size=(len(atoms), 3)) for atoms in part]
        here = [atoms.positions for atoms in part]
        there, back = (
            featurize(
                descriptor,
                [
                    (a.numbers, a.positions + sign * step, 0)
                    for a, step in zip(part, steps, strict=True)
                ],
            )
            for sign in (1.0, -1.0)
        )
        # The arms stay as they are: what moves is charges.
        ends = (dipole_columns(environments, whiteners, batch, here) for batch in (there, back))
        found.append((next(ends) - next(ends)) / (2.0 * _SHIFT))
    return np.concatenate(found)
