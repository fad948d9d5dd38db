"""FCHL19: invariances, derivatives, elements, batches."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc.descriptors import (
    FCHL19,
    SLATM,
    FeatureBatch,
    descriptor_from_dict,
    featurize,
    parse_elements,
)
from ase_knncalc.errors import SettingsError, UnknownElementError

DESCRIPTOR = FCHL19((1, 6, 7, 8))


def shaken(name: str, seed: int) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.1, seed=seed)
    return atoms


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from(["H2O", "CH3CH2OH"]))
def test_invariant_to_motion_and_equivariant_to_order(seed: int, name: str) -> None:
    atoms = shaken(name, seed)
    rng = np.random.default_rng(seed)
    rows = DESCRIPTOR.local(atoms.numbers, atoms.positions)
    moved = Rotation.random(random_state=seed).apply(atoms.positions) + rng.normal(size=3) * 10
    np.testing.assert_allclose(DESCRIPTOR.local(atoms.numbers, moved), rows, atol=1e-9)
    order = rng.permutation(len(atoms))
    np.testing.assert_allclose(
        DESCRIPTOR.local(atoms.numbers[order], atoms.positions[order]), rows[order], atol=1e-9
    )


def test_gradient_is_the_derivative() -> None:
    atoms = shaken("CH3CH2OH", 3)
    moving = DESCRIPTOR.moving(atoms.numbers, atoms.positions)
    rows, gradient = moving.rows, moving.derivatives().dense(len(atoms))
    assert gradient.shape == (*rows.shape, len(atoms), 3)
    step = 1e-5
    for atom, axis in [(0, 0), (1, 2), (4, 1)]:
        plus, minus = atoms.positions.copy(), atoms.positions.copy()
        plus[atom, axis] += step
        minus[atom, axis] -= step
        numeric = (
            DESCRIPTOR.local(atoms.numbers, plus) - DESCRIPTOR.local(atoms.numbers, minus)
        ) / (2 * step)
        np.testing.assert_allclose(gradient[:, :, atom, axis], numeric, atol=1e-5)
    along = np.random.default_rng(1).normal(size=(2, len(atoms), 3))
    changes = np.tensordot(along, gradient, axes=([1, 2], [2, 3]))
    np.testing.assert_allclose(moving.along(along), changes, atol=1e-8)


def test_far_apart_is_additive() -> None:
    water, ammonia = shaken("H2O", 1), shaken("NH3", 2)
    ammonia.translate([50.0, 0, 0])
    both = water + ammonia
    rows = DESCRIPTOR.local(both.numbers, both.positions)
    np.testing.assert_allclose(
        rows[:3], DESCRIPTOR.local(water.numbers, water.positions), atol=1e-12
    )


def test_single_atom_has_an_empty_environment() -> None:
    assert not DESCRIPTOR.local(np.array([8]), np.zeros((1, 3))).any()


def test_unknown_element_is_told_and_not_read_out_of_bounds() -> None:
    with pytest.raises(UnknownElementError, match=r"F not covered.*H, C, N, O"):
        DESCRIPTOR.local(np.array([9, 1]), np.array([[0, 0, 0], [0, 0, 1.0]]))


def test_settings_round_trip_and_checks() -> None:
    narrow = FCHL19((8, 1, 1), rcut=6.0, acut=5.0)
    assert narrow.elements == (1, 8)
    assert descriptor_from_dict(narrow.to_dict()) == narrow
    assert DESCRIPTOR.n_features == 4 * 24 + 20 * 20
    for bad, message in [
        ({"kind": "soap"}, "unknown descriptor"),
        ({**narrow.to_dict(), "colour": 1}, "colour"),
        ({**narrow.to_dict(), "rcut": -1.0}, "rcut must be at least 1e-06, got -1.0"),
        ({**narrow.to_dict(), "elements": [0]}, r"elements\[0\] must be at least 1"),
    ]:
        with pytest.raises(SettingsError, match=message):
            descriptor_from_dict(bad)
    assert parse_elements(["S", "H", 8, "H"]) == (1, 8, 16)
    with pytest.raises(SettingsError, match="Xx"):
        parse_elements(["Xx"])


def test_slatm_behind_the_same_protocol() -> None:
    slatm = SLATM((8, 1))
    atoms = shaken("H2O", 5)
    rows = slatm.local(atoms.numbers, atoms.positions)
    assert rows.shape == (3, slatm.n_features)
    turned = Rotation.random(random_state=0).apply(atoms.positions) + 4.0
    np.testing.assert_allclose(slatm.local(atoms.numbers, turned), rows, atol=1e-8)
    np.testing.assert_allclose(
        slatm.local(atoms.numbers[::-1], atoms.positions[::-1]), rows[::-1], atol=1e-8
    )
    assert descriptor_from_dict(slatm.to_dict()) == slatm
    with pytest.raises(SettingsError, match="no derivatives"):
        slatm.moving(atoms.numbers, atoms.positions)
    with pytest.raises(UnknownElementError):
        slatm.local(np.array([16]), np.zeros((1, 3)))


def make_batch(dtype: str = "float64") -> FeatureBatch:
    frames = [shaken(n, i) for i, n in enumerate(["H2O", "NH3", "CH3CH2OH", "H2O", "CO2"])]
    return featurize(
        DESCRIPTOR, [(a.numbers, a.positions, i % 2) for i, a in enumerate(frames)], dtype
    )


def test_batches_sum_select_and_split() -> None:
    batch = make_batch()
    summed = batch.summed()
    for s in range(len(batch)):
        np.testing.assert_allclose(
            summed[s], batch.local[batch.starts[s] : batch.starts[s + 1]].sum(axis=0)
        )
    part = batch.select([3, 1])
    np.testing.assert_array_equal(part.summed(), summed[[3, 1]])
    assert part.charges.tolist() == [1, 1]
    np.testing.assert_array_equal(batch.counts([1, 6, 8])[:, 0], [2, 3, 6, 2, 0])
    for most in (1, 7, 1000):
        parts = list(batch.batches(most))
        np.testing.assert_array_equal(np.concatenate([p.summed() for _, p in parts]), summed)
        assert parts[-1][0].stop == len(batch)
    whole = FeatureBatch.concatenate([p for _, p in batch.batches(5)])
    np.testing.assert_array_equal(whole.local, batch.local)
    np.testing.assert_array_equal(whole.starts, batch.starts)
