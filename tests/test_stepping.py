"""A step of dynamics gives the energy and forces of a single point, whatever multiplies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers.factories import water_clusters

from ase_knncalc import KNNCalculator, load_model
from ase_knncalc.baselines import TBLiteBaseline
from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import NoveltyError, SettingsError
from ase_knncalc.stepping import can_step, step

pytest.importorskip("tblite.interface")

COMPRESSED, FCHL19 = "multibase-wb97xd", "saw-wb97xd-md"
# eV; coefficients of the second model amplify rounding.
CLOSE = {COMPRESSED: 1e-9, FCHL19: 1e-7}


def ammonia_in_water() -> Atoms:
    atoms = water_clusters(3, seed=4)[2]
    ammonia = molecule("NH3")
    ammonia.positions += [0.0, 0.0, 9.0 + np.ptp(atoms.positions[:, 2])]
    joined = Atoms(atoms.numbers, atoms.positions) + ammonia
    joined.rattle(0.05, seed=2)
    return joined


@pytest.fixture(scope="module", params=[COMPRESSED, FCHL19])
def model(request):
    return load_model(request.param)


@pytest.fixture
def close(model) -> float:
    return CLOSE[FCHL19 if model.descriptor.kind == "fchl19" else COMPRESSED]


@pytest.fixture
def structure(model) -> Atoms:
    atoms = ammonia_in_water()
    return atoms if 7 in model.elements else atoms[atoms.numbers != 7][:9]


def test_a_step_is_a_single_point(model, structure, close) -> None:
    whole = model.predict_one(structure, 0, forces=True)
    found = step(model, structure, 0)
    assert found.energy == pytest.approx(whole.energy, rel=0, abs=close)
    assert found.knn == whole.knn
    np.testing.assert_allclose(found.forces, whole.forces, rtol=0, atol=10 * close)
    np.testing.assert_array_equal(found.baseline_charges, whole.baseline_charges)
    assert np.isnan([found.energy_std, found.novelty]).all()
    assert not found.neighbors


def test_compiled_loops_are_numpys(model, structure, close) -> None:
    pytest.importorskip("numba")
    fast = model.following().with_baseline(model.baseline)
    assert type(fast.trend) is type(model.trend)
    assert fast.trend is not model.trend
    whole, found = model.predict_one(structure, 0, forces=True), step(fast, structure, 0)
    assert found.energy == pytest.approx(whole.energy, rel=0, abs=close)
    np.testing.assert_allclose(found.forces, whole.forces, rtol=0, atol=10 * close)
    judged = fast.predict_one(structure, 0, forces=True, forces_std=True)
    assert judged.energy == pytest.approx(whole.energy, rel=0, abs=close)
    assert judged.energy_std == pytest.approx(whole.energy_std, rel=1e-6)
    assert judged.novelty == pytest.approx(whole.novelty, rel=1e-6)
    expected = model.predict_one(structure, 0, forces_std=True).forces_std
    np.testing.assert_allclose(judged.forces_std, expected, rtol=1e-3)


@pytest.mark.parametrize("numbers", [[8], [8, 1], [1, 8, 1, 16, 7, 6, 8, 8]])
def test_compiled_rows_and_what_moves_them(numbers) -> None:
    pytest.importorskip("numba")
    plain = load_model(COMPRESSED, baseline=None).descriptor
    fast = plain.compiled()
    assert type(fast) is not type(plain)
    rng = np.random.default_rng(3)
    # Some pairs lie beyond one cutoff, some beyond both.
    positions = rng.uniform(0.0, 5.5, size=(len(numbers), 3))
    kinds = np.array(numbers)
    one, other = plain.moving(kinds, positions), fast.moving(kinds, positions)
    np.testing.assert_allclose(other.rows, one.rows, rtol=0, atol=1e-12)
    slopes = rng.standard_normal(one.rows.shape)
    np.testing.assert_allclose(other.pull(slopes), one.pull(slopes), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(other.derivatives().values, one.derivatives().values)
    moves = rng.standard_normal((2, len(numbers), 3))
    np.testing.assert_array_equal(other.along(moves), one.along(moves))
    again = pickle.loads(pickle.dumps(fast)).moving(kinds, positions)
    np.testing.assert_array_equal(again.rows, other.rows)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 513), (5, 1030), (6, 8)])
def test_compiled_products(rows, n, k) -> None:
    pytest.importorskip("numba")
    from ase_knncalc._lib.compiled import held, product

    rng = np.random.default_rng(0)
    x, single = rng.standard_normal((rows, k)), rng.standard_normal((n, k)).astype(np.float32)
    last_only, double = single.astype(float), rng.standard_normal((n, k))
    last_only[:, -1] = double[:, -1]
    for matrix in (single.astype(float), last_only, double, single.astype(float).copy("F")):
        np.testing.assert_allclose(product(x, held(matrix)), x @ matrix.T, rtol=0, atol=1e-11)
    assert held(single.astype(float)).dtype == np.float32
    assert held(last_only).shape == (n, k)


def test_without_numba_numpy_does_it(monkeypatch) -> None:
    model = load_model(COMPRESSED)
    for part in (model.descriptor, model.trend):
        part.__dict__.pop("_compiled", None)
    monkeypatch.setitem(__import__("sys").modules, "ase_knncalc._lib.compiled", None)
    monkeypatch.setitem(__import__("sys").modules, "ase_knncalc.descriptors.compiled", None)
    following = model.following()
    assert following.descriptor is model.descriptor
    assert following.trend is model.trend
    assert can_step(following)
    for part in (model.descriptor, model.trend):
        part.__dict__.pop("_compiled", None)


def test_other_models_take_no_steps(tiny_model) -> None:
    assert not can_step(tiny_model), "no smooth one"
    assert not can_step(load_model(FCHL19, baseline=None))


def test_only_zero_is_left_out_of_the_variance(model, structure) -> None:
    trend = model.trend
    batch = featurize(model.descriptor, [(structure.numbers, structure.positions, 0)])
    rows = trend.posterior_rows(batch)
    assert trend.evaluate(batch).leverage[0] == pytest.approx(float(rows[0] @ rows[0]), rel=1e-9)


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Sizes of the structures that the baseline was run for."""
    sizes: list[int] = []
    run = TBLiteBaseline._run

    def counted(self, atoms, *rest, **options):
        sizes.append(len(atoms))
        return run(self, atoms, *rest, **options)

    monkeypatch.setattr(TBLiteBaseline, "_run", counted)
    return sizes


def test_uncertainty_is_made_where_it_is_asked_for(model, structure, close, made) -> None:
    always, asked = (
        KNNCalculator(model, charge=0, on_novelty="ignore", uncertainty=when)
        for when in ("always", "asked")
    )
    for calculator in (always, asked):
        calculator.get_forces(structure)
    judged = {"energy_std", "novelty", "neighbors"}
    assert judged <= always.results.keys()
    assert not judged & asked.results.keys()
    assert always.results.keys() - asked.results.keys() == judged
    energy, n = asked.results["energy"], len(made)
    for name in ("energy_std", "novelty"):
        expected = always.get_property(name, structure)
        assert asked.get_property(name, structure) == pytest.approx(expected, rel=1e-6)
    assert asked.get_property("energy_std", structure, allow_calculation=False) is not None
    names = [[a.name for a in c.get_property("neighbors", structure)] for c in (always, asked)]
    assert names[0] == names[1]
    assert len(made) == n, "the baseline is not run again"
    assert asked.results["energy"] == pytest.approx(energy, rel=0, abs=close)
    structure.rattle(0.01)
    asked.get_forces(structure)
    assert not judged & asked.results.keys()
    assert asked.get_property("energy_std", structure, allow_calculation=False) is None


def test_thresholds_are_looked_at_all_the_same(model, structure) -> None:
    options = {"charge": 0, "novelty_threshold": 1e-6, "uncertainty": "asked"}
    calculator = KNNCalculator(model, **options)
    with pytest.warns(UserWarning, match="far from the training data"):
        calculator.get_forces(structure)
    assert calculator.results["novelty"] > 0
    structure.rattle(0.01)
    calculator.get_forces(structure)
    assert "novelty" not in calculator.results, "it has warned"
    with pytest.raises(NoveltyError):
        KNNCalculator(model, on_novelty="raise", **options).get_forces(structure)
    with pytest.raises(SettingsError, match="uncertainty"):
        KNNCalculator(model, uncertainty="never")
