"""Jobs that are killed at random moments, and what must be there afterwards.

Run as a program, it forks a child for each attempt, so that a kill costs the time of the job and
not that of the imports::

    PYTHONPATH=tests python tests/helpers/killing.py train FOLDER --kills 50 --seed 0

A job that came to its end before the kill counts, too: the next one goes on or begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import all_changes
from ase.calculators.lj import LennardJones
from helpers.factories import pair_energy, tiny, water_clusters
from helpers.loops import Oracle, fill_folder, write_config

from ase_knncalc import KNNModel, load_model, save_model, train
from ase_knncalc.active import Journal, read_config, run_loop
from ase_knncalc.baselines import ASEBaseline
from ase_knncalc.data import iter_frames, write_frames
from ase_knncalc.labels.cache import CachedLabel, LabelCache, label_key
from ase_knncalc.structure import resolve_charge
from ase_knncalc.training import append_to_file


def _say(folder: Path, text: str) -> None:
    """A line in the log, which no kill takes back."""
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def _said(folder: Path) -> list[str]:
    return (folder / "log").read_text().split() if (folder / "log").exists() else []


class Job:
    """Something that takes a while, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repeated = 0

    def prepare(self) -> None:
        """Once, before the first run."""

    def run(self) -> None:
        """What is killed."""

    def check(self, ended: bool) -> None:
        """After each kill, or end."""


class Labels(Job):
    """Numbered labels that go into a label cache."""

    def prepare(self) -> None:
        self.known = 0

    def run(self) -> None:
        with LabelCache(self.folder / "labels.db") as cache:
            start = len(cache)
            for i in range(start, start + 60):
                cache.put(f"{i:064d}", CachedLabel(float(i), np.full((2, 3), i / 7)))
                _say(self.folder, str(i))

    def check(self, ended: bool) -> None:
        said = [int(line) for line in _said(self.folder)]
        # A label that was kept but not said counts as the unit in work.
        assert len(set(said)) == len(said), "a label was computed twice"
        with LabelCache(self.folder / "labels.db") as cache:
            assert len(cache) >= self.known, "labels were lost"
            self.known = len(cache)
            assert set(said) <= set(range(self.known))
            for i in range(self.known):
                label = cache.get(f"{i:064d}")
                assert label is not None
                assert label.energy == i
                assert np.array_equal(label.forces, np.full((2, 3), i / 7))


class SlowLennardJones(LennardJones):
    """A baseline that takes its time and notes each calculation."""

    folder: Path

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        time.sleep(0.004)
        _say(self.folder, label_key(atoms, *resolve_charge(atoms), {}))


class Training(Job):
    """A model trained from frames whose baseline energies are computed on the way."""

    def prepare(self) -> None:
        self.frames = water_clusters(30, seed=1)
        self.probe = water_clusters(4, seed=9)
        self.old = tiny(water_clusters(30, seed=2))
        self.path = self.folder / "model.h5"
        save_model(self.old, self.path)
        self.expected = [self._told(self.old)]
        self.expected.append(self._told(self._train()))
        for name in ("log", "labels.db"):
            (self.folder / name).unlink(missing_ok=True)
        self.known: set[str] = set()
        self.calls = 0

    def _told(self, model: KNNModel) -> list[float]:
        return model.with_baseline(None).predict(self.probe).delta.tolist()

    def _baseline(self) -> ASEBaseline:
        calculator = SlowLennardJones(sigma=1.0, epsilon=0.01)
        calculator.folder = self.folder
        return ASEBaseline(calculator)

    def _train(self) -> KNNModel:
        return train(
            [a.copy() for a in self.frames],
            baseline=self._baseline(),
            cache=self.folder / "labels.db",
            trend="linear",
            n_components=3,
            metric_iterations=5,
            k=3,
            n_jobs=1,
        )

    def run(self) -> None:
        save_model(self._train(), self.path)

    def check(self, ended: bool) -> None:
        found = self._told(load_model(self.path, baseline=None))
        assert found in self.expected, "the model file is neither the old nor the new model"
        spec = self._baseline().spec()
        keys = {label_key(a, *resolve_charge(a), spec): a for a in self.frames}
        with LabelCache(self.folder / "labels.db") as cache:
            kept = {label_key(a, *resolve_charge(a), {}) for k, a in keys.items() if cache.get(k)}
        assert self.known <= kept, "labels were lost"
        said = _said(self.folder)
        fresh = said[self.calls :]
        # Each run compares two labels of the cache with what the calculator gives.
        again = [key for key in fresh if key in self.known]
        assert len(again) <= 2, "a kept label was computed again"
        assert len(set(fresh) - kept) <= 1, "more than the unit in work was lost"
        self.repeated += len(set(said[: self.calls]) & (set(fresh) - set(again)))
        self.known, self.calls = kept, len(said)
        if ended:
            assert found == self.expected[1]
            save_model(self.old, self.path)
            for name in ("log", "labels.db"):
                (self.folder / name).unlink(missing_ok=True)
            self.known, self.calls = set(), 0


class Appending(Job):
    """Structures that are added to a model file one by one."""

    def prepare(self) -> None:
        self.path = self.folder / "model.h5"
        self.first = self.folder / "first.h5"
        save_model(tiny(water_clusters(40, seed=1)), self.first)
        shutil.copyfile(self.first, self.path)
        self.more = water_clusters(8, seed=500)
        self.known = 0

    def run(self) -> None:
        for atoms in self.more:
            append_to_file(self.path, atoms)
            _say(self.folder, str(atoms.info["name"]))

    def check(self, ended: bool) -> None:
        model = load_model(self.path)  # verifies the checksum
        names = [a["name"] for a in model.info.provenance.additions]
        assert names == [a.info["name"] for a in self.more][: len(names)]
        assert len(model) == 40 + len(names)
        assert len(names) >= self.known, "an addition was lost"
        assert set(_said(self.folder)) <= set(names)
        self.known = len(names)
        if ended:
            assert len(names) == len(self.more)
            shutil.copyfile(self.first, self.path)
            (self.folder / "log").unlink()
            self.known = 0


class Loop(Job):
    """An active loop of five batches of three labels."""

    length = 5

    def prepare(self) -> None:
        frames = water_clusters(60)
        fill_folder(self.folder, frames, tiny(frames))
        write_config(self.folder, iterations=self.length, batch=3)
        self.runs = self.advanced = 0
        self._begin()

    def _begin(self) -> None:
        self.labels: dict[str, float] = {}
        self.iterations, self.calls, self.killed = 0, 0, 0

    def run(self) -> None:
        config = read_config(self.folder / "config.toml")
        run_loop(config, labeler=Oracle(self.folder / "calls"))

    def _facts(self) -> tuple[dict[str, float], int]:
        """Labels and finished iterations in the journal."""
        file = self.folder / "work" / "journal.db"
        if not file.exists():
            return {}, 0
        with Journal(file) as journal:
            asked = [a for a in journal.asked() if a.labelled]
            return {a.key: a.atoms.info["reference_energy"] for a in asked}, len(journal.reports())

    def check(self, ended: bool) -> None:
        now, finished = self._facts()
        assert self.labels.items() <= now.items(), "a label was lost or changed"
        assert finished >= self.iterations, "an iteration was lost"
        calls = self.folder / "calls"
        said = calls.read_text().split() if calls.exists() else []
        again = said[self.calls :]
        assert not set(self.labels) & set(again), "a kept label was asked for again"
        assert len(set(again)) == len(again), "a label was asked for twice"
        for file in (self.folder / "work").glob("model*.h5"):
            load_model(file, baseline="none")
        self.runs += 1
        self.advanced += now.keys() != self.labels.keys() or finished != self.iterations
        self.labels, self.iterations, self.calls = now, finished, len(said)
        self.killed += not ended
        if ended or finished == self.length:
            self._look_at_the_end(said)
            shutil.rmtree(self.folder / "work")
            calls.unlink()
            self._begin()

    def _look_at_the_end(self, said: list[str]) -> None:
        with Journal(self.folder / "work" / "journal.db") as journal:
            asked = journal.asked()
            assert len(journal.reports()) == self.length
        assert len({a.key for a in asked}) == len(asked) == 3 * self.length
        for a in asked:
            assert abs(a.atoms.info["reference_energy"] - pair_energy(a.atoms)) < 1e-9
        # Each was asked once, but for a call that was under way at a kill.
        assert set(said) == {a.key for a in asked}
        assert len(said) - len(set(said)) <= self.killed
        model = load_model(self.folder / "work" / f"model-{self.length:03d}.h5", baseline="none")
        assert len(model) == 60 + 3 * self.length
        # Else the kills came too early to tell anything.
        assert self.advanced >= self.runs / 10


class Writing(Job):
    """A file of frames that is written again and again."""

    def prepare(self) -> None:
        self.path = self.folder / "frames.extxyz.gz"
        self.frames = water_clusters(120, seed=3)
        write_frames(self.path, self.frames)

    def run(self) -> None:
        for _ in range(4):
            write_frames(self.path, self.frames)

    def check(self, ended: bool) -> None:
        found = list(iter_frames(self.path))
        assert [a.info["name"] for a in found] == [a.info["name"] for a in self.frames]


JOBS: dict[str, Callable[[Path], Job]] = {
    "labels": Labels,
    "train": Training,
    "append": Appending,
    "loop": Loop,
    "write": Writing,
}


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def kill_again_and_again(job: Job, kills: int, seed: int) -> dict[str, Any]:
    """Run a job until it was killed so many times."""
    rng = np.random.default_rng(seed)
    job.prepare()
    start = time.perf_counter()
    _, status = os.waitpid(_fork(job.run), 0)
    assert status == 0
    span = time.perf_counter() - start
    job.check(True)
    killed = ended = 0
    while killed < kills:
        pid = _fork(job.run)
        time.sleep(float(rng.uniform(0.0, 1.1 * span)))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the job failed by itself"
            ended += 1
        else:
            killed += 1
        job.check(os.WIFEXITED(status))
    _, status = os.waitpid(_fork(job.run), 0)
    assert status == 0, "the job cannot go on after the kills"
    job.check(True)
    assert job.repeated <= killed
    return {"killed": killed, "ended": ended, "repeated": job.repeated, "job_s": span}


def main() -> None:
    """Kill one kind of job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=list(JOBS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    job = JOBS[arguments.job](arguments.folder)
    print(json.dumps(kill_again_and_again(job, arguments.kills, arguments.seed)))


if __name__ == "__main__":
    sys.exit(main())
