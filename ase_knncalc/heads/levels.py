"""Further levels of theory: what they differ from the reference by, a smooth sum over atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ase_knncalc._lib.arguments import similar
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.threads import one_blas_thread
from ase_knncalc.descriptors import Descriptor, FeatureBatch, MovingRows
from ase_knncalc.errors import FormulaError, SettingsError
from ase_knncalc.heads.head import Head, Heads
from ase_knncalc.trend.base import composition_columns


@dataclass(frozen=True)
class LevelCorrection:
    """Difference of a level of theory to the reference.

    Attributes
    ----------
    energy, std : float
        eV.
    novelty : float
        1 at the 99th percentile of the structures that the level was learned from.
    forces : ndarray, shape (n_atoms, 3), or None
        Its negative gradient, eV/Å, where asked for. Learned from energies alone.
    """

    energy: float
    std: float
    novelty: float
    forces: FloatArray | None = None


def require_level(heads: Heads | None, name: str) -> Head:
    """The head of that level.

    Raises
    ------
    SettingsError
        If there is none.
    """
    known: dict[str, Head] = {h.name: h for h in heads or () if h.kind == "level"}
    if name not in known:
        raise SettingsError(
            f"the model has no level of theory {name!r} beside its reference"
            f"{similar(name, known) if known else ''}; of the shipped models, multibase-wb97xd has "
            "dlpno"
        )
    return known[name]


def level_correction(
    name: str, heads: Heads | None, batch: FeatureBatch, moving: MovingRows | None = None
) -> LevelCorrection:
    """What a level differs from the reference by at one structure.

    Parameters
    ----------
    batch
        Of the structure alone; kernels that it keeps are not computed again.
    moving
        Its rows and what moves them, where forces are wanted.

    Raises
    ------
    SettingsError
        If there is no such level.
    FormulaError
        If the formula is no combination of those that the level was learned from.
    """
    head = require_level(heads, name)
    assert heads is not None
    if not head.determines(composition_columns(batch, heads.environments.elements)[0]):
        raise FormulaError(
            f"the formula is no combination of those with {name} energies, so that nothing "
            "determines what its elements and charge add at that level"
        )
    own, few = heads.alone(name)
    found = own.evaluate(batch)[name]
    pulled = None
    if moving is not None:
        slopes = few.pulled(next(few.kernels(batch)), head.coefficients[:, 0])
        pulled = -moving.pull(slopes)
    return LevelCorrection(
        float(found.values[0, 0]), float(found.stds[0, 0]), float(found.novelty[0]), pulled
    )


def level_of(
    name: str,
    heads: Heads | None,
    descriptor: Descriptor,
    structure: tuple[IntArray, FloatArray, int],
    *,
    forces: bool = False,
) -> LevelCorrection:
    """:func:`level_correction` of numbers (n_atoms,), positions (n_atoms, 3) in Å and charge."""
    numbers, positions, charge = structure
    with one_blas_thread():
        moving = descriptor.moving(np.asarray(numbers), positions)
        batch = FeatureBatch.of_one(descriptor, numbers, moving.rows, charge)
        return level_correction(name, heads, batch, moving if forces else None)
