"""What every trend says of a structure is the same whichever way it is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ase_knncalc.descriptors import featurize
from ase_knncalc.trend.sparse import SparseSettings


@pytest.fixture(scope="module", params=["sparse", "sharp", "linear", "none"])
def model(request, water_model):
    # Fewer environments for the variance than for the trend; and so few that whitening them does
    # not amplify the rounding of the kernels.
    few = SparseSettings(environments=60, variance_environments=20)
    if request.param == "sharp":
        return water_model(trend="sparse", sparse=replace(few, sharp_share=0.3))
    return water_model(trend=request.param, sparse=few)


def describe(model, frames):
    return featurize(model.descriptor, [(a.numbers, a.positions, 0) for a in frames])


def test_one_pass_says_what_the_parts_say(model, water_frames) -> None:
    batch = describe(model, water_frames[:9])
    found = model.trend.evaluate(batch)
    rows = model.trend.posterior_rows(batch)
    np.testing.assert_array_equal(found.energy, model.trend.predict(batch))
    np.testing.assert_allclose(found.leverage, np.einsum("ij,ij->i", rows, rows), rtol=1e-9)
    if model.trend.kind == "sparse":
        by_atom = model.trend.atom_remoteness(batch)
        means = [by_atom[a:b].mean() for a, b in zip(batch.starts, batch.starts[1:], strict=False)]
        np.testing.assert_allclose(found.remoteness, means, rtol=1e-12)
        assert np.all(found.remoteness > 0)
    else:
        assert not found.remoteness.any()


def test_gradient_of_the_same_pass(model, water_frames) -> None:
    """It is the slope of the energy by the rows, and asking for it changes nothing else."""
    frames = water_frames[:3]
    batch = describe(model, frames)
    found = model.trend.evaluate(batch, gradient=True)
    np.testing.assert_array_equal(found.energy, model.trend.evaluate(batch).energy)
    step = np.random.default_rng(0).normal(size=batch.local.shape) * 1e-4
    ahead, behind = (
        model.trend.predict(replace(batch, local=batch.local + sign * step, _summed=[]))
        for sign in (1, -1)
    )
    expected = batch.sum_atoms((found.gradient * step).sum(axis=1))
    np.testing.assert_allclose((ahead - behind) / 2, expected, rtol=1e-5, atol=1e-12)


def test_variance_of_forces_in_single_precision(model, water_frames) -> None:
    if model.trend.kind != "sparse":
        pytest.skip("only the sparse trend knows it")
    atoms, trend = water_frames[0], model.trend
    moving = model.descriptor.moving(atoms.numbers, atoms.positions)
    environments = trend.environments.first(trend.variance_counts)
    rows = environments.slopes(atoms.numbers, moving) @ trend.factor
    expected = np.einsum("ij,ij->i", rows, rows).reshape(-1, 3).mean(axis=1)
    found = trend.force_leverage(atoms.numbers, moving)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_block_of_structures_or_each_alone(model, water_frames, monkeypatch) -> None:
    frames = water_frames[:9]
    whole = model.trend.evaluate(describe(model, frames))
    monkeypatch.setattr("ase_knncalc.trend.kernels._BLOCK_ATOMS", 10)  # blocks of one to three
    for n in (len(frames), 1):
        found = model.trend.evaluate(describe(model, frames[:n]))
        np.testing.assert_allclose(found.energy, whole.energy[:n], rtol=1e-12)
        np.testing.assert_allclose(found.leverage, whole.leverage[:n], rtol=1e-9)
        np.testing.assert_allclose(found.remoteness, whole.remoteness[:n], atol=1e-5)
