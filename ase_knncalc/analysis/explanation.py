"""Why a model says what it says about one structure: neighbours, atoms, and what sets distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.descriptors import FeatureBatch, featurize
from ase_knncalc.knn.metrics import LinearMetric
from ase_knncalc.trend.sparse import SparseTrend

if TYPE_CHECKING:
    from ase_knncalc.model import KNNModel
    from ase_knncalc.prediction import Neighbor


@dataclass(frozen=True)
class Explanation:
    """Parts of a correction; energies in eV.

    Attributes
    ----------
    delta, trend, knn, energy_std, novelty : float
        As in :class:`~ase_knncalc.prediction.Prediction`.
    neighbors : list of Neighbor
        Nearest first.
    neighbor_sources : list of str
        File that each neighbour came from; empty where the model file does not say.
    sources : list of str
        Where all training structures come from.
    atoms : ndarray, shape (n_atoms,)
        Contribution of each atom to the trend.
    elements : dict of str to float
        The same, summed over the atoms of each element.
    charge : float
        Contribution of the total charge to the trend. Atoms and charge add up to the trend.
    remoteness : ndarray, shape (n_atoms,), or None
        Distance of each atom's environment from the nearest that the sparse trend was built from:
        1 is usual for its element in training, 0 means that it is one of them.
    features : list of dict of str to float
        For each neighbour, which parts of the descriptor set the squared distance to it: with the
        smallest change of the descriptor that would take the structure there, the share of each
        block (pairs and triples of elements). Shares add up to 1 unless the distance is 0; there
        are none where the distance is the kernel-induced one.
    novelty_from : str
        What sets the novelty: ``"variance"`` (of the trend's posterior), ``"neighbors"`` (their
        distance), ``"environments"`` (of the atoms) or ``"size"`` (an atom alone).
    """

    delta: float
    trend: float
    knn: float
    energy_std: float
    novelty: float
    neighbors: list[Neighbor]
    neighbor_sources: list[str]
    sources: list[str]
    atoms: FloatArray
    elements: dict[str, float]
    charge: float
    remoteness: FloatArray | None
    features: list[dict[str, float]]
    novelty_from: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        from dataclasses import asdict

        return {**asdict(self), "neighbors": [n._asdict() for n in self.neighbors]}


def explain(
    model: KNNModel, atoms: Atoms, *, charge: int | None = None, multiplicity: int | None = None
) -> Explanation:
    """Take the correction of a structure apart; no baseline is run.

    Parameters
    ----------
    model
    atoms
        The structure.
    charge, multiplicity
        As for :meth:`KNNModel.predict`.

    Raises
    ------
    StructureError
        If the model does not cover the structure.
    """
    total = model.check(atoms, charge, multiplicity)
    batch = featurize(model.descriptor, [(atoms.numbers, atoms.positions, total)])
    found = model.correct_features(batch)[0]
    parts, provenance = model.novelties(batch), model.info.provenance
    by_atom, by_charge = _trend_parts(model, batch)
    elements = {
        chemical_symbols[z]: float(by_atom[atoms.numbers == z].sum())
        for z in sorted(set(atoms.numbers.tolist()))
    }
    return Explanation(
        delta=found.delta,
        trend=found.trend,
        knn=found.knn,
        energy_std=found.energy_std,
        novelty=found.novelty,
        neighbors=found.neighbors,
        neighbor_sources=[provenance.source(n.index) for n in found.neighbors],
        sources=list(provenance.sources),
        atoms=by_atom,
        elements=elements,
        charge=by_charge,
        remoteness=_remoteness(model, batch),
        features=_feature_shares(model, batch, found.neighbors),
        novelty_from=max(parts, key=lambda name: parts[name][0]),
    )


def _trend_parts(model: KNNModel, batch: FeatureBatch) -> tuple[FloatArray, float]:
    """Contribution of each atom, shape (n_atoms,), and of the charge.

    A trend is a sum over atoms and a term in the charge, so that each atom alone, with its
    environment's row but without charge, gives its own part.
    """
    n = len(batch.numbers)
    alone = FeatureBatch(
        numbers=batch.numbers,
        local=batch.local,
        starts=np.arange(n + 1),
        charges=np.zeros(n, dtype=batch.charges.dtype),
    )
    by_atom = model.trend.predict(alone)
    return by_atom, float(model.trend.predict(batch)[0] - by_atom.sum())


def _remoteness(model: KNNModel, batch: FeatureBatch) -> FloatArray | None:
    if not isinstance(model.trend, SparseTrend):
        return None
    return model.trend.atom_remoteness(batch)


def _feature_shares(
    model: KNNModel, batch: FeatureBatch, neighbors: list[Neighbor]
) -> list[dict[str, float]]:
    """Shares of descriptor blocks in the squared distance to each neighbour.

    The neighbour's descriptor is not in the model, only its place z_j = A (g_j − μ). The change of
    least norm that leads there is δ = A⁺ (z_j − z); |A δ|² = Σ_b (A_b δ_b) · (A δ).
    """
    if not isinstance(model.metric, LinearMetric):
        return [{} for _ in neighbors]
    blocks, components = model.descriptor.blocks(), model.metric.components
    place = model.metric.place(batch)[0]
    inverse = np.linalg.pinv(components, rcond=1e-6)
    shares = []
    for neighbor in neighbors:
        step = model.knn.index.points[neighbor.index].astype(np.float64) - place
        change = inverse @ step
        reached = components @ change
        square = float(reached @ reached)
        shares.append(
            {
                name: float((components[:, part] @ change[part]) @ reached / square)
                if square > 0
                else 0.0
                for name, part in blocks.items()
            }
        )
    return shares
