"""Models that were read already are shared."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.factories import water_clusters

from ase_knncalc import KNNCalculator, clear_cache, load_model, save_model
from ase_knncalc.errors import ModelFileError

AN_HOUR_AGO = time.time() - 3600


@pytest.fixture
def path(tiny_model, tmp_path) -> Path:
    file = tmp_path / "model.h5"
    save_model(tiny_model, file)
    os.utime(file, (AN_HOUR_AGO, AN_HOUR_AGO))
    clear_cache()
    return file


def test_calculators_of_one_file_share_its_arrays(path) -> None:
    first, second = KNNCalculator(path), KNNCalculator(os.path.relpath(path))
    assert first.model.knn.index is second.model.knn.index
    assert first.model.trend is second.model.trend
    other = load_model(path, baseline=None)
    assert other.baseline is None
    assert first.model.baseline is not None
    assert other.trend is first.model.trend
    with pytest.raises(ValueError, match="read-only"):
        other.trend.offsets[0] = 1.0


def test_numbers_are_those_of_a_model_read_anew(path) -> None:
    atoms = water_clusters(2, seed=4)[1]
    shared = [load_model(path, baseline=None).predict(atoms).delta for _ in range(2)]
    clear_cache()
    assert shared == [load_model(path, baseline=None).predict(atoms).delta] * 2


def test_a_file_that_changed_is_read_again(path, tiny_model) -> None:
    old = load_model(path)
    save_model(tiny_model, path)
    new = load_model(path)
    assert new.trend is not old.trend
    # Changed a moment ago: it may change again before the clock has moved on.
    assert load_model(path).trend is not new.trend
    os.utime(path, (AN_HOUR_AGO, AN_HOUR_AGO + 60))
    kept = load_model(path)
    assert load_model(path).trend is kept.trend
    clear_cache()
    assert load_model(path).trend is not kept.trend


def test_damage_is_told_each_time_and_not_kept(path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    os.utime(path, (AN_HOUR_AGO, AN_HOUR_AGO + 1))
    for _ in range(2):
        with pytest.raises(ModelFileError):
            load_model(path)
    path.unlink()
    with pytest.raises(ModelFileError):
        load_model(path)
    path.write_bytes(content)
    assert len(load_model(path))


def test_threads_get_one_model(path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: load_model(path), range(16)))
        found = list(pool.map(lambda _: load_model(path), range(16)))
    assert len({id(m.trend) for m in found}) == 1


def _ask(path: Path) -> float:
    return load_model(path, baseline=None).predict(water_clusters(1)[0]).delta


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_models_read_before_a_fork_are_there_after_it(path) -> None:
    expected = _ask(path)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_ask, [path] * 4) == [expected] * 4


def test_many_calculators_of_the_general_model_need_little_more_than_one() -> None:
    code = (
        "from ase_knncalc import KNNCalculator\n"
        "from helpers.endurance import resident_mib\n"
        "kept = [KNNCalculator('multibase-wb97xd')]\n"
        "before = resident_mib()\n"
        "kept += [KNNCalculator('multibase-wb97xd') for _ in range(299)]\n"
        "print(resident_mib() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert float(done.stdout) < 100, "MiB"
