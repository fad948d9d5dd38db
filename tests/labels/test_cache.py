"""The label cache: nothing lost, nothing paid for twice."""

from __future__ import annotations

import os
import threading

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
    path = tmp_path / "labels.h5"
    forces = np.arange(6.0).reshape(2, 3) / 7
    with LabelCache(path) as cache:
        cache.put("a" * 64, CachedLabel(-1.25))
        cache.put("b" * 64, CachedLabel(2.0, forces))
    assert sorted(os.listdir(tmp_path)) == ["labels.h5"]
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
    with LabelCache(tmp_path / "labels.h5"), pytest.raises(DataError, match="in use"):
        LabelCache(tmp_path / "labels.h5")
    LabelCache(tmp_path / "labels.h5").close()


def test_second_writer_by_another_name_is_told(tmp_path) -> None:
    cache = LabelCache(tmp_path / "labels.h5")
    cache.put("a" * 64, CachedLabel(-1.0))
    (tmp_path / "link.h5").symlink_to("labels.h5")
    with pytest.raises(DataError, match="in use"):
        LabelCache(tmp_path / "link.h5")
    cache.close()
    with LabelCache(tmp_path / "link.h5") as cache:
        assert cache.get("a" * 64) == CachedLabel(-1.0)
        cache.put("b" * 64, CachedLabel(-2.0))
    assert (tmp_path / "link.h5").is_symlink()
    with LabelCache(tmp_path / "labels.h5") as cache:
        assert len(cache) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.h5", "link.h5"]


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


def test_second_opening_while_the_first_closes_never_shares_the_journal(tmp_path) -> None:
    """The journal is removed while it is still locked: nobody writes to a file without a name."""
    path = tmp_path / "labels.h5"
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


def test_what_no_cache_would_write_is_one_error_or_passed_over(tmp_path) -> None:
    path = tmp_path / "labels.h5"
    for lines in (
        b"[]\n",
        b"1\n",
        b'{"key": 1}\n',
        b'{"key":"a","energy":"x"}\n',
        b'{"key":"a","energy":null}\n',
        b'{"key":"a","energy":NaN}\n',
        b'{"key":"a","energy":1,"forces":[[0,0,1e999]]}\n',
        b"\xff\n",
    ):
        path.unlink(missing_ok=True)
        path.with_name("labels.h5.journal").write_bytes(lines + b'{"key":"k","energy":1}\n')
        with LabelCache(path) as cache:
            assert cache.get("k") == CachedLabel(1.0)
            assert cache.get("a") is None
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
        with pytest.raises(ModelFileError, match=r"labels\.h5"):
            LabelCache(path)
        # The failed attempt holds no lock.
        with pytest.raises(ModelFileError, match=r"labels\.h5"):
            LabelCache(path)


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
    found = baseline_labels(frames, baseline, cache=tmp_path / "labels.h5")
    np.testing.assert_array_equal(found.energies, [2.0, np.nan])
    assert found.errors[0] == ""
    assert "no licence" in found.errors[1]
    Program.broken = False
    found = baseline_labels(frames, baseline, cache=tmp_path / "labels.h5")
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
    path = tmp_path / "labels.h5"
    frames = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4", "H2", "N2")]
    first = PerAtom(1.0)
    baseline_labels(frames, make_baseline(first), cache=path)
    assert make_baseline(first).spec() == make_baseline(other).spec()
    kept = path.read_bytes()
    with pytest.raises(BaselineError, match=r"labels\.h5 holds an energy .*Use another cache"):
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
    known = baseline_labels(frames, make_baseline(PerAtom(1.0)), cache=tmp_path / "labels.h5")
    gone = PerAtom(1e3)
    found = baseline_labels(frames, make_baseline(gone), cache=tmp_path / "labels.h5")
    np.testing.assert_array_equal(found.energies, known.energies)
    assert gone.calls == 2
