"""Training: accuracy on real data, and every way in which data can be bad."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from ase import Atoms
from helpers.factories import tiny, water_clusters

from ase_knncalc import KeyMap, load_model, read_dataset, save_model, train
from ase_knncalc.descriptors import FCHL19
from ase_knncalc.errors import BaselineError, DataError, SettingsError, TrainingError
from ase_knncalc.labels.training_data import TrainingData, compute_features
from ase_knncalc.training import fit_model
from ase_knncalc.trend.sparse import SparseSettings

KCAL = 23.060547830619026
SAW_KEYS = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")


@pytest.fixture(scope="module")
def saw(shared_data):
    return read_dataset(shared_data / "saw_equilibrium.extxyz.gz", keys=SAW_KEYS)


@pytest.fixture(scope="module")
def saw_monomers(shared_data):
    return read_dataset(shared_data / "saw_monomers.extxyz.gz", keys=SAW_KEYS)


@pytest.fixture(scope="module")
def saw_larger(shared_data):
    return read_dataset(shared_data / "saw_4sa5w_equilibrium.extxyz.gz", keys=SAW_KEYS)


def binding_errors(model, dataset, monomers) -> np.ndarray:
    """Errors of binding energies, kcal/mol: those of monomers taken off, as users do."""
    predicted = model.predict(dataset.frames, baseline_energy=dataset.energies("baseline_energy"))
    single = model.predict(monomers.frames, baseline_energy=monomers.energies("baseline_energy"))
    zero = dict(zip(monomers.names, single.energy - monomers.energies(), strict=True))
    shift = [n * zero["1sa"] + m * zero["1w"] for n, m in map(_molecules, dataset.compositions)]
    return KCAL * (predicted.energy - dataset.energies() - np.array(shift))


def _molecules(composition: str) -> tuple[int, int]:
    found = {name: int(n) for n, name in re.findall(r"(\d+)([a-z]+)", composition)}
    return found.get("sa", 0), found.get("w", 0)


@pytest.fixture(scope="module")
def fold(saw):
    from sklearn.model_selection import KFold

    train_rows, test_rows = next(iter(KFold(5, shuffle=True, random_state=0).split(saw.frames)))
    return saw.select(train_rows), saw.select(test_rows)


@pytest.mark.slow
@pytest.mark.parametrize(("trend", "target"), [("none", 0.52), ("linear", 0.30), ("sparse", 0.125)])
def test_first_fold_of_sulfuric_acid_water(fold, saw_monomers, trend: str, target: float) -> None:
    known, held_out = fold
    model = train(known, monomers=saw_monomers, trend=trend)
    errors = np.abs(binding_errors(model, held_out, saw_monomers))
    assert errors.mean() <= target
    assert abs(KCAL * model.info.errors["mae"] / errors.mean() - 1) < 0.35, (
        "the error that the model states for itself must be near the one measured"
    )


@pytest.mark.slow
def test_linear_trend_extrapolates_to_larger_clusters(saw, saw_monomers, saw_larger) -> None:
    model = train(saw, monomers=saw_monomers, trend="linear")
    assert np.abs(binding_errors(model, saw_larger, saw_monomers)).mean() <= 0.50


def test_shipped_model_has_the_right_zero(saw_monomers) -> None:
    """With the real baseline, as a user gets it."""
    model = load_model("saw-wb97xd")
    for atoms in saw_monomers.frames:
        error = KCAL * (model.predict(atoms).energy - atoms.info["reference_energy"])
        assert abs(error) <= 0.1


def test_shipped_model_on_larger_clusters(saw_larger) -> None:
    model = load_model("saw-wb97xd", baseline=None)
    found = model.predict(saw_larger.frames, baseline_energy=saw_larger.energies("baseline_energy"))
    errors = KCAL * (found.energy - saw_larger.energies())
    assert np.abs(errors).mean() <= 0.50
    assert np.mean(np.abs(errors) < 2 * KCAL * found.energy_std) > 0.8


def test_real_labels_that_the_suite_brings_along(cluster_frames) -> None:
    """ωB97X-D labels of water and its dimer: the correction removes most of GFN1-xTB's error."""
    frames = [a for a in cluster_frames if a.info["composition"] in ("1w", "2w")]
    order = np.random.default_rng(0).permutation(len(frames))
    cut = int(0.75 * len(order))
    known = [frames[i] for i in order[:cut]]
    held_out = [frames[i] for i in order[cut:]]
    model = train(known, n_components=10, n_jobs=1)
    found = model.predict(held_out, baseline_energy=[a.info["baseline_energy"] for a in held_out])
    truth = np.array([a.info["reference_energy"] for a in held_out])
    raw = np.array([a.info["baseline_energy"] for a in held_out]) - truth
    # Relative to the best element offsets, which any method would get right.
    counts = np.array([[np.sum(a.numbers == z) for z in model.elements] for a in held_out])
    raw = raw - counts @ np.linalg.lstsq(counts, raw, rcond=None)[0]
    assert np.abs(found.energy - truth).mean() < 0.5 * np.abs(raw).mean()


def test_training_is_deterministic(water_frames, tiny_model) -> None:
    again = tiny(water_frames)
    np.testing.assert_array_equal(
        again.predict(water_frames).energy, tiny_model.predict(water_frames).energy
    )


@pytest.mark.parametrize("trend", ["none", "linear", "sparse"])
@pytest.mark.parametrize("weights", ["auto", "uniform", "kriging"])
def test_every_combination_trains_and_is_better_than_nothing(
    water_frames, water_model, trend: str, weights: str
) -> None:
    model = water_model(trend=trend, weights=weights)
    labels = np.array([a.info["reference_energy"] for a in water_frames])
    spread = np.abs(
        labels / [len(a) for a in water_frames] - np.mean(labels / [len(a) for a in water_frames])
    )
    assert model.info.errors["mae"] < max(spread.max(), 0.5)
    assert np.isfinite(model.predict(water_frames).energy_std).all()


def test_sparse_model_means_the_same_on_a_machine_with_other_eigenvectors(
    water_frames, tmp_path, monkeypatch
) -> None:
    """Signs of eigenvectors are the linear algebra library's choice: no file may rest on them."""
    model = tiny(water_frames, trend="sparse")
    save_model(model, tmp_path / "sparse.h5")
    before = model.predict(water_frames[:5])
    own = np.linalg.eigh

    def flipped(matrix):
        values, vectors = own(matrix)
        return values, -vectors

    monkeypatch.setattr(np.linalg, "eigh", flipped)
    after = load_model(tmp_path / "sparse.h5").predict(water_frames[:5])
    np.testing.assert_array_equal(after.energy_std, before.energy_std)
    np.testing.assert_array_equal(after.energy, before.energy)


def test_knn_term_stays_on_where_the_trend_learns_nothing_from_forces(
    water_frames, water_model
) -> None:
    frames = [a.copy() for a in water_frames]
    for a in frames:
        a.arrays["reference_forces"] = np.zeros((len(a), 3))
    with_labels = tiny(frames, trend="none", weights="kernel")
    assert with_labels.knn.settings == water_model(trend="none", weights="kernel").knn.settings
    assert not with_labels.trained_on_forces


def test_slatm_model_round_trip(water_frames, water_model, tmp_path) -> None:
    model = water_model(descriptor_kind="slatm")
    assert not model.smooth
    assert model.info.errors["mae"] < 0.5
    save_model(model, tmp_path / "slatm.h5")
    loaded = load_model(tmp_path / "slatm.h5")
    assert loaded.predict(water_frames[0]).energy == model.predict(water_frames[0]).energy


def test_residuals_in_the_index_are_cross_validated(water_frames, water_model) -> None:
    """In-sample residuals of a flexible trend would be far smaller than what it leaves over."""
    model = water_model()
    labels = np.array([a.info["reference_energy"] for a in water_frames])
    in_sample = labels - model.predict(water_frames).trend
    assert np.abs(model.knn.residuals).mean() > 1.2 * np.abs(in_sample).mean()


def test_name_of_neighbour_of_a_training_structure_is_its_own(water_frames, tiny_model) -> None:
    found = tiny_model.predict(water_frames[7])
    assert found.neighbors[0].name == water_frames[7].info["name"]
    assert found.neighbors[0].distance == pytest.approx(0.0, abs=1e-3)


class TestBadData:
    def test_empty_file(self, tmp_path) -> None:
        (tmp_path / "empty.extxyz").touch()
        with pytest.raises(DataError, match=r"empty\.extxyz"):
            train(tmp_path / "empty.extxyz", baseline="none")

    def test_no_frames(self) -> None:
        with pytest.raises(DataError):
            train([], baseline="none")

    def test_missing_reference_key_says_which_there_are(self, water_frames) -> None:
        frames = [a.copy() for a in water_frames]
        for a in frames:
            a.info["wb97xd_energy"] = a.info.pop("reference_energy")
        with pytest.raises(DataError, match=r"(?s)reference_energy.*wb97xd_energy"):
            train(frames, baseline="none")

    @pytest.mark.parametrize(
        ("spoil", "category"),
        [
            (lambda a: a.info.__setitem__("reference_energy", np.nan), "energ"),
            (lambda a: a.info.pop("reference_energy"), "reference"),
            (lambda a: a.positions.__setitem__((0, 0), np.nan), "position"),
            (lambda a: a.set_pbc(True), "period"),
            (lambda a: a.positions.__setitem__(1, a.positions[0]), "overlap"),
        ],
    )
    def test_bad_frames_are_left_out_counted_and_listed(
        self, water_frames, spoil, category: str
    ) -> None:
        frames = [a.copy() for a in water_frames]
        spoil(frames[3])
        with pytest.warns(UserWarning, match="1 of 60 frames"):
            model = tiny(frames)
        (omitted,) = model.info.provenance.omitted
        assert omitted["index"] == 3
        assert category in (omitted["category"] + omitted["reason"]).lower()
        assert model.info.n_structures == 59

    def test_a_label_wrong_beyond_doubt_is_left_out_unless_told_otherwise(self) -> None:
        frames = water_clusters(220)
        frames[10].info["reference_energy"] += 3.0
        with pytest.warns(UserWarning, match="suspect: 1"):
            model = tiny(frames)
        (omitted,) = model.info.provenance.omitted
        assert omitted["name"] == frames[10].info["name"]
        assert "Δ is +3.0" in omitted["reason"] or "Δ is +2.9" in omitted["reason"]
        assert tiny(frames, check_labels=False).info.n_structures == 220

    def test_duplicates_are_listed(self, water_frames) -> None:
        twice = [*water_frames, water_frames[5]]
        with pytest.warns(UserWarning, match="duplicate"):
            model = tiny(twice)
        assert model.info.n_structures == 60

    def test_mixed_units_are_told(self, cluster_frames) -> None:
        frames = [a.copy() for a in cluster_frames]
        for a in frames[::4]:
            a.info["reference_energy"] /= 27.211386
        with pytest.raises(DataError, match=r"(?i)hartree"):
            train(frames, n_jobs=1)

    def test_baseline_of_another_method_is_told(self, cluster_frames) -> None:
        frames = [a.copy() for a in cluster_frames]
        for a in frames:
            a.info["baseline_energy"] += 1.0
        with pytest.raises(BaselineError, match="the data give a baseline energy"):
            train(frames, n_jobs=1)

    def test_unconverged_baseline_is_left_out_and_listed(self, water_frames) -> None:
        from ase.calculators.calculator import CalculationFailed
        from ase.calculators.lj import LennardJones

        class Stubborn(LennardJones):
            def calculate(self, atoms=None, *args, **kwargs):
                if len(atoms) == 12 and atoms.positions[0, 0] > 0:
                    raise CalculationFailed("SCF did not converge")
                super().calculate(atoms, *args, **kwargs)

        stubborn = [len(a) == 12 and a.positions[0, 0] > 0 for a in water_frames]
        assert 0 < sum(stubborn) < len(stubborn)
        with pytest.warns(UserWarning, match=f"{sum(stubborn)} of 60 frames"):
            model = train(
                [a.copy() for a in water_frames],
                baseline=Stubborn(),
                trend="linear",
                n_components=3,
                k=3,
            )
        listed = model.info.provenance.omitted
        assert [o["index"] for o in listed] == np.flatnonzero(stubborn).tolist()
        assert all("converge" in o["reason"] for o in listed)

    def test_more_neighbours_than_structures(self, water_frames) -> None:
        with pytest.raises(TrainingError, match="k = 100 neighbours asked for, but only 60"):
            tiny(water_frames, k=100)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"trend": "cubic"}, "trend must be one of"),
            ({"weights": "cosine"}, "weights must be one of"),
            ({"k": 0}, "at least 1"),
            ({"n_components": 0}, "n_components must be at least 1, got 0"),
            ({"monomer_weight": 0.0}, "monomer_weight"),
        ],
    )
    def test_bad_settings(self, water_frames, options: dict, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            tiny(water_frames, **options)


class TestSmallestCases:
    @pytest.mark.parametrize("trend", ["none", "linear", "sparse"])
    def test_two_structures(self, trend: str) -> None:
        frames = water_clusters(2)
        model = tiny(frames, trend=trend, k=1)
        assert np.isfinite(model.predict(frames).energy_std).all()

    def test_k_equals_n(self, water_frames) -> None:
        assert len(tiny(water_frames[:8], k=8).predict(water_frames[0]).neighbors) == 8

    def test_constant_labels_and_one_composition(self) -> None:
        frames = [a for a in water_clusters(40) if len(a) == 6]
        for a in frames:
            a.info["reference_energy"] = -5.0
        model = tiny(frames, k=3)
        np.testing.assert_allclose(model.predict(frames).energy, -5.0, atol=1e-3)

    def test_single_element_and_single_atom(self) -> None:
        rng = np.random.default_rng(0)
        frames = [Atoms("H")] + [
            Atoms("H2", [[0, 0, 0], [0, 0, d]]) for d in rng.uniform(0.7, 2, 20)
        ]
        for i, a in enumerate(frames):
            a.info["reference_energy"] = -1.0 * len(a) + (0.1 * i if len(a) == 1 else 0.0)
            a.info["multiplicity"] = 2 if len(a) == 1 else 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)  # of ASE, with numpy 2.5
            model = tiny(frames, k=3)
        assert np.isfinite(model.predict(frames).energy).all()


def test_features_in_parallel_are_the_same(water_frames) -> None:
    descriptor = FCHL19((1, 8))
    one = compute_features(descriptor, water_frames, n_jobs=1, chunk=7)
    two = compute_features(descriptor, water_frames, n_jobs=2, chunk=7)
    np.testing.assert_array_equal(one.local, two.local)
    np.testing.assert_array_equal(one.starts, two.starts)


def test_fit_model_needs_two() -> None:
    descriptor = FCHL19((1, 8))
    batch = compute_features(descriptor, water_clusters(1))
    data = TrainingData(descriptor, batch, np.zeros(1), ["1w"], ["a"], np.ones(1))
    with pytest.raises(TrainingError, match="at least 2"):
        fit_model(data)


def test_a_bond_that_no_training_structure_has_is_novel(water_frames) -> None:
    """Whatever the size of the cluster: strangeness of atoms does not drown in their number."""
    sparse = SparseSettings(environments=300, variance_environments=100)
    model = tiny(water_frames, trend="sparse", sparse=sparse)
    assert model.calibration.remoteness_limit > 0
    usual = water_clusters(12, seed=50)
    assert np.mean(model.predict(usual, baseline_energy=np.zeros(12)).novelty > 1) < 0.4
    for atoms in usual:
        # The oxygen–hydrogen bonds of one water of the cluster.
        atoms.positions[1:3] += 0.6 * (atoms.positions[1:3] - atoms.positions[0])
        found = model.predict(atoms, baseline_energy=0.0)
        assert found.novelty > 1
