"""Whether two structures are the same."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ase_knncalc.sameness import (
    DuplicateFinder,
    centred,
    exact_bytes,
    largest_shift,
    near_pairs,
    turned,
)


def random_atoms(seed: int, n: int = 6) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms("CHNOHH"[:n], 3.0 * rng.normal(size=(n, 3)))


def test_the_same_bits_are_the_atoms_in_their_order_place_and_state() -> None:
    atoms = random_atoms(0)
    same = exact_bytes(atoms, 0, 1)
    assert exact_bytes(atoms.copy(), 0, 1) == same
    assert exact_bytes(atoms, 1, 2) != same
    assert exact_bytes(atoms[[0, 1, 2, 3, 5, 4]], 0, 1) != same
    atoms.positions[3, 1] = np.nextafter(atoms.positions[3, 1], np.inf)
    assert exact_bytes(atoms, 0, 1) != same


def test_largest_shift_is_that_of_atoms_in_order() -> None:
    atoms = random_atoms(1)
    moved, swapped = atoms.copy(), atoms[[0, 1, 2, 3, 5, 4]]
    moved.positions += [1.0, -2.0, 3.0]
    moved.positions[2, 0] += 0.006
    shifts = largest_shift(centred(atoms), np.stack([centred(moved), centred(swapped)]))
    assert shifts[0] == pytest.approx(0.005)  # the mean moves along by a sixth
    assert shifts[1] > 0.1


@pytest.mark.parametrize("mirrored", [False, True])
def test_vectors_turn_with_the_structure(mirrored: bool) -> None:
    rng = np.random.default_rng(2)
    there, forces = random_atoms(2), rng.normal(size=(6, 3))
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if (np.linalg.det(matrix) < 0) != mirrored:
        matrix[:, 0] *= -1.0
    order = rng.permutation(6)
    here = Atoms(there.numbers[order], there.positions[order] @ matrix + 1.0)
    found = turned(forces, there, here, 1e-4)
    assert found is not None
    np.testing.assert_allclose(found, forces[order] @ matrix, atol=1e-9)
    here.positions[0, 0] += 0.01
    assert turned(forces, there, here, 1e-4) is None


def test_near_pairs_are_found_in_any_block() -> None:
    x = np.random.default_rng(3).normal(size=(9, 40))
    x[7], x[4] = 1.001 * x[1], 1.02 * x[2]
    assert [list(near_pairs(x, block)) for block in (2, 1000)] == [[(1, 7)]] * 2


def test_tolerance_of_duplicates() -> None:
    rng = np.random.default_rng(1)
    finder = DuplicateFinder(1e-4)
    base = Atoms("CH3OH", rng.uniform(0, 3, (6, 3)))
    assert finder.find_or_add(base, 0, 1) is None
    for _ in range(20):
        # Each atom shifted by the tolerance, which also moves numbers across rounding limits.
        shift = rng.normal(size=(6, 3))
        shift *= 1e-4 / np.linalg.norm(shift, axis=1, keepdims=True)
        assert finder.find_or_add(Atoms(base.numbers, base.positions + shift), 0, 1) == 0
        assert finder.find_or_add(Atoms(base.numbers, base.positions + 30 * shift), 0, 1) is None


def test_finder_agrees_with_comparing_all() -> None:
    """The five invariants that spare comparisons lose no duplicate."""
    rng = np.random.default_rng(2)
    seeds = [rng.uniform(0, 4, (5, 3)) for _ in range(12)]
    frames = []
    for _ in range(150):
        atoms = Atoms("C2H2O", seeds[rng.integers(12)] + rng.uniform(-4e-5, 4e-5, (5, 3)))
        atoms.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        frames.append(atoms)
    finder = DuplicateFinder(1e-4)
    new = [finder.find_or_add(a, 0, 1) for a in frames].count(None)
    assert new == 12
