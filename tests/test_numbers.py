"""The same number however it is asked for, and numbers that add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from helpers.asking import bits, bits_of_file
from helpers.factories import pair_energy, tiny, water_clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc import (
    KNNCalculator,
    list_models,
    load_model,
    predict_frames,
    save_model,
    train,
)
from ase_knncalc.errors import BaselineError, ChargeError, DataError, TrainingError
from ase_knncalc.trend.sparse import SparseSettings

SHIPPED = list_models()


@pytest.fixture(scope="module")
def clusters(cluster_frames):
    """Clusters of water and sulfuric acid, as every shipped model covers them."""
    return [Atoms(a.numbers, a.positions) for a in cluster_frames if set(a.numbers) <= {1, 8, 16}]


def spread_out(frames: list[Atoms], n: int) -> Atoms:
    """The first ``n`` structures as one, 8 Å apart on a grid."""
    parts = []
    for i, a in enumerate(frames[:n]):
        part = a.copy()
        part.translate([8.0 * (i % 4), 8.0 * (i // 4 % 4), 8.0 * (i // 16)])
        parts.append(part)
    return Atoms(
        np.concatenate([p.numbers for p in parts]), np.vstack([p.positions for p in parts])
    )


# ------------------------------------------------------------------------------- the same number

OTHER_PROCESS = """
import json, sys
import numpy as np
from ase import Atoms
from ase_knncalc import load_model
from helpers.asking import bits
frames = [Atoms(z, np.array(r)) for z, r in json.load(sys.stdin)]
for name in sys.argv[1:]:
    print(json.dumps(bits(load_model(name, baseline=None), frames)))
    model = load_model(name)
    print(json.dumps(bits(model, frames[:4], forces=True)))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_same_bits_in_another_process_on_any_number_of_threads(clusters, threads: str) -> None:
    """Up to 80 atoms: large enough for linear algebra to be shared out among threads."""
    frames = [*clusters[:4], *(spread_out(clusters, n) for n in (4, 9, 16))]
    here = [json.loads(json.dumps(bits(load_model(n, baseline=None), frames))) for n in SHIPPED]
    with_forces = [
        json.loads(json.dumps(bits(load_model(n), frames[:4], forces=True))) for n in SHIPPED
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
    }
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = threads
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *SHIPPED],
        input=json.dumps([[a.numbers.tolist(), a.positions.tolist()] for a in frames]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    # JSON holds all digits of a number.
    assert lines[::2] == here
    assert lines[1::2] == with_forces


def test_same_bits_alone_in_a_batch_and_from_a_file(clusters, tmp_path) -> None:
    frames = clusters[:12]
    model = load_model("saw-wb97xd")
    alone = [model.predict(a) for a in frames]
    batch = model.predict(frames)
    spread = predict_frames(model, frames, n_jobs=2)
    save_model(model, tmp_path / "copy.h5")
    copied = load_model(tmp_path / "copy.h5").predict(frames)
    for found in (batch, copied, [batch[i] for i in range(len(frames))]):
        for one, many in zip(alone, found, strict=True):
            assert one.energy == many.energy
            assert (one.energy_std, one.novelty) == (many.energy_std, many.novelty)
            assert one.neighbors == many.neighbors
    # Many at once in one product of matrices: rounding differs, but is always the same.
    assert np.abs(spread.energy - batch.energy).max() < 1e-8
    assert np.abs(spread.energy_std - batch.energy_std).max() < 1e-8
    again = predict_frames(model, frames, n_jobs=1)
    assert spread.energy.tolist() == again.energy.tolist()


def test_eight_threads_share_a_model(clusters) -> None:
    model = load_model("saw-wb97xd")
    frames = [a for a in clusters if len(a) < 12][:16]
    expected = [(p.energy, p.energy_std, p.forces.tolist()) for p in
                (model.predict(a, forces=True) for a in frames)]  # fmt: skip

    def work(start: int) -> list[bool]:
        calculator = KNNCalculator(model, on_novelty="ignore")
        same = []
        for i in np.roll(np.arange(len(frames)), start):
            atoms = frames[i].copy()
            atoms.calc = calculator
            forces = atoms.get_forces()  # with on_novelty="ignore" no word of slopes
            found = (
                atoms.get_potential_energy(),
                calculator.results["energy_std"],
                forces.tolist(),
            )
            same.append(found == expected[i])
        return same

    from threadpoolctl import threadpool_info

    before = [(p["filepath"], p["num_threads"]) for p in threadpool_info()]
    with ThreadPoolExecutor(8) as pool:
        assert all(all(same) for same in pool.map(work, range(8)))
    assert [(p["filepath"], p["num_threads"]) for p in threadpool_info()] == before


def test_four_processes_share_a_file(clusters) -> None:
    from joblib import Parallel, delayed

    frames = clusters[:4]
    here = bits(load_model("saw-wb97xd"), frames)
    found = Parallel(n_jobs=4)(delayed(bits_of_file)("saw-wb97xd", frames) for _ in range(4))
    assert found == [here] * 4


# -------------------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("library", ["tblite", "xtb"])
@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_invariant_to_rotation_translation_and_order(clusters, name, library, seed: int) -> None:
    pytest.importorskip(f"{library}.interface")
    rng = np.random.default_rng(seed)
    atoms = clusters[int(rng.integers(len(clusters)))]
    if library == "xtb" and "parameters" in load_model(name, baseline=None).info.baseline:
        with pytest.raises(BaselineError, match="use baseline='auto'"):
            load_model(name, baseline=library)
        return
    model = load_model(name, baseline=library)
    order = rng.permutation(len(atoms))
    turn = Rotation.random(random_state=rng)
    moved = Atoms(
        atoms.numbers[order], turn.apply(atoms.positions[order]) + rng.uniform(-50, 50, 3)
    )
    mirrored = Atoms(atoms.numbers, atoms.positions * [1, 1, -1])
    told = model.predict(atoms, forces=True)
    found = model.predict(moved, forces=True)
    assert abs(found.energy - told.energy) < 1e-6
    assert abs(found.energy_std - told.energy_std) < 1e-6
    assert abs(found.novelty - told.novelty) < 1e-5
    assert np.abs(found.delta_forces - turn.apply(told.delta_forces[order])).max() < 1e-6
    # The self-consistent cycle of the baseline is converged to less.
    assert np.abs(found.forces - turn.apply(told.forces[order])).max() < 1e-3
    assert abs(model.predict(mirrored).energy - told.energy) < 1e-6


# -------------------------------------------------------------------------------- size consistency


def far_apart(first: Atoms, second: Atoms, distance: float = 50.0) -> Atoms:
    second = second.copy()
    gap = first.positions[:, 0].max() + distance - second.positions[:, 0].min()
    second.translate([gap, 0, 0])
    both = first + second
    both.info = {}
    return both


TREND_TOLERANCE = 1e-6
"""eV, of the sum of trends of clusters out of each other's reach."""
WHOLE_TOLERANCE = 0.01
"""eV, of the whole of the shipped models: what the k-NN term adds to the parts but not to both."""


@pytest.mark.parametrize("name", SHIPPED)
def test_two_clusters_far_apart_are_the_sum_of_both(clusters, name: str) -> None:
    """The trend exactly; the k-NN term to within what it adds to the three structures itself."""
    model = load_model(name, baseline=None)
    worst = 0.0
    for first, second in zip(clusters[:10], clusters[5:15], strict=True):
        parts = [model.predict(a) for a in (first, second)]
        both = model.predict(far_apart(first, second))
        assert abs(both.trend - sum(p.trend for p in parts)) < TREND_TOLERANCE
        slack = abs(both.knn) + sum(abs(p.knn) for p in parts)
        difference = abs(both.delta - sum(p.delta for p in parts))
        assert difference <= slack + TREND_TOLERANCE
        worst = max(worst, difference)
    # A kernel mean is below the largest residual; models trained on forces have the term off.
    assert worst <= 3 * float(np.abs(model.knn.residuals).max()) + TREND_TOLERANCE
    assert worst < (2 * TREND_TOLERANCE if model.trained_on_forces else WHOLE_TOLERANCE)


@pytest.mark.parametrize("library", ["tblite", "xtb"])
def test_the_baseline_is_size_consistent_too(clusters, library: str) -> None:
    """To what two dipoles at 50 Å and the convergence of two calculations leave, eV."""
    pytest.importorskip(f"{library}.interface")
    model = load_model("saw-wb97xd-md", baseline=library)
    first, second = clusters[0], clusters[7]
    whole = model.predict(far_apart(first, second)).energy
    assert whole == pytest.approx(sum(model.predict(a).energy for a in (first, second)), abs=1e-3)


def charged_clusters(n: int = 90) -> list[Atoms]:
    frames = water_clusters(n, seed=3)
    for i, a in enumerate(frames):
        charge = (0, 1, -1)[i % 3]
        a.info.update(charge=charge, multiplicity=1 if charge == 0 else 2)
        a.info["reference_energy"] = pair_energy(a) + 2.5 * charge + 0.75 * abs(charge)
    return frames


@pytest.mark.parametrize("trend", ["linear", "sparse"])
def test_charges_add_up_unless_they_cancel(trend: str) -> None:
    """The offset of |q| sees total charges only: +1 and −1 far apart count as neutral."""
    frames = charged_clusters()
    options = {"check_labels": False}  # "1w" would be neutral
    model = tiny(frames, trend=trend, sparse=SparseSettings(environments=60), **options)
    neutral, plus, minus = frames[3], frames[1], frames[2]

    def trend_of(atoms: Atoms, charge: int) -> float:
        multiplicity = 1 if charge == 0 else 2
        return float(model.predict(atoms, charge=charge, multiplicity=multiplicity).trend)

    for ion, charge in ((plus, 1), (minus, -1)):
        whole = trend_of(far_apart(neutral, ion), charge)
        assert abs(whole - trend_of(neutral, 0) - trend_of(ion, charge)) < TREND_TOLERANCE
    with pytest.raises(ChargeError, match=r"\+2 is not covered"):
        model.predict(far_apart(plus, plus), charge=2)
    pair = trend_of(far_apart(plus, minus), 0)
    missing = trend_of(plus, 1) + trend_of(minus, -1) - pair
    assert missing == pytest.approx(2 * float(model.trend.offsets[-1]), abs=TREND_TOLERANCE)
    assert missing == pytest.approx(2 * 0.75, abs=0.3)


# ------------------------------------------------------------------------------- poor training sets

TRENDS = [("sparse", "auto"), ("linear", "auto"), ("none", "auto"), ("linear", "kriging")]


def check_sane(model, frames: list[Atoms], tmp_path) -> None:
    save_model(model, tmp_path / "poor.h5")
    model = load_model(tmp_path / "poor.h5")
    for atoms in frames:
        p = model.predict(atoms)
        assert np.isfinite([p.energy, p.energy_std, p.novelty]).all()
        assert p.energy_std > 0
        low, high = p.energy_interval(0.9)
        assert low <= p.energy <= high


@pytest.mark.parametrize(("trend", "weights"), TRENDS)
class TestPoorTrainingSets:
    def test_two_structures(self, trend: str, weights: str, tmp_path) -> None:
        frames = water_clusters(2)
        model = tiny(frames, trend=trend, weights=weights, k=2)
        check_sane(model, frames, tmp_path)

    def test_k_is_n(self, trend: str, weights: str, tmp_path) -> None:
        frames = water_clusters(12)
        check_sane(tiny(frames, trend=trend, weights=weights, k=12), frames, tmp_path)
        with pytest.raises(TrainingError, match="k = 13 neighbours asked for, but only 12"):
            tiny(frames, trend=trend, weights=weights, k=13)

    def test_one_composition(self, trend: str, weights: str, tmp_path) -> None:
        frames = [a for a in water_clusters(60) if a.info["composition"] == "3w"]
        model = tiny(frames, trend=trend, weights=weights)
        check_sane(model, [*frames, *water_clusters(4, seed=8)], tmp_path)

    def test_one_element(self, trend: str, weights: str, tmp_path) -> None:
        rng = np.random.default_rng(0)
        frames = []
        for i in range(20):
            grid = np.argwhere(np.ones((3, 3, 3)))[: 3 + i % 4] * 3.5
            atoms = Atoms(f"Ar{3 + i % 4}", grid + rng.normal(0, 0.2, (3 + i % 4, 3)))
            atoms.info["reference_energy"] = pair_energy(atoms) - 5.0 * len(atoms)
            frames.append(atoms)
        check_sane(tiny(frames, trend=trend, weights=weights), frames, tmp_path)

    def test_constant_labels(self, trend: str, weights: str, tmp_path) -> None:
        frames = [a for a in water_clusters(80) if a.info["composition"] == "2w"]
        for a in frames:
            a.info["reference_energy"] = -7.0
        model = tiny(frames, trend=trend, weights=weights)
        check_sane(model, frames, tmp_path)
        for a in frames:
            assert model.predict(a).energy == pytest.approx(-7.0, abs=1e-3)

    def test_doubled_structures_count_once(self, trend: str, weights: str, tmp_path) -> None:
        frames = water_clusters(20)
        twice = [*frames, *(a.copy() for a in frames)]
        for i, a in enumerate(twice):
            a.info["name"] = f"copy-{i}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = tiny(twice, trend=trend, weights=weights)
            assert len(model) == 20
            assert len(model.info.provenance.omitted) == 20
        check_sane(model, frames, tmp_path)

    def test_nearly_doubled_structures(self, trend: str, weights: str, tmp_path) -> None:
        """Closer than the metric can tell, further than a duplicate is."""
        frames = water_clusters(20)
        near = [a.copy() for a in frames]
        for a in near:
            a.positions[0] += [2e-3, 0, 0]
        model = tiny([*frames, *near], trend=trend, weights=weights)
        assert len(model) == 40
        check_sane(model, frames, tmp_path)


def test_one_structure_is_not_enough() -> None:
    with pytest.raises(DataError, match="at least 2 usable frames, 1"):
        train(water_clusters(1), baseline="none", n_jobs=1)
