"""Appending labelled structures to a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from helpers.factories import water_clusters

from ase_knncalc import load_model, save_model
from ase_knncalc.analysis.membership import training_twins
from ase_knncalc.descriptors import featurize
from ase_knncalc.errors import (
    ChargeError,
    DataError,
    ModelFileError,
    UnknownElementError,
)
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.training import append, append_to_file, needs_retraining

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def more():
    """Structures that the model has not seen."""
    return water_clusters(24, seed=5)


def _features(model, frames):
    return featurize(model.descriptor, [(a.numbers, a.positions, 0) for a in frames])


def test_residuals_are_what_the_trend_leaves_over(tiny_model, more) -> None:
    outcome = append(tiny_model, more)
    grown = outcome.model
    n = len(tiny_model)
    assert len(grown) == n + len(more) == grown.info.n_structures
    assert outcome.added == [a.info["name"] for a in more]
    delta = np.array([a.info["reference_energy"] for a in more])
    batch = _features(tiny_model, more)
    left = delta - tiny_model.trend.predict(batch)
    # All but a few that lie beyond six standard deviations.
    assert np.mean(np.abs(grown.knn.residuals[n:] - left) < 1e-4) > 0.7
    assert np.all(np.abs(grown.knn.residuals[n:]) <= np.abs(left) + 1e-4)
    assert np.all(grown.knn.residuals[n:] * left >= 0)
    np.testing.assert_array_equal(grown.knn.index.points[:n], tiny_model.knn.index.points)
    np.testing.assert_allclose(
        grown.knn.index.points[n:], tiny_model.metric.place(batch), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(grown.metric.components, tiny_model.metric.components)
    predicted = tiny_model.predict(more).delta
    np.testing.assert_allclose(outcome.errors, predicted - delta, atol=1e-3)


def test_added_structures_are_their_own_neighbours(tiny_model, more) -> None:
    grown = tiny_model.append(more)
    for atoms in more[:5]:
        nearest = grown.predict(atoms).neighbors[0]
        assert nearest.name == atoms.info["name"]
        assert nearest.distance < 1e-3 < tiny_model.predict(atoms).neighbors[0].distance


def test_predictions_near_additions_get_better(water_model, more) -> None:
    model = water_model(trend="none", weights="distance")
    grown = model.append(more)
    moved = [a.copy() for a in more]
    for a in moved:
        a.positions += 1e-3
    truth = np.array([a.info["reference_energy"] for a in more])
    old = np.abs(model.predict(moved).delta - truth).mean()
    assert np.abs(grown.predict(moved).delta - truth).mean() < 0.05 * old


def test_appending_twice_adds_nothing(tiny_model, more) -> None:
    once = append(tiny_model, more)
    again = append(once.model, [*more, *water_clusters(2, seed=9)])
    assert len(again.added) == 2
    assert {o.category for o in again.omitted} == {"duplicate"}
    nothing = append(once.model, more)
    assert nothing.added == []
    assert nothing.model is once.model


@pytest.mark.parametrize("composition", [None, "anything"])
def test_known_structures_are_known_under_any_label(tiny_model, water_frames, composition) -> None:
    other = [a.copy() for a in water_frames]
    for i, atoms in enumerate(other):
        atoms.info.update(name=f"x{i}", composition=composition)
        if composition is None:
            del atoms.info["composition"]
    fresh = water_clusters(2, seed=9)
    outcome = append(tiny_model, [*other, *fresh])
    assert outcome.added == [a.info["name"] for a in fresh]
    assert {o.category for o in outcome.omitted} == {"duplicate"}
    # The reason names the structure as the model knows it.
    for omission, atoms in zip(outcome.omitted, water_frames, strict=True):
        assert omission.reason.endswith(f"already, as {atoms.info['name']}")


def test_one_place_is_no_twin_if_elements_or_charge_differ(tiny_model, water_frames) -> None:
    """Where a metric tells nothing apart, composition and charge still do."""
    metric = tiny_model.metric
    flat = replace(tiny_model, metric=replace(metric, components=np.zeros_like(metric.components)))
    term = flat.knn
    index = NeighborIndex(np.zeros_like(term.index.points))
    flat = replace(flat, knn=KNNTerm(index, term.residuals, term.settings))
    five = water_clusters(5, seed=3, largest=5)[-1:]
    known = water_clusters(1, seed=3)
    frames = [*five, *known]
    twins = training_twins(flat, frames, _features(flat, frames))
    assert twins[0] == []
    sizes = [len(a) for a in water_frames]
    assert twins[1] == [i for i, n in enumerate(sizes) if n == 3]
    batch = _features(flat, known)
    charged = replace(batch, charges=batch.charges - 1)
    assert training_twins(flat, known, charged) == [[]]


def test_models_of_old_tell_by_the_composition(tiny_model, water_frames, more) -> None:
    old = replace(tiny_model, held_out=None)
    outcome = append(old, [*water_frames[:3], more[0]])
    assert outcome.added == [more[0].info["name"]]
    assert [o.category for o in outcome.omitted] == ["duplicate"] * 3


def test_known_structures_with_another_energy_are_told(tiny_model, water_frames, more) -> None:
    off = [a.copy() for a in water_frames[:6]]
    off[1].info["reference_energy"] += 1.0
    off[4].info["reference_energy"] /= 27.211386
    off[5].info["reference_energy"] += 1e-4  # rounding
    difference = off[4].info["reference_energy"] - water_frames[4].info["reference_energy"]
    with pytest.warns(UserWarning, match=r"labels of 2 structures contradict .*\+1\.0000 eV diff"):
        outcome = append(tiny_model, [*off, more[0]])
    assert outcome.added == [more[0].info["name"]]
    conflicts = [o for o in outcome.omitted if o.category == "duplicate-conflict"]
    assert [o.name for o in conflicts] == [off[1].info["name"], off[4].info["name"]]
    assert "+1.0000 eV different" in conflicts[0].reason
    assert f"{difference:+.4f} eV different" in conflicts[1].reason
    assert sum(o.category == "duplicate" for o in outcome.omitted) == 4
    # An addition is compared as the training data are.
    again = more[0].copy()
    again.info["reference_energy"] -= 2.0
    with pytest.warns(UserWarning, match=r"-2\.0000 eV different"):
        append(outcome.model, [again])


def test_one_by_one_is_as_all_at_once_in_everything_but_calibration(tiny_model, more) -> None:
    together = tiny_model.append(more[:6])
    single = tiny_model
    for atoms in more[:6]:
        single = single.append([atoms])
    np.testing.assert_array_equal(together.knn.index.points, single.knn.index.points)
    # The limit of residuals knows what was added before.
    np.testing.assert_allclose(together.knn.residuals, single.knn.residuals, rtol=0.2)
    assert together.info.size_range == single.info.size_range


def test_provenance_of_each_addition_is_in_the_file(tiny_model, more, tmp_path) -> None:
    path = tmp_path / "model.h5"
    save_model(tiny_model, path)
    outcome = append_to_file(path, more[:3], source="made up")
    loaded = load_model(path)
    assert len(loaded) == len(tiny_model) + 3
    records = loaded.info.provenance.additions
    assert [r["name"] for r in records] == outcome.added
    assert {r["source"] for r in records} == {"made up"}
    assert records[0]["reference_energy"] == pytest.approx(more[0].info["reference_energy"])
    assert records[0]["date"]
    append_to_file(path, more[3:5])
    assert len(load_model(path).info.provenance.additions) == 5
    assert loaded.calibration.scale >= tiny_model.calibration.scale


def test_wrong_additions_widen_the_uncertainty_and_call_for_training(tiny_model, more) -> None:
    assert not needs_retraining(tiny_model).needed
    few = tiny_model.append(more[:2])
    assert needs_retraining(few, growth=0.5).reasons == []
    assert "training structures" in needs_retraining(few, growth=0.01).reasons[0]
    off = [a.copy() for a in more[:10]]
    for i, a in enumerate(off):
        a.info["reference_energy"] += 0.9 * (-1) ** i
    wrong = tiny_model.append(off)
    assert wrong.calibration.scale > 1.2 * tiny_model.calibration.scale
    advice = needs_retraining(wrong, growth=10.0)
    assert advice.needed
    assert advice.p_value < 0.01
    assert "90 % interval" in advice.reasons[0]


def test_wild_labels_are_left_out(tiny_model, more) -> None:
    frames = [a.copy() for a in more[:9]]
    for atoms in frames[:4]:
        atoms.info["reference_energy"] -= 5.0
    outcome = append(tiny_model, frames)
    assert outcome.added == [a.info["name"] for a in frames[4:]]
    assert [o.name for o in outcome.omitted] == [a.info["name"] for a in frames[:4]]
    assert all(" eV from what the model predicts" in o.reason for o in outcome.omitted)


def test_a_wild_label_does_not_reach_its_neighbours(tiny_model, more) -> None:
    wild = more[0].copy()
    wild.info["reference_energy"] += 500.0
    grown = tiny_model.append([*more[1:3], wild], check_labels=False)
    std = float(tiny_model.predict(wild).energy_std)
    assert abs(grown.knn.residuals[-1]) <= 6.01 * max(std, np.abs(tiny_model.knn.residuals).max())


@pytest.mark.parametrize("per_atom", [-30.0, 2.0])
def test_labels_of_another_level_are_refused(tiny_model, more, per_atom: float) -> None:
    other = [a.copy() for a in more[:8]]
    for atoms in other:
        atoms.info["reference_energy"] += per_atom * len(atoms)
    for frames in (other, other[:1]):
        with pytest.raises(DataError, match="another level of theory than 'pairs'"):
            append(tiny_model, frames)
    assert len(append(tiny_model, other, check_labels=False).added) == 8


def test_what_is_not_covered_is_refused(tiny_model, more, tmp_path) -> None:
    ammonia = molecule("NH3")
    ammonia.info["reference_energy"] = -1.0
    ammonia.info["name"] = "1am"
    with pytest.raises(UnknownElementError, match=r"1am cannot be appended: .*N.*train again"):
        append(tiny_model, [ammonia])
    charged = more[0].copy()
    charged.info.update(charge=-1, multiplicity=2)
    with pytest.raises(ChargeError, match="train again"):
        append(tiny_model, [charged])
    bare = more[0].copy()
    del bare.info["reference_energy"]
    with pytest.raises(DataError, match="reference_energy"):
        append(tiny_model, [bare])
    with pytest.raises(ModelFileError, match="copy it first"):
        append_to_file("saw-wb97xd", more)
    no_baseline = append(tiny_model.with_baseline(None), more[:1])
    assert no_baseline.added == []
    assert no_baseline.omitted[0].category == "baseline"


def test_where_the_neighbours_are_off_the_energy_stays(water_model, more) -> None:
    model = water_model(weights="kernel", bandwidth=1.0, nugget=1e6)
    outcome = append(model, more)
    assert not outcome.changes_energies
    other = water_clusters(5, seed=8)
    np.testing.assert_allclose(
        model.predict(other).delta, outcome.model.predict(other).delta, atol=1e-6
    )


_LOOP = """
import sys
sys.path.insert(0, {tests!r})
from helpers.factories import water_clusters
from ase_knncalc.training import append_to_file
for i in range(100):
    append_to_file({path!r}, water_clusters(2, seed=100 + i))
    print(i, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_killed_append_leaves_a_whole_file(tiny_model, tmp_path) -> None:
    path = tmp_path / "model.h5"
    save_model(tiny_model, path)
    script = _LOOP.format(tests=TESTS, path=str(path))
    rng = np.random.default_rng(0)
    known = len(tiny_model)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        model = load_model(path)  # verifies the checksum
        assert len(model) >= known
        assert len(model) == len(tiny_model) + len(model.info.provenance.additions)
        names = [(r["name"], r["reference_energy"]) for r in model.info.provenance.additions]
        assert len(set(names)) == len(names)
        known = len(model)


def test_two_writers_lose_nothing(tiny_model, tmp_path) -> None:
    path = tmp_path / "model.h5"
    save_model(tiny_model, path)
    script = (
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from helpers.factories import water_clusters\n"
        "from ase_knncalc.training import append_to_file\n"
        "for i in range(4):\n"
        f"    append_to_file({str(path)!r}, water_clusters(2, seed=int(sys.argv[1]) + i))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(start)]) for start in (1000, 2000)
    ]
    assert [w.wait() for w in writers] == [0, 0]
    assert len(load_model(path)) == len(tiny_model) + 16


@pytest.mark.slow
def test_one_structure_onto_fifteen_thousand_is_fast(tmp_path) -> None:
    from ase_knncalc.store import find_model

    path = tmp_path / "big.h5"
    path.write_bytes(find_model("multibase-wb97xd").read_bytes())
    atoms = molecule("H2O")
    atoms += molecule("NH3")
    atoms.positions[3:] += [0.0, 0.0, 3.2]
    known = load_model(path).baseline.energy(atoms, 0, 1)
    atoms.info.update(name="hydrate", reference_energy=-3618.0, baseline_energy=known)
    before = len(load_model(path, baseline=None))
    appending, loading = [], []
    for i in range(4):
        atoms.positions[3:] += [0.0, 0.0, 0.1]
        start = time.process_time()
        outcome = append_to_file(path, [atoms], baseline=None)
        appending.append(time.process_time() - start)
        assert outcome.added == ["hydrate"]
        start = time.process_time()
        assert len(load_model(path, baseline=None)) == before + i + 1
        loading.append(time.process_time() - start)
    assert before > 15_000
    # Nothing is learned anew: the file is read, checked and written once.
    assert min(appending) < 10 * min(loading)


def test_held_out_errors_grow_with_the_model(tiny_model, more) -> None:
    outcome = append(tiny_model, more)
    grown = outcome.model.held_out
    n = len(tiny_model)
    np.testing.assert_array_equal(grown.errors[:n], tiny_model.held_out.errors)
    np.testing.assert_allclose(grown.errors[n:], outcome.errors, rtol=1e-6)
    np.testing.assert_allclose(grown.deltas[n:], [a.info["reference_energy"] for a in more])
    np.testing.assert_array_equal(grown.sizes[n:], [len(a) for a in more])


@pytest.mark.parametrize(("unit", "factor"), [("Hartree", 1 / 27.211386), ("kcal/mol", 23.060548)])
def test_additions_in_another_unit_are_refused(tiny_model, more, unit: str, factor: float) -> None:
    for atoms in (wrong := [a.copy() for a in more]):
        atoms.info["reference_energy"] *= factor
    with pytest.raises(DataError, match=f"look like {unit}, not eV"):
        append(tiny_model, wrong)


@pytest.mark.parametrize("index", ["conf-3", None, float("nan"), [1], np.array([1, 2]), 2.5, 7])
def test_an_index_that_is_no_integer_is_not_taken_for_one(tiny_model, more, index: object) -> None:
    frames = [a.copy() for a in more[:3]]
    grown = append(tiny_model, frames).model
    for atoms in frames:
        atoms.info["index"] = index
    omitted = append(grown, frames).omitted
    assert [o.index for o in omitted] == ([7, 7, 7] if isinstance(index, int) else [0, 1, 2])


def test_appending_through_a_link_keeps_it(tiny_model, more, tmp_path) -> None:
    real, link = tmp_path / "model.h5", tmp_path / "link.h5"
    save_model(tiny_model, real)
    real.chmod(0o600)
    link.symlink_to(real)
    append_to_file(link, more[:4])
    assert link.is_symlink()
    assert len(load_model(real)) == len(tiny_model) + 4
    assert real.stat().st_mode & 0o777 == 0o600
