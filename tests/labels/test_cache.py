"""The label cache: nothing lost, nothing paid for twice."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes

from ase_knncalc import train
from ase_knncalc.baselines import make_baseline
from ase_knncalc.errors import BaselineError, DataError, ModelFileError
from ase_knncalc.labels.baseline import baseline_labels
from ase_knncalc.labels.cache import CachedLabel, LabelCache, label_key
from ase_knncalc.store.container import write_container


def test_labels_come_back(tmp_path) -> None:
    path = tmp_path / "labels.db"
    forces = np.arange(6.0).reshape(2, 3) / 7
    with LabelCache(path) as cache:
        cache.put("a" * 64, CachedLabel(-1.25))
        cache.put("b" * 64, CachedLabel(2.0, forces))
    assert sorted(os.listdir(tmp_path)) == ["labels.db"]
    with LabelCache(path) as cache:
        assert len(cache) == 2
        assert cache.get("a" * 64) == CachedLabel(-1.25)
        np.testing.assert_array_equal(cache.get("b" * 64).forces, forces)
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
    with LabelCache(tmp_path / "labels.db"), pytest.raises(DataError, match="in use"):
        LabelCache(tmp_path / "labels.db")
    LabelCache(tmp_path / "labels.db").close()


def test_second_writer_by_another_name_is_told(tmp_path) -> None:
    cache = LabelCache(tmp_path / "labels.db")
    cache.put("a" * 64, CachedLabel(-1.0))
    (tmp_path / "link.h5").symlink_to("labels.db")
    with pytest.raises(DataError, match="in use"):
        LabelCache(tmp_path / "link.h5")
    cache.close()
    with LabelCache(tmp_path / "link.h5") as cache:
        assert cache.get("a" * 64) == CachedLabel(-1.0)
        cache.put("b" * 64, CachedLabel(-2.0))
    assert (tmp_path / "link.h5").is_symlink()
    with LabelCache(tmp_path / "labels.db") as cache:
        assert len(cache) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.db", "link.h5"]


def old_cache(path: Path, labels: dict[str, CachedLabel], lines: bytes = b"") -> None:
    """What earlier versions wrote: an HDF5 file, and lines of JSON until the next run."""
    forces = [np.zeros((0, 3)) if x.forces is None else x.forces for x in labels.values()]
    write_container(
        path,
        "labels",
        {"count": len(labels)},
        {
            "labels/keys": np.array(list(labels), dtype="S64"),
            "labels/energies": np.array([x.energy for x in labels.values()]),
            "labels/forces": np.concatenate([np.zeros((0, 3)), *forces]),
            "labels/starts": np.cumsum([0, *map(len, forces)]),
        },
    )
    path.with_name(f"{path.name}.journal").write_bytes(lines)


def test_caches_of_earlier_versions_are_taken_over(tmp_path) -> None:
    path = tmp_path / "labels.db"
    forces = np.arange(6.0).reshape(2, 3) / 7
    lines = b'{"key": "c", "energy": 3.0, "forces": [[0, 0, 1]]}\n'
    old_cache(path, {"a": CachedLabel(1.0), "b": CachedLabel(2.0, forces)}, lines)
    for _ in range(2):
        with LabelCache(path) as cache:
            assert len(cache) == 3
            assert cache.get("a") == CachedLabel(1.0)
            np.testing.assert_array_equal(cache.get("b").forces, forces)
            np.testing.assert_array_equal(cache.get("c").forces, [[0, 0, 1]])
    assert os.listdir(tmp_path) == ["labels.db"]
    assert path.read_bytes().startswith(b"SQLite format 3")


def test_torn_and_senseless_lines_of_earlier_versions_are_passed_over(tmp_path) -> None:
    path = tmp_path / "labels.db"
    lines = path.with_name("labels.db.journal")
    content = b"".join(b'{"key": "%d", "energy": %d}\n' % (i, i) for i in range(5))
    for cut in range(1, 20):
        path.unlink(missing_ok=True)
        lines.write_bytes(content[:-cut])
        with LabelCache(path) as cache:
            assert len(cache) == 4
        assert not lines.exists()
    for line in (
        b"[]",
        b"1",
        b'{"key": 1}',
        b'{"key":"a","energy":"x"}',
        b'{"key":"a","energy":null}',
        b'{"key":"a","energy":NaN}',
        b'{"key":"a","energy":1,"forces":[[0,0,1e999]]}',
        b"\xff",
    ):
        path.unlink(missing_ok=True)
        lines.write_bytes(line + b'\n{"key":"k","energy":1}\n')
        with LabelCache(path) as cache:
            assert cache.get("k") == CachedLabel(1.0)
            assert cache.get("a") is None


def test_containers_that_no_earlier_version_wrote_are_one_error(tmp_path) -> None:
    path = tmp_path / "labels.db"
    for arrays in (
        {},
        {"labels/keys": np.arange(3.0)},
        {
            "labels/keys": np.arange(2),
            "labels/energies": np.zeros(2),
            "labels/forces": np.zeros((0, 3)),
            "labels/starts": np.zeros(3),
        },
        {
            "labels/keys": np.array([b"a"]),
            "labels/energies": np.array([np.inf]),
            "labels/forces": np.zeros((0, 3)),
            "labels/starts": np.zeros(2, dtype=np.int64),
        },
    ):
        write_container(path, "labels", {}, arrays)
        for _ in range(2):  # the failed attempt holds no lock
            with pytest.raises(ModelFileError, match=r"labels\.db"):
                LabelCache(path)


@pytest.mark.parametrize("content", [b"something else", b"ase_knncalc labels 1\nsha256 0\n"])
def test_damaged_file_is_told_and_kept(tmp_path, content: bytes) -> None:
    path = tmp_path / "labels.db"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"labels\.db is (no label cache|not a file of ase)"):
        LabelCache(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("number", [struct.pack(">d", -1.1), struct.pack("<d", 1 / 3)])
def test_a_label_that_a_disk_changed_is_no_label(tmp_path, number: bytes) -> None:
    path = tmp_path / "labels.db"
    with LabelCache(path) as cache:
        cache.put("a" * 64, CachedLabel(-1.1, np.full((2, 3), 1 / 3)))
        cache.put("b" * 64, CachedLabel(-2.0))
    content = path.read_bytes()
    assert number in content
    path.write_bytes(content.replace(number, b"@" * 8, 1))
    with LabelCache(path) as cache:
        assert cache.get("a" * 64) is None
        assert cache.get("b" * 64) == CachedLabel(-2.0)


def test_opening_alone_changes_nothing(tmp_path) -> None:
    path = tmp_path / "labels.db"
    with LabelCache(path) as cache:
        cache.put("a", CachedLabel(-1.0))
    before = path.read_bytes()
    LabelCache(path).close()
    assert path.read_bytes() == before


def test_second_opening_while_the_first_closes_loses_nothing(tmp_path) -> None:
    path = tmp_path / "labels.db"
    counts = [0, 0]

    def work(me: int) -> None:
        while counts[me] < 15:
            try:
                with LabelCache(path) as cache:
                    cache.put(f"{me}{counts[me]:063d}", CachedLabel(float(counts[me])))
            except DataError:
                continue
            counts[me] += 1

    threads = [threading.Thread(target=work, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with LabelCache(path) as cache:
        assert len(cache) == 30


def test_what_failed_is_asked_again_and_what_succeeded_is_not(tmp_path) -> None:
    """A program may have been missing, or a licence."""

    class Program(Calculator):
        implemented_properties = ("energy",)
        broken = True
        calls = 0

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            type(self).calls += 1
            if self.broken and len(atoms) > 2:
                raise CalculationFailed("no licence")
            self.results = {"energy": float(len(atoms))}

    frames = [molecule("H2"), molecule("H2O")]
    baseline = make_baseline(Program())
    found = baseline_labels(frames, baseline, cache=tmp_path / "labels.db")
    np.testing.assert_array_equal(found.energies, [2.0, np.nan])
    assert found.errors[0] == ""
    assert "no licence" in found.errors[1]
    Program.broken = False
    found = baseline_labels(frames, baseline, cache=tmp_path / "labels.db")
    np.testing.assert_array_equal(found.energies, [2.0, 3.0])
    assert (found.errors, found.computed) == (["", ""], 1)
    assert Program.calls == 4  # and the cached label was compared


class PerAtom(Calculator):
    """A calculator whose parameters do not tell what it gives."""

    implemented_properties = ("energy",)

    def __init__(self, energy: float, bond: float = 0.0) -> None:
        super().__init__()
        self.energy, self.bond, self.calls = energy, bond, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.energy > 100.0:
            raise CalculationFailed("no licence")
        n = len(atoms)
        self.results = {"energy": self.energy * n + self.bond * max(0, n - 2)}


@pytest.mark.parametrize("other", [PerAtom(2.0), PerAtom(1.0, bond=0.01)])
def test_two_calculators_that_say_they_are_one_share_no_cache(tmp_path, other) -> None:
    path = tmp_path / "labels.db"
    frames = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4", "H2", "N2")]
    first = PerAtom(1.0)
    baseline_labels(frames, make_baseline(first), cache=path)
    assert make_baseline(first).spec() == make_baseline(other).spec()
    kept = path.read_bytes()
    with pytest.raises(BaselineError, match=r"labels\.db holds an energy .*Use another cache"):
        baseline_labels(frames, make_baseline(other), cache=path)
    assert path.read_bytes() == kept
    with pytest.raises(BaselineError, match="Use another cache"):
        train(frames_with_labels(frames), baseline=other, cache=path, n_jobs=1)
    # Its own cache serves it, and costs it two calculations.
    own = baseline_labels(frames, make_baseline(other), cache=tmp_path / "own.h5")
    before = other.calls
    again = baseline_labels(frames, make_baseline(other), cache=tmp_path / "own.h5")
    np.testing.assert_array_equal(again.energies, own.energies)
    assert (again.computed, other.calls - before) == (0, 2)


def frames_with_labels(frames):
    labelled = [a.copy() for a in frames]
    for i, atoms in enumerate(labelled):
        atoms.info["reference_energy"] = -10.0 - i
    return labelled


def test_labels_of_a_program_that_is_gone_are_used(tmp_path) -> None:
    frames = [molecule("H2O"), molecule("H2")]
    known = baseline_labels(frames, make_baseline(PerAtom(1.0)), cache=tmp_path / "labels.db")
    gone = PerAtom(1e3)
    found = baseline_labels(frames, make_baseline(gone), cache=tmp_path / "labels.db")
    np.testing.assert_array_equal(found.energies, known.energies)
    assert gone.calls == 2
