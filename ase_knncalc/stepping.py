"""A step of dynamics or of a relaxation: energy and forces, with nothing beside them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from ase import Atoms

from ase_knncalc._lib.threads import one_blas_thread
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.knn.metrics import LinearMetric
from ase_knncalc.model import KNNModel
from ase_knncalc.prediction import Prediction
from ase_knncalc.trend.sparse import SparseTrend


def can_step(model: KNNModel) -> bool:
    """Whether :func:`step` knows a model of this kind."""
    known = isinstance(model.trend, SparseTrend) and isinstance(model.metric, LinearMetric)
    return known and model.smooth and model.baseline is not None


def step(
    model: KNNModel,
    atoms: Atoms,
    charge: int | None = None,
    multiplicity: int | None = None,
    properties: Collection[str] = (),
) -> Prediction:
    """Energy and forces as :meth:`KNNModel.predict_one` gives them, but for rounding.

    What tells how far to trust them is left out: ``energy_std`` and ``novelty`` are NaN, and there
    are no neighbours.
    """
    trend, metric = model.trend, model.metric
    assert isinstance(trend, SparseTrend)
    assert isinstance(metric, LinearMetric)
    assert model.baseline is not None
    total, spin = model.state(atoms, charge, multiplicity)
    numbers = atoms.numbers
    with one_blas_thread():
        point = model.baseline.single_point(atoms, total, spin, {*properties, "forces"})
        moving = model.descriptor.moving(numbers, atoms.positions)
        batch = FeatureBatch.of_one(model.descriptor, numbers, moving.rows, total)
        knn, of_place = model.knn.smooth_mean(metric.project(batch.summed()[0]))
        energy, slopes = trend.of_one(batch)
        slopes += metric.pull(numbers, of_place)
        gradient = moving.pull(slopes)
    return Prediction(
        delta=energy + knn,
        trend=energy,
        knn=knn,
        energy_std=np.nan,
        novelty=np.nan,
        neighbors=[],
        calibration=model.calibration,
        baseline_energy=point.energy,
        delta_forces=-gradient,
        baseline_forces=point.forces,
        baseline_charges=point.charges,
        baseline_dipole=point.dipole,
    )
