"""Whether a structure, or its composition, was in the training data of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import instance
from ase_knncalc._lib.arrays import BoolArray, FloatArray
from ase_knncalc.descriptors import FeatureBatch, featurize
from ase_knncalc.errors import ChargeError, FormulaError, UnknownElementError
from ase_knncalc.model import KNNModel
from ase_knncalc.sameness import SAME_IN_METRIC
from ase_knncalc.structure import check_structure, composition_label, resolve_charge
from ase_knncalc.trend.base import composition_columns

if TYPE_CHECKING:
    from ase_knncalc.prediction import Neighbor

# Shift of each atom, root mean square in Å, by which the metric's sensitivity is measured.
_NUDGE = 1e-3
_NUDGES = 4


@dataclass(frozen=True)
class Membership:
    """What the training data of a model hold of one structure.

    Attributes
    ----------
    covered : bool
        Whether the model takes the structure's elements and charge at all.
    reason : str
        Why not.
    composition : str
        As in ``info["composition"]``, or the formula.
    same_composition : int or None
        Training structures of the same elements and charge; None where the model's file does not
        keep them and none has the same label.
    structure : str or None
        Name of the training structure that this one is, in any orientation, mirrored or not, with
        its atoms in any order.
    nearest : Neighbor or None
    displacement : float or None
        How far (Å, root mean square) the atoms would have to be shifted at random to come as far
        from this structure as the nearest training structure is. Only an order of magnitude above
        some 0.1 Å; None where the nearest is of another composition, which no shift leads to.
    novelty : float or None
        Above 1: few training structures are like this.
    """

    covered: bool
    reason: str
    composition: str
    same_composition: int | None = None
    structure: str | None = None
    nearest: Neighbor | None = None
    displacement: float | None = None
    novelty: float | None = None

    @property
    def answer(self) -> str:
        """One sentence."""
        if not self.covered:
            return f"no: {self.reason}"
        if self.structure is not None:
            return f"yes: it is {self.structure}"
        assert self.nearest is not None
        near = f"the nearest is {self.nearest.name} ({self.nearest.composition})"
        if self.same_composition is None:
            return f"not itself; {near}"
        if self.same_composition == 0:
            return f"no, nor any of its composition; {near}"
        return f"not itself, but {self.same_composition} of its composition; {near}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        nearest = None if self.nearest is None else self.nearest._asdict()
        return {"answer": self.answer, **asdict(self), "nearest": nearest}


def training_twins(
    model: KNNModel, frames: Sequence[Atoms], batch: FeatureBatch
) -> list[list[int]]:
    """Training structures, and additions, that each of several structures repeats, by index.

    Those of the same elements and charge at distance zero in the metric, whatever their labels.

    Parameters
    ----------
    model
    frames
        Structures. Their ``info["composition"]`` counts for models of old alone, whose files do
        not keep the elements of training structures.
    batch
        Their descriptors.
    """
    columns = composition_columns(batch, model.elements)
    index = model.knn.index
    twins = []
    for i, z in enumerate(model.metric.place(batch)):
        k = 5
        distances, places = index.query(z, k)
        while distances[-1] == 0.0 and k < len(index):
            k *= 4
            distances, places = index.query(z, k)
        same = places[distances == 0.0]
        alike = _alike(model, columns[i])
        if alike is None:
            alike = model.compositions == str(frames[i].info["composition"]).encode("utf-8")
        twins.append(same[alike[same]].tolist())
    return twins


def new_ones(model: KNNModel, frames: Sequence[Atoms], batch: FeatureBatch) -> list[int]:
    """Which frames the model does not have yet: in its training data, or added later."""
    return [i for i, known in enumerate(training_twins(model, frames, batch)) if not known]


def find_in_training(model: KNNModel, atoms: Atoms, *, charge: int | None = None) -> Membership:
    """Look a structure up in the training data that a model keeps; no baseline is run.

    Parameters
    ----------
    model
    atoms
        The structure.
    charge
        Total charge; by default the structure's own.

    Returns
    -------
    Membership
        Elements or charges that the model does not cover are an answer here, not an error.

    Raises
    ------
    StructureError
        If it is no structure that any model takes (overlapping atoms, a cell, NaN), or sources of
        its charge contradict each other.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_knncalc import find_in_training, load_model
    >>> model = load_model("saw-wb97xd", baseline=None)
    >>> find_in_training(model, molecule("NH3")).answer
    'no: ...'
    """
    instance("model", model, KNNModel)
    check_structure(atoms)
    resolve_charge(atoms, charge)
    composition = composition_label(atoms)
    try:
        total = model.check(atoms, charge)
    except (UnknownElementError, ChargeError, FormulaError) as e:
        return Membership(covered=False, reason=str(e), composition=composition)
    positions = np.asarray(atoms.positions)
    rng = np.random.default_rng(0)
    nudged = [
        (
            atoms.numbers,
            positions + rng.normal(scale=_NUDGE / np.sqrt(3), size=positions.shape),
            total,
        )
        for _ in range(_NUDGES)
    ]
    batch = featurize(model.descriptor, [(atoms.numbers, positions, total), *nudged])
    places = model.metric.place(batch)
    found = model.correct_features(batch.select(np.array([0])))[0]
    nearest = found.neighbors[0]
    distances = np.linalg.norm(places[1:] - places[0], axis=1)
    unit = float(np.sqrt(np.mean(distances**2)))
    displacement = nearest.distance / unit * _NUDGE if unit > 0.0 else None
    alike = _alike(model, composition_columns(batch, model.elements)[0])
    if alike is None:
        alike = model.compositions == composition.encode("utf-8")
        same_composition = int(alike.sum()) or None
        fits = True  # labels may differ where structures do not
    else:
        same_composition = int(alike.sum())
        fits = bool(alike[nearest.index])
    close = nearest.distance == 0.0 if displacement is None else displacement <= SAME_IN_METRIC
    return Membership(
        covered=True,
        reason="",
        composition=composition,
        same_composition=same_composition,
        structure=nearest.name if close and fits else None,
        nearest=nearest,
        displacement=displacement if alike[nearest.index] else None,
        novelty=found.novelty,
    )


def _alike(model: KNNModel, columns: FloatArray) -> BoolArray | None:
    """Which training structures have the same elements and charge, booleans of shape (n,)."""
    if model.held_out is None:
        return None
    return np.asarray((model.held_out.counts == columns).all(axis=1))
