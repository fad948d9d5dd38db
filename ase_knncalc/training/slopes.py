"""Rows that say that what was learned at minima alone changes little where atoms move.

Labels at minima say nothing of slopes, and bonds hardly differ among minima: what fits them best
may change wildly as bonds stretch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.descriptors import Descriptor
from ase_knncalc.trend.environments import Environments


def random_slopes(
    environments: Environments,
    whiteners: Sequence[FloatArray],
    descriptor: Descriptor,
    frames: Sequence[Atoms],
    seed: int,
) -> FloatArray:
    """Derivatives of whitened sums of kernels, each frame's atoms moved once, all at random.

    Parameters
    ----------
    environments, whiteners
        Of the sums.
    descriptor
        Of the environments.
    frames
        Structures.
    seed
        Of displacements: normal, with a standard deviation of 1 for each coordinate.

    Returns
    -------
    ndarray, shape (n, n_columns)
    """
    rng = np.random.default_rng(seed)
    found = np.empty((len(frames), sum(w.shape[1] for w in whiteners)))
    for row, atoms in zip(found, frames, strict=True):
        moving = descriptor.moving(atoms.numbers, atoms.positions)
        step = rng.normal(size=(1, len(atoms), 3))
        (sums,) = environments.slopes_along(atoms.numbers, moving, step, "float64")
        row[:] = np.concatenate(
            [sums[b] @ w for b, w in zip(environments.blocks, whiteners, strict=True)]
        )
    return found
