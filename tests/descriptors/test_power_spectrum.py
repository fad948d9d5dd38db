"""Power spectrum and its compression: invariances, derivatives, cutoffs, what is kept."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from ase_knncalc.descriptors import (
    Compressed,
    PowerSpectrum,
    compress,
    descriptor_from_dict,
    featurize,
    of_atoms,
    summed_width,
)
from ase_knncalc.descriptors.harmonics import Harmonics
from ase_knncalc.errors import SettingsError

BASE = PowerSpectrum((1, 6, 8), n_radial=3, n_pair=5, l_max=2)


def shaken(name: str, seed: int) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    frames = [shaken(name, seed) for seed in range(20) for name in ("CH3CH2OH", "H2O", "CH4")]
    return compress(BASE, [(a.numbers, a.positions) for a in frames], 12)


def test_harmonics_are_those_of_scipy() -> None:
    directions = Rotation.random(30, random_state=1).apply([0.0, 0.0, 1.0])
    values = Harmonics(directions, 4).values
    polar, azimuth = np.arccos(directions[:, 2]), np.arctan2(directions[:, 1], directions[:, 0])
    for degree in range(5):
        for m in range(degree + 1):
            complex_ = sph_harm_y(degree, m, polar, azimuth) * (-1) ** m
            expected = complex_.real * (np.sqrt(2) if m else 1)
            np.testing.assert_allclose(values[:, degree**2 + degree + m], expected, atol=1e-12)
            if m:
                np.testing.assert_allclose(
                    values[:, degree**2 + degree - m], complex_.imag * np.sqrt(2), atol=1e-12
                )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from(["H2O", "CH3CH2OH"]))
def test_invariant_to_motion_and_equivariant_to_order(seed: int, name: str) -> None:
    atoms = shaken(name, seed)
    rng = np.random.default_rng(seed)
    rows = BASE.local(atoms.numbers, atoms.positions)
    moved = Rotation.random(random_state=seed).apply(atoms.positions) + rng.normal(size=3) * 10
    mirrored = moved * [1, 1, -1]
    for positions in (moved, mirrored):
        np.testing.assert_allclose(BASE.local(atoms.numbers, positions), rows, atol=1e-9)
    order = rng.permutation(len(atoms))
    np.testing.assert_allclose(
        BASE.local(atoms.numbers[order], atoms.positions[order]), rows[order], atol=1e-12
    )


def test_atoms_far_apart_do_not_see_each_other() -> None:
    one = shaken("H2O", 1)
    two = one.copy()
    two.positions += [BASE.pair_rcut + 4.0, 0, 0]
    together = one + two
    rows = BASE.local(one.numbers, one.positions)
    np.testing.assert_allclose(
        BASE.local(together.numbers, together.positions), np.vstack([rows, rows]), atol=1e-12
    )
    alone = BASE.local(np.array([8]), np.zeros((1, 3)))
    np.testing.assert_array_equal(alone, 0.0)


def test_rows_end_smoothly_at_the_cutoffs() -> None:
    numbers = np.array([8, 1])
    for cutoff in (BASE.rcut, BASE.pair_rcut):
        inside = BASE.moving(numbers, np.array([[0.0, 0, 0], [cutoff - 1e-5, 0, 0]]))
        outside = BASE.moving(numbers, np.array([[0.0, 0, 0], [cutoff + 1e-5, 0, 0]]))
        np.testing.assert_allclose(inside.rows, outside.rows, atol=1e-6)
        slopes = np.ones_like(inside.rows)
        np.testing.assert_allclose(inside.pull(slopes), outside.pull(slopes), atol=1e-4)


@pytest.mark.parametrize("which", ["base", "compressed"])
def test_derivatives_and_their_contraction(which: str, compressed: Compressed) -> None:
    descriptor = BASE if which == "base" else compressed
    atoms = shaken("CH3CH2OH", 3)
    moving = descriptor.moving(atoms.numbers, atoms.positions)
    derivatives = moving.derivatives()
    dense = derivatives.dense(len(atoms))
    step = 1e-5
    for atom, axis in [(0, 0), (1, 2), (4, 1)]:
        plus, minus = atoms.positions.copy(), atoms.positions.copy()
        plus[atom, axis] += step
        minus[atom, axis] -= step
        ahead, behind = (descriptor.local(atoms.numbers, p) for p in (plus, minus))
        np.testing.assert_allclose(
            dense[:, :, atom, axis], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5
        )
    slopes = np.random.default_rng(0).normal(size=moving.rows.shape)
    expected = np.tensordot(slopes, dense, axes=([0, 1], [0, 1]))
    np.testing.assert_allclose(moving.pull(slopes), expected, atol=1e-9)
    np.testing.assert_allclose(derivatives.pull(slopes), expected, atol=1e-9)
    along = np.random.default_rng(1).normal(size=(4, len(atoms), 3))
    changes = np.tensordot(along, dense, axes=([1, 2], [2, 3]))
    np.testing.assert_allclose(derivatives.along(along), changes, atol=1e-9)
    # Compressed ones are in single precision.
    tolerance = 1e-9 if which == "base" else 1e-5 * np.abs(changes).max()
    np.testing.assert_allclose(moving.along(along), changes, atol=tolerance)


@pytest.mark.parametrize("which", ["plain", "compressed"])
def test_rows_of_many_are_those_of_each(which: str, compressed: Compressed) -> None:
    """To rounding: products of more rows at once add up in another order."""
    descriptor = compressed if which == "compressed" else BASE
    names = ["CH3CH2OH", "H2O", "CH4", "O", "CH3CH2OH", "CO2"] * 12  # in more than one block
    frames = [shaken(name, seed) for seed, name in enumerate(names)]
    batch = featurize(descriptor, [(a.numbers, a.positions, 0) for a in frames])
    for atoms, (first, last) in zip(frames, pairwise(batch.starts), strict=True):
        alone = descriptor.local(atoms.numbers, atoms.positions)
        np.testing.assert_allclose(batch.local[first:last], alone, atol=1e-12)
        one = featurize(descriptor, [(atoms.numbers, atoms.positions, 0)])
        np.testing.assert_array_equal(one.local, alone)


def test_all_components_lose_nothing() -> None:
    """Distances between atoms of an element are those of the rows, but for the unit."""
    frames = [shaken("CH3CH2OH", seed) for seed in range(30)]
    whole = compress(BASE, [(a.numbers, a.positions) for a in frames], BASE.n_features)
    asked = shaken("CH3CH2OH", 7)
    full = BASE.local(asked.numbers, asked.positions)
    short = whole.local(asked.numbers, asked.positions)
    hydrogens = np.flatnonzero(asked.numbers == 1)
    ratios = [
        np.linalg.norm(short[i] - short[j]) / np.linalg.norm(full[i] - full[j])
        for i, j in pairwise(hydrogens)
    ]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    rows = np.vstack([whole.local(a.numbers, a.positions)[a.numbers == 1] for a in frames])
    assert rows.var(axis=0).sum() == pytest.approx(1.0, rel=1e-4)


def test_elements_are_kept_apart_in_sums(compressed: Compressed) -> None:
    frames = [shaken("H2O", 1), shaken("CH3CH2OH", 2)]
    batch = featurize(compressed, [(a.numbers, a.positions, 0) for a in frames])
    summed = batch.summed()
    assert summed.shape == (2, summed_width(compressed)) == (2, 3 * 12)
    rows = compressed.local(frames[0].numbers, frames[0].positions)
    np.testing.assert_allclose(summed[0, :12], rows[frames[0].numbers == 1].sum(axis=0))
    np.testing.assert_array_equal(summed[0, 12:24], 0.0)
    slope = np.arange(36.0)
    spread = of_atoms(slope, frames[0].numbers, compressed.elements, 12)
    np.testing.assert_array_equal(spread[frames[0].numbers == 8], slope[None, 24:])
    assert np.vdot(spread, rows) == pytest.approx(summed[0] @ slope)
    np.testing.assert_array_equal(batch.select([1]).summed(), summed[1:])


@pytest.mark.parametrize("name", ["H2O", "CH4", "CH3CH2OH"])
def test_what_absent_elements_add_is_not_forgotten(name: str, compressed: Compressed) -> None:
    """Rows are those of the whole axes, though only the part of a structure's elements is read."""
    atoms = shaken(name, 5)
    kinds = np.searchsorted(compressed.elements, atoms.numbers)
    full = BASE.local(atoms.numbers, atoms.positions) - compressed.means[kinds]
    expected = np.einsum("af,arf->ar", full, compressed.axes[kinds].astype(np.float64))
    found = compressed.local(atoms.numbers, atoms.positions)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_derivatives_in_single_precision_are_near_those_in_double(compressed: Compressed) -> None:
    atoms = shaken("CH3CH2OH", 6)
    for descriptor in (BASE, compressed):
        moving = descriptor.moving(atoms.numbers, atoms.positions)
        single, double = moving.derivatives("float32").values, moving.derivatives().values
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, atol=1e-5 * np.abs(double).max())


def test_copies_have_the_same_rows_and_no_more_to_store(compressed: Compressed) -> None:
    names = ("H2O", "CH4", "CO2", "O2", "H2", "C2H6", "CH3OH", "H", "C", "O")
    sets = [molecule(name) for name in names]
    rows = [compressed.local(a.numbers, a.positions) for a in sets]
    stored = pickle.dumps(compressed)
    assert len(stored) < 1.5 * (compressed.axes.nbytes + compressed.means.nbytes)
    again = pickle.loads(stored)
    for descriptor in (again, compressed):
        for atoms, expected in zip(sets, rows, strict=True):
            found = descriptor.local(atoms.numbers, atoms.positions)
            np.testing.assert_array_equal(found, expected)


def test_settings_and_arrays_make_the_same_descriptor(compressed: Compressed) -> None:
    again = descriptor_from_dict(compressed.to_dict(), compressed.arrays())
    atoms = shaken("CH3CH2OH", 9)
    np.testing.assert_array_equal(
        again.local(atoms.numbers, atoms.positions),
        compressed.local(atoms.numbers, atoms.positions),
    )
    assert descriptor_from_dict(BASE.to_dict()) == BASE


def test_arrays_of_another_descriptor_are_refused(compressed: Compressed) -> None:
    with pytest.raises(SettingsError, match="expected axes"):
        descriptor_from_dict(compressed.to_dict())
    broken = {**compressed.arrays(), "axes": compressed.axes[:, :, 1:]}
    with pytest.raises(SettingsError, match="do not fit 3 elements"):
        descriptor_from_dict(compressed.to_dict(), broken)
    with pytest.raises(SettingsError, match="expected axes and a base"):
        descriptor_from_dict(
            {"kind": "compressed", "base": {"kind": "fchl19", "elements": [1]}},
            compressed.arrays(),
        )


def test_blocks_are_the_whole_row(compressed: Compressed) -> None:
    for descriptor in (BASE, compressed):
        covered = np.concatenate(
            [np.arange(descriptor.n_features)[part] for part in descriptor.blocks().values()]
        )
        np.testing.assert_array_equal(covered, np.arange(descriptor.n_features))
