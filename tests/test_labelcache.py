"""The label cache: nothing lost, nothing paid for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from ase.build import molecule

from ase_knncalc.errors import DataError, ModelFileError
from ase_knncalc.labelcache import CachedLabel, LabelCache, label_key


def test_labels_come_back(tmp_path) -> None:
    path = tmp_path / "labels.h5"
    forces = np.arange(6.0).reshape(2, 3) / 7
    with LabelCache(path) as cache:
        cache.put("a" * 64, CachedLabel(-1.25))
        cache.put("b" * 64, CachedLabel(2.0, forces))
        cache.put("c" * 64, CachedLabel(None, None, "did not converge: ü"))
    assert sorted(os.listdir(tmp_path)) == ["labels.h5"]
    with LabelCache(path) as cache:
        assert len(cache) == 3
        assert cache.get("a" * 64) == CachedLabel(-1.25)
        np.testing.assert_array_equal(cache.get("b" * 64).forces, forces)
        assert cache.get("c" * 64).error == "did not converge: ü"
        assert cache.get("d" * 64) is None


def test_key_depends_on_everything_the_energy_depends_on() -> None:
    water = molecule("H2O")
    keys = {label_key(water, 0, 1, {"method": "a"})}
    keys.add(label_key(water, 1, 1, {"method": "a"}))
    keys.add(label_key(water, 0, 3, {"method": "a"}))
    keys.add(label_key(water, 0, 1, {"method": "b"}))
    water.positions[0, 0] += 1e-12
    keys.add(label_key(water, 0, 1, {"method": "a"}))
    water.numbers[0] = 16
    keys.add(label_key(water, 0, 1, {"method": "a"}))
    assert len(keys) == 6


def test_second_writer_is_told(tmp_path) -> None:
    with LabelCache(tmp_path / "labels.h5"), pytest.raises(DataError, match="in use"):
        LabelCache(tmp_path / "labels.h5")
    LabelCache(tmp_path / "labels.h5").close()


def test_torn_journal_line_is_dropped_and_the_rest_kept(tmp_path) -> None:
    path = tmp_path / "labels.h5"
    cache = LabelCache(path)
    for i in range(5):
        cache.put(f"{i:064d}", CachedLabel(float(i)))
    journal = path.with_name("labels.h5.journal")
    content = journal.read_bytes()
    cache._journal.close()
    for cut in range(len(content) - 40, len(content)):
        journal.write_bytes(content[:cut])
        path.unlink(missing_ok=True)
        with LabelCache(path) as again:
            assert len(again) == 4
    with LabelCache(path) as again:
        assert again.get(f"{3:064d}").energy == 3.0


def test_damaged_file_is_told_and_kept(tmp_path) -> None:
    path = tmp_path / "labels.h5"
    path.write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="not a file of ase_knncalc"):
        LabelCache(path)
    assert path.read_bytes() == b"something else"


@pytest.mark.slow
def test_kill_at_random_moments_loses_nothing(tmp_path) -> None:
    """A process that adds numbered labels is killed again and again; each number stays known."""
    path = tmp_path / "labels.h5"
    script = textwrap.dedent(
        """
        import sys
        from ase_knncalc.labelcache import CachedLabel, LabelCache
        with LabelCache(sys.argv[1]) as cache:
            start = len(cache)
            for i in range(start, start + 40):
                cache.put(f"{i:064d}", CachedLabel(float(i)))
                print(i, flush=True)
        """
    )
    rng = np.random.default_rng(0)
    known = 0
    for _ in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(float(rng.uniform(0.3, 1.2)))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.communicate()[0].split()]
        assert said == list(range(known, known + len(said))), "a label was lost or computed twice"
        with LabelCache(path) as cache:
            # One more may have been kept between writing it and saying so.
            assert len(cache) - (known + len(said)) in (0, 1)
            known = len(cache)
            assert all(cache.get(f"{i:064d}").energy == i for i in range(known))
    assert known > 0
