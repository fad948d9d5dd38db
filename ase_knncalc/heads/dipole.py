"""Dipole moments: the baseline's, and a correction that turns with the molecule.

    μ(x) = μ_base(x) + Σ_i q_i (r_i − c_i),   q_i = o_Z(i) + Σ_m w_m k(x_i, z_m)

c_i is the centre of what surrounds atom i, with weights that fade to zero: what atom i gains in
charge, its surroundings lose, so that the total charge stays and nothing depends on the origin. The
correction is linear in o and w. Labels are magnitudes alone, in which it is not: the problem is
solved in steps, each along the direction that the step before has found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms, units

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.threads import one_blas_thread
from ase_knncalc.baselines import Baseline
from ase_knncalc.descriptors import Descriptor, FeatureBatch, featurize
from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.heads.head import Head, Heads
from ase_knncalc.trend.environments import Environments
from ase_knncalc.trend.kernels import KernelBlock

DEBYE = units.Debye
"""e Å."""

# Å, beyond which nothing belongs to the surroundings of an atom.
_REACH = 4.5


@dataclass(frozen=True)
class Dipole:
    """Dipole moment of one structure, or what corrects the baseline's.

    Attributes
    ----------
    value : ndarray, shape (3,)
        e Å; of an ion with the centre of nuclear charge as origin.
    std : float
        Calibrated standard deviation of the dipole's magnitude, e Å.
    novelty : float
        1 at the 99th percentile of held-out training structures.
    multiple : float
        Standard deviations on either side of the magnitude that hold it with a probability of 90 %.
    """

    value: FloatArray
    std: float
    novelty: float
    multiple: float

    @property
    def magnitude(self) -> float:
        """Length, e Å."""
        return float(np.linalg.norm(self.value))


def arms(positions: FloatArray) -> FloatArray:
    """From the centre of its surroundings to each atom, Å, shape (n_atoms, 3)."""
    gaps = positions[None, :, :] - positions[:, None, :]
    distances = np.sqrt(np.einsum("ijx,ijx->ij", gaps, gaps))
    weights = np.where(
        distances < _REACH, 0.5 + 0.5 * np.cos(np.pi * np.minimum(distances / _REACH, 1.0)), 0.0
    )
    return np.asarray(-np.einsum("ij,ijx->ix", weights / weights.sum(axis=1)[:, None], gaps))


def moments(block: KernelBlock, of_atoms: FloatArray) -> list[FloatArray]:
    """Kernels times arms, summed over structures: of each element, (n_structures, 3, n_points)."""
    owners = np.repeat(np.arange(len(block.part)), block.part.sizes)
    found: list[FloatArray] = []
    for mask, kernel in zip(block.masks, block.kernels, strict=True):
        table = np.zeros((len(block.part), 3, kernel.shape[1]))
        owner = owners[mask]
        if len(owner):
            first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
            for axis in range(3):
                weighted = of_atoms[mask, axis, None] * kernel
                table[owner[first], axis] = np.add.reduceat(weighted, first, axis=0)
        found.append(table)
    return found


def element_arms(batch: FeatureBatch, elements: tuple[int, ...], own: FloatArray) -> FloatArray:
    """Sums of arms over the atoms of each element, shape (n_structures, 3, n_elements)."""
    return np.stack(
        [batch.sum_atoms(np.where((batch.numbers == z)[:, None], own, 0.0)) for z in elements],
        axis=2,
    )


def correction(head: Head, few: Environments, batch: FeatureBatch, own: FloatArray) -> FloatArray:
    """What is added to the baseline's dipoles, e Å, shape (n_structures, 3).

    ``few`` are the environments of the head's coefficients, ``own`` the arms of all atoms.
    """
    n = len(few.elements)
    found = element_arms(batch, few.elements, own) @ head.offsets[:n, 0]
    for block in few.kernels(batch):
        of = np.concatenate(moments(block, own[batch.atoms_of(block.rows)]), axis=2)
        found[block.rows] += of @ head.coefficients[:, 0]
    return np.asarray(found)


def baseline_dipole(
    baseline: Baseline | None, atoms: Atoms, charge: int, multiplicity: int
) -> FloatArray:
    """Of the baseline, about the centre of nuclear charge, e Å, shape (3,).

    Raises
    ------
    BaselineError
        If there is none, or it knows no dipoles, or fails.
    """
    found = require_dipoles(baseline).single_point(atoms, charge, multiplicity, ("dipole",)).dipole
    assert found is not None
    return about_nuclei(found, atoms, charge)


def require_dipoles(baseline: Baseline | None) -> Baseline:
    """The baseline; raises :class:`BaselineError` if there is none, or it knows no dipoles."""
    if baseline is None or "dipole" not in baseline.properties:
        raise BaselineError(
            f"the baseline {'none' if baseline is None else baseline.method} knows no dipoles; "
            "GFN1-xTB and GFN2-xTB do: load_model(…, baseline='auto')"
        )
    return baseline


def about_nuclei(dipole: FloatArray, atoms: Atoms, charge: int) -> FloatArray:
    """A dipole (e Å) about the centre of nuclear charge in place of the origin, shape (3,)."""
    centre = atoms.numbers @ atoms.positions / atoms.numbers.sum()
    return np.asarray(dipole - charge * centre)


def has_dipole(heads: Heads | None) -> bool:
    """Whether dipoles were learned."""
    return any(head.kind == "dipole" for head in heads or ())


def require_dipole(heads: Heads | None) -> Head:
    """The head of dipoles; raises :class:`SettingsError` where there is none."""
    for head in heads or ():
        if head.kind == "dipole":
            return head
    raise SettingsError(
        "this model has not learned dipoles: of the shipped models, multibase-wb97xd has; "
        "knncalc add-properties --property dipole gives them to a model"
    )


def dipole_corrections(
    heads: Heads | None, batch: FeatureBatch, positions: Sequence[FloatArray]
) -> list[Dipole]:
    """What is added to dipoles of the baseline, whatever their origin.

    Parameters
    ----------
    batch
        Of the structures; kernels that it keeps are not computed again.
    positions
        Of the atoms of each, shape (n_atoms, 3), Å.

    Raises
    ------
    SettingsError
        If no dipoles were learned.
    """
    head = require_dipole(heads)
    assert heads is not None
    own, few = heads.alone(head.name)
    said = own.evaluate(batch)[head.name]
    added = correction(head, few, batch, np.concatenate([arms(p) for p in positions]))
    multiple = head.calibrations[0].multiple(0.9)
    return [
        Dipole(value, float(std), float(novelty), multiple)
        for value, std, novelty in zip(added, said.stds[:, 0], said.novelty, strict=True)
    ]


def dipole_of(
    heads: Heads | None,
    descriptor: Descriptor,
    baseline: Baseline | None,
    atoms: Atoms,
    charge: int,
    multiplicity: int,
) -> Dipole:
    """Dipole of one structure that the model covers.

    Raises
    ------
    SettingsError
        If no dipoles were learned.
    BaselineError
        If the baseline has no dipole.
    """
    with one_blas_thread():
        batch = featurize(descriptor, [(atoms.numbers, atoms.positions, charge)])
        (found,) = dipole_corrections(heads, batch, [atoms.positions])
    base = baseline_dipole(baseline, atoms, charge, multiplicity)
    return replace(found, value=base + found.value)


def directions(vectors: FloatArray) -> FloatArray:
    """Unit vectors, shape (n, 3); of a vector of no length, any."""
    sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
    fallback = np.zeros_like(vectors)
    fallback[:, 2] = 1.0
    return np.where(sizes > 1e-12, vectors / np.maximum(sizes, 1e-12), fallback)
