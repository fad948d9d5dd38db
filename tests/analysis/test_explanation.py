"""Explanations: parts that add up, and names that are true."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from helpers.factories import tiny, water_clusters

from ase_knncalc import load_model
from ase_knncalc.descriptors import FCHL19, featurize
from ase_knncalc.errors import ChargeError, UnknownElementError
from ase_knncalc.trend.sparse import SparseSettings


@pytest.fixture(scope="module", params=["none", "linear", "sparse"])
def model(request, water_frames):
    sparse = SparseSettings(environments=60, variance_environments=20)
    return tiny(water_frames, trend=request.param, sparse=sparse)


def test_parts_add_up(model) -> None:
    for atoms in water_clusters(4, seed=5):
        found = model.explain(atoms)
        assert found.atoms.shape == (len(atoms),)
        assert found.atoms.sum() + found.charge == pytest.approx(found.trend, abs=1e-9)
        assert sum(found.elements.values()) + found.charge == pytest.approx(found.trend, abs=1e-9)
        assert found.trend + found.knn == pytest.approx(found.delta, abs=1e-12)
        assert found.delta == pytest.approx(model.predict(atoms, baseline_energy=0.0).delta)
        for shares in found.features:
            assert sum(shares.values()) == pytest.approx(1.0, abs=1e-8)


def test_equivalent_atoms_have_equal_parts(model) -> None:
    water = Atoms("OH2", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    found = model.explain(water)
    assert found.atoms[1] == pytest.approx(found.atoms[2], abs=1e-9)
    assert found.elements["H"] == pytest.approx(2 * found.atoms[1], abs=1e-9)


def test_charge_has_a_part_of_its_own() -> None:
    frames = water_clusters(30, seed=1)
    for i, atoms in enumerate(frames):
        if i % 3 == 0:
            atoms.info["charge"] = 1
            atoms.info["multiplicity"] = 2
            atoms.info["reference_energy"] += 0.7
    model = tiny(frames, check_labels=False)
    # Once in the charge and once in its magnitude: only their sum is known.
    assert model.explain(frames[0]).charge == pytest.approx(0.7, abs=0.05)
    assert model.explain(frames[1]).charge == pytest.approx(0.0, abs=1e-9)


def test_known_environments_are_similar_and_strange_ones_are_not(water_frames) -> None:
    sparse = SparseSettings(environments=500, variance_environments=20)
    model = tiny(water_frames, trend="sparse", sparse=sparse)
    known = model.explain(water_frames[5])
    assert known.remoteness.max() < 1e-3
    torn = water_frames[5].copy()
    torn.positions[1] += 1.0 * (torn.positions[1] - torn.positions[0])
    strange = model.explain(torn)
    assert strange.remoteness[1] > 3
    assert strange.novelty == pytest.approx(
        max(v[0] for v in model.novelties(featurize(model.descriptor, [
            (torn.numbers, torn.positions, 0)
        ])).values())
    )  # fmt: skip
    assert strange.novelty > known.novelty


def test_features_point_to_what_differs() -> None:
    """Blocks of the descriptor are named for what fills them."""
    descriptor = FCHL19((1, 6, 8))
    blocks = descriptor.blocks()
    covered = np.concatenate([np.arange(b.start, b.stop) for b in blocks.values()])
    np.testing.assert_array_equal(covered, np.arange(descriptor.n_features))

    def filled(symbols: str, positions) -> set[str]:
        row = descriptor.local(Atoms(symbols).numbers, np.array(positions, dtype=float))[0]
        return {name for name, part in blocks.items() if np.abs(row[part]).max() > 1e-12}

    for symbol in "HCO":
        assert filled(f"O{symbol}", [[0, 0, 0], [0, 0, 1.2]]) == {f"pairs with {symbol}"}
    found = filled("OHC", [[0, 0, 0], [0, 0, 1.0], [0, 1.4, 0]])
    assert found == {"pairs with H", "pairs with C", "triples with H, C"}
    found = filled("OCO", [[0, 0, 0], [0, 0, 1.4], [0, 1.4, 0]])
    assert found == {"pairs with C", "pairs with O", "triples with C, O"}


def test_it_is_plain_data_and_says_where_neighbours_come_from(cluster_frames) -> None:
    model = load_model("saw-wb97xd", baseline=None)
    atoms = next(a for a in cluster_frames if a.info["composition"] == "2w")
    found = model.explain(atoms)
    assert [n.name for n in found.neighbors] == [n.name for n in model.predict(atoms).neighbors]
    assert any("saw" in source for source in found.sources)
    assert found.novelty_from in ("variance", "neighbors", "environments")
    json.dumps(found.to_dict(), default=np.ndarray.tolist)


def test_uncovered_structures_are_errors(model) -> None:
    with pytest.raises(UnknownElementError):
        model.explain(Atoms("NH3", [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(ChargeError):
        model.explain(water_clusters(1)[0], charge=2)
