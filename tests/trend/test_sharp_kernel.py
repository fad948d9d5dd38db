"""The second, sharper Gaussian of a kernel."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from helpers.forging import edited
from hypothesis import given
from hypothesis import strategies as st

from ase_knncalc import load_model, save_model
from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import ModelFileError, SettingsError
from ase_knncalc.trend.kernels import gaussian, mixed, mixed_slope, whitener
from ase_knncalc.trend.sparse import SparseSettings

SHARP = SparseSettings(environments=60, variance_environments=20, sharp_share=0.3)


@given(st.floats(-30, 0), st.floats(0, 10))
def test_slope_of_the_kernel(exponent: float, share: float) -> None:
    step = 1e-5
    values = mixed(np.exp(exponent + step * np.array([-1.0, 1.0])), share)
    slope = mixed_slope(np.exp(np.array([exponent])), share)[0]
    assert np.diff(values)[0] / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-12)
    assert mixed(np.ones(1), share)[0] == pytest.approx(1.0)


def test_a_share_of_none_is_the_gaussian_itself() -> None:
    gaussians = np.random.default_rng(0).random((3, 4))
    assert mixed(gaussians, 0.0) is gaussians
    assert mixed_slope(gaussians, 0.0) is gaussians


def test_it_tells_more_points_apart() -> None:
    """Where the wide Gaussian has run out of columns, rounding apart."""
    points = 0.05 * np.random.default_rng(0).normal(size=(300, 4))
    wide, sharp = (whitener(points, 1e-10, share) for share in (0.0, 0.3))
    assert sharp.shape[1] > wide.shape[1]
    kernel = mixed(gaussian(points, points), 0.3)
    np.testing.assert_allclose(sharp.T @ kernel @ sharp, np.eye(sharp.shape[1]), atol=1e-4)


@pytest.fixture(scope="module")
def model(water_model):
    return water_model(trend="sparse", sparse=SHARP)


def test_rows_of_forces_are_slopes_of_the_sums(model, water_frames) -> None:
    atoms, environments = water_frames[4], model.trend.environments
    moving = model.descriptor.moving(atoms.numbers, atoms.positions)
    rng, step = np.random.default_rng(0), 1e-4
    along = rng.normal(size=(2, len(atoms), 3))
    moved = [
        (atoms.numbers, atoms.positions + sign * step * way, 0) for way in along for sign in (1, -1)
    ]
    sums = environments.sums(featurize(model.descriptor, moved))
    expected = (sums[::2] - sums[1::2]) / (2 * step)
    scale = np.abs(expected).max()
    slopes = environments.slopes(atoms.numbers, moving)
    np.testing.assert_allclose(along.reshape(2, -1) @ slopes, expected, atol=1e-5 * scale)
    found = environments.slopes_along(atoms.numbers, moving, along, "float64")
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    single = environments.single_slopes(atoms.numbers, moving)
    np.testing.assert_allclose(single, slopes, atol=1e-4 * np.abs(slopes).max())


def test_files_keep_the_share_and_refuse_nonsense(model, water_frames, tmp_path) -> None:
    path = tmp_path / "sharp.h5"
    save_model(model, path)
    again = load_model(path)
    batch = featurize(model.descriptor, [(a.numbers, a.positions, 0) for a in water_frames[:5]])
    np.testing.assert_array_equal(again.trend.predict(batch), model.trend.predict(batch))
    plain = replace(model.trend.environments, sharp_share=np.zeros(()))
    assert np.any(plain.sums(batch) != model.trend.environments.sums(batch))
    assert "sharp_share" not in plain.arrays()

    for wrong in (-0.3, 1e10):

        def forge(file: h5py.File, value: float = wrong) -> None:
            file["trend/sharp_share"][...] = value

        path.write_bytes(edited(path.read_bytes(), forge))
        with pytest.raises(ModelFileError, match="sharp_share"):
            load_model(path)
        with pytest.raises(SettingsError, match="sharp_share"):
            SparseSettings(sharp_share=wrong)
