"""Work spread over processes and over a Dask cluster gives what one process gives."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from helpers.commands import knncalc
from helpers.factories import tiny, water_clusters
from threadpoolctl import threadpool_limits

from ase_knncalc import load_model, predict_frames, save_model, train
from ase_knncalc._lib import parallel
from ase_knncalc._lib.parallel import cluster, run
from ase_knncalc.errors import KNNCalcError, ModelFileError, SettingsError
from ase_knncalc.evaluation import compare, cross_validate, learning_curve, tune
from ase_knncalc.labelers import ASELabeler, label_frames
from ase_knncalc.labels.training_data import prepare
from ase_knncalc.settings import TrainingSettings

SMALL = TrainingSettings(trend="linear", n_components=5, metric_iterations=10, k=5)


def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs = [(i, 2) for i in range(7)]
    assert list(run(pow, jobs, total=7, n_jobs=1)) == [i * i for i in range(7)]
    assert list(run(pow, iter(jobs), total=7, n_jobs=2)) == [i * i for i in range(7)]
    assert sorted(run(pow, jobs, total=7, n_jobs=2, ordered=False)) == [i * i for i in range(7)]


def _dying(*, always: bool) -> Callable[[int, str], int]:
    """A function that ends its process, the first time or always, where the number is 3.

    Made here, it travels by value: processes that began in another folder have no module of tests.
    """

    def work(number: int, mark: str) -> int:
        if number == 3 and (always or not os.path.exists(mark)):
            with open(mark, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning")
def test_a_dead_worker_costs_what_was_in_work(tmp_path) -> None:
    for ordered in (True, False):
        jobs = [(i, str(tmp_path / f"mark-{ordered}")) for i in range(12)]
        found = list(run(_dying(always=False), iter(jobs), total=12, n_jobs=2, ordered=ordered))
        assert found == list(range(12)) if ordered else sorted(found) == list(range(12))
    with pytest.raises(KNNCalcError, match="3 times in a row"):
        list(run(_dying(always=True), jobs, total=12, n_jobs=2))


def test_workers_keep_to_one_thread_whatever_the_environment_says(monkeypatch) -> None:
    from joblib.externals.loky import get_reusable_executor

    def blas_threads() -> set[int]:
        import numpy  # noqa: F401
        from threadpoolctl import threadpool_info

        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    get_reusable_executor().shutdown()
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    try:
        found = list(run(blas_threads, [()] * 4, total=4, n_jobs=2))
    finally:
        get_reusable_executor().shutdown()
    assert found == [{1}] * 4


@pytest.mark.filterwarnings("ignore:.*tasks:UserWarning")
@pytest.mark.parametrize("n_jobs", [0, -2, 1.0, True])
def test_what_is_no_number_of_processes_is_refused_at_once(n_jobs) -> None:
    with pytest.raises(SettingsError, match="n_jobs must be a"):
        run(pow, [(2, 2)], total=1, n_jobs=n_jobs)


def test_jobs_are_taken_when_they_are_needed() -> None:
    taken = []

    def jobs():
        for i in range(500):
            taken.append(i)
            yield (0.02,)

    results = run(time.sleep, jobs(), total=500, n_jobs=2)
    next(results)
    assert len(taken) < 250
    results.close()


@pytest.fixture(scope="module")
def known(water_frames):
    return prepare(water_frames, settings=SMALL, baseline="none", n_jobs=1).data


def test_folds_in_parallel_are_the_same_folds(known) -> None:
    with threadpool_limits(1):
        one = cross_validate(known, SMALL, folds=3)
        two = cross_validate(known, SMALL, folds=3, n_jobs=2)
        np.testing.assert_array_equal(one.error, two.error)
        np.testing.assert_array_equal(one.std, two.std)
        both = compare(known, {"a": SMALL, "b": SMALL}, folds=3, n_jobs=2)
    for held in both.values():
        np.testing.assert_array_equal(held.error, one.error)


def test_tuning_and_learning_curve_in_parallel_are_the_same(known) -> None:
    other = TrainingSettings(trend="none", n_components=3, metric_iterations=10, k=3)
    reported = []
    with threadpool_limits(1):
        one = tune(known, {"a": SMALL, "b": other}, folds=2)
        two = tune(
            known,
            {"a": SMALL, "b": other},
            folds=2,
            n_jobs=2,
            report=lambda n, _: reported.append(n),
        )
        assert one == two
        assert reported == ["a", "b"]
        sizes = {"sizes": [20, 30], "repeats": 2}
        assert learning_curve(known, SMALL, **sizes) == learning_curve(
            known, SMALL, n_jobs=2, **sizes
        )


def test_many_predictions_are_those_of_one_at_a_time(tiny_model) -> None:
    frames = water_clusters(600, seed=3)
    for model in (tiny_model, tiny(water_clusters(60), trend="none", weights="distance")):
        many = predict_frames(model, frames, n_jobs=2)
        assert len(many) == 600
        for i in (0, 255, 256, 599):
            one = model.predict(frames[i])
            assert many[i].energy == pytest.approx(one.energy, abs=1e-9)
            assert many[i].energy_std == pytest.approx(one.energy_std, rel=1e-6)
            assert [n.name for n in many[i].neighbors] == [n.name for n in one.neighbors]
    assert len(predict_frames(tiny_model, [], n_jobs=2)) == 0


def _open_often(path: str, times: int) -> list[float]:
    atoms = water_clusters(1)[0]
    return [load_model(path).predict(atoms).energy for _ in range(times)]


def test_a_model_opened_from_several_processes_while_it_is_replaced(tmp_path, tiny_model) -> None:
    path = tmp_path / "model.h5"
    save_model(tiny_model, path)
    expected = load_model(path).predict(water_clusters(1)[0]).energy
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        results = [pool.apply_async(_open_often, (str(path), 15)) for _ in range(3)]
        while not all(r.ready() for r in results):
            save_model(tiny_model, path)
        for r in results:
            assert r.get() == [expected] * 15
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "absent.h5")


# ---------------------------------------------------------------------------------- Dask cluster


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def dask_cluster(tmp_path):
    """Address of a scheduler with two workers, and their processes by name."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    file = tmp_path / "scheduler.json"
    scheduler = _start(
        "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file),
        "--host", "127.0.0.1",
    )  # fmt: skip
    options = ["--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    workers = {
        name: _start("worker", *options, "--name", name, "--local-directory", str(tmp_path / name))
        for name in ("first", "second")
    }
    try:
        with distributed.Client(
            scheduler_file=str(file), timeout=60, set_as_default=False
        ) as client:
            client.wait_for_workers(2, timeout=60)
            yield client.scheduler.address, workers, client
    finally:
        for process in (*workers.values(), scheduler):
            process.kill()
            process.wait()


def _kill_when_busy(client, process: subprocess.Popen[bytes], name: str, done: list[int]) -> None:
    """Kill a worker while it has work."""
    while process.poll() is None:
        busy = client.processing()
        names = {w["name"]: address for address, w in client.scheduler_info()["workers"].items()}
        tasks = busy.get(names.get(name, ""), ())
        if tasks:
            process.send_signal(signal.SIGKILL)
            done.append(len(tasks))
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_training_survives_the_death_of_a_worker_bit_for_bit(cluster_frames, dask_cluster) -> None:
    address, workers, client = dask_cluster
    frames = [a.copy() for a in cluster_frames]
    for a in frames:  # all baselines are to be computed
        a.info.pop("baseline_energy", None)
        a.arrays.pop("baseline_forces", None)
    options = {"n_components": 10, "metric_iterations": 20, "reference": "ωB97X-D"}
    with threadpool_limits(1):
        serial = train([a.copy() for a in frames], n_jobs=1, **options)
        killed: list[int] = []
        killer = threading.Thread(
            target=_kill_when_busy, args=(client, workers["first"], "first", killed)
        )
        killer.start()
        with cluster(address):
            spread = train([a.copy() for a in frames], n_jobs=-1, **options)
        killer.join(timeout=30)
    assert killed, "the worker had work when it was killed"
    assert workers["first"].wait(timeout=10) == -signal.SIGKILL
    assert workers["second"].poll() is None
    assert spread.info.errors == serial.info.errors
    a, b = serial.predict(frames), spread.predict(frames)
    for name in ("energy", "energy_std", "novelty"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(serial.metric.components, spread.metric.components)
    np.testing.assert_array_equal(serial.knn.residuals, spread.knn.residuals)


@pytest.mark.slow
def test_folds_and_labels_on_a_cluster(known, dask_cluster) -> None:
    from ase.calculators.lj import LennardJones

    address, _, _ = dask_cluster
    frames = water_clusters(6)
    labeler = ASELabeler(lambda charge, multiplicity: LennardJones(), method="LJ")
    with threadpool_limits(1):
        one = cross_validate(known, SMALL, folds=3)
        with cluster(address):
            two = cross_validate(known, SMALL, folds=3, n_jobs=-1)
            labelled, failed = label_frames(labeler, frames)
    np.testing.assert_array_equal(one.error, two.error)
    assert not failed
    expected, _ = label_frames(labeler, frames)
    for a, b in zip(labelled, expected, strict=True):
        assert a.info["reference_energy"] == b.info["reference_energy"]


def test_no_scheduler_is_told(tmp_path, monkeypatch) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setattr(parallel, "_PATIENCE", 0.5)
    with pytest.raises(SettingsError, match="no Dask scheduler answers"), cluster("nonsense://x:1"):
        pass
    called = knncalc("check", "any.xyz", "--dask", "nonsense://x:1", cwd=tmp_path, code=1)
    assert called.stderr.startswith("knncalc: error: no Dask scheduler answers at nonsense://x:1")
