"""The loop: choose, label, learn; it goes on where it was killed.

Working directory::

    journal.db          choices, labels and reports (:mod:`ase_knncalc.active.journal`)
    model-003.h5        model after iteration 3 (the latest two are kept); model-000.h5 is the first
    model.h5            the latest
    pool-000.extxyz     sampled structures, where there are any
    baseline.db         baseline energies that were paid for
    labelled.extxyz     all labels so far
    report.csv, report.png

A label counts as bought when the labeler returns it, and is on disk before anything else happens.
What a kill costs is the calculation that was under way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.files import replacing
from ase_knncalc._lib.progress import track
from ase_knncalc.active.choice import Chooser
from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.directory import begun, check_method, first_model_stands, take_up
from ase_knncalc.active.inputs import (
    check_first_labels,
    check_held_out,
    check_ingredients,
    check_inputs,
    check_labeler,
    check_pool,
    read_test,
)
from ase_knncalc.active.journal import Asked, Journal
from ase_knncalc.active.labelling import make_labeler
from ase_knncalc.active.learning import Learned, covered, errors_of, learn, train_model
from ase_knncalc.active.plan import Plan, said_of
from ase_knncalc.active.pool import Candidates, others
from ase_knncalc.data import write_frames
from ase_knncalc.errors import (
    DataError,
    LabelerError,
    ModelFileError,
    ModelFileVersionError,
    SettingsError,
)
from ase_knncalc.labelers import Labeler, LabelResult, label_frames
from ase_knncalc.labels.cache import LabelCache
from ase_knncalc.labels.training_data import compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.store import load_model, save_model

_PLOT_INTERVAL = 5.0  # seconds
# One structure may be hard, or its label wrong; so many say that the labeler is.
_IN_A_ROW = 3


class ActiveLoop:
    """A loop in its working directory.

    Parameters
    ----------
    config
        From :func:`ase_knncalc.active.read_config`.
    labeler
        Instead of the one in the configuration.
    progress
        Whether to show progress bars.
    retry
        Whether structures whose labels failed are asked for again.
    on_iteration
        Called with the report of each iteration as it is finished.
    """

    def __init__(
        self,
        config: LoopConfig,
        *,
        labeler: Labeler | None = None,
        progress: bool = False,
        retry: bool = False,
        on_iteration: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.config = config
        self.directory = config.loop.directory
        self.progress = progress
        self.retry = retry
        self._failed_in_a_row = 0
        self.on_iteration = on_iteration
        self._labeler = labeler
        self._test: list[Atoms] = []
        self._plotted = time.monotonic()
        self._chooser = Chooser(config, self.baseline_cache)
        self._candidates = Candidates(config, progress)

    @property
    def baseline_cache(self) -> Path:
        """Baseline energies that were paid for."""
        old = self.directory / "baseline.h5"  # of a loop that an earlier version began
        return old if old.exists() else self.directory / "baseline.db"

    def run(self) -> list[dict[str, Any]]:
        """Run all iterations that are left; returns the reports of all.

        Raises
        ------
        DataError
            If another process works in the directory, or nothing in it fits the configuration.
        SettingsError
            If the directory was begun with another configuration.
        KNNCalcError
            From the labeler's set-up, sampling or training.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SettingsError(f"loop.directory: cannot make {self.directory}: {e}") from e
        with Journal(self.directory / "journal.db") as journal:
            self._write_labelled(journal)
            labeler = self._labeler or make_labeler(self.config.labeler)
            self._test = read_test(self.config)
            self._check_cache(self.baseline_cache)
            take_up(self.config, journal)
            done = len(journal.reports())
            if self.retry:
                self._forget_failures(journal, done)
            check_method(journal, labeler)
            model = self._model(journal, done)
            check_inputs(self.config, model, self._test, self.baseline_cache)
            check_ingredients(self.config, model)
            if done < self.config.loop.iterations:
                check_labeler(self.config, labeler, journal)
                check_held_out(self.config, self._test, self._candidates.of(done + 1, model))
            for iteration in range(done + 1, self.config.loop.iterations + 1):
                batch = self._batch(journal, iteration, model)
                if not batch:
                    self._end_early(journal, iteration, model)
                    break
                try:
                    self._label_first(journal, labeler, iteration, model)
                    self._label(journal, labeler, journal.asked(iteration))
                finally:
                    self._write_labelled(journal)
                model = self._learn(journal, iteration, model)
            reports = journal.reports()
            self._write_outputs(journal, reports, finished=True)
        return reports

    def plan(self) -> Plan:
        """What the next iteration would ask; nothing is labelled, trained or written."""
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder, self.baseline_cache.name)
            for end in ("", "-wal", ".journal"):  # energies that are there, and those it computes
                kept = Path(f"{self.baseline_cache}{end}")
                if kept.exists():
                    shutil.copyfile(kept, f"{cache}{end}")
            return self._plan(cache)

    def _plan(self, cache: Path) -> Plan:
        self._check_cache(cache)
        journal_file = self.directory / "journal.db"
        asked: list[Asked] = []
        done = 0
        stands = False
        if os.path.exists(journal_file):
            with Journal(journal_file, read_only=True) as journal:
                here = begun(self.config, journal)
                if here:
                    done = len(journal.reports())
                    if self.retry and done < self.config.loop.iterations:
                        journal.forget_failures()
                    asked = journal.asked()
                    stands = first_model_stands(self.config, journal)
        else:
            here = begun(self.config, None)
        file = self._model_file(done)
        if stands and file.exists():
            model = load_model(file, baseline=self.config.model.baseline)
        elif self.config.model.file is not None:
            model = load_model(self.config.model.file, baseline=self.config.model.baseline)
        else:
            model = None
        if self._labeler is None:
            make_labeler(self.config.labeler)
        test = read_test(self.config)
        if model is not None:
            check_inputs(self.config, model, test, cache)
            check_ingredients(self.config, model)
        number = self._candidates.number(done + 1)
        note = ""
        if self.config.pool.sample and not (here and self._candidates.file(number).exists()):
            frames = self._candidates.fresh(self._candidates.from_files(), model)
            wanted = self.config.pool.n * len(self.config.pool.sample)
            note = f"up to {wanted} structures would be sampled first"
        else:
            frames = self._candidates.of(done + 1, model)
        before = [a.atoms for a in asked]
        waiting = [a for a in asked if a.iteration == done + 1]
        picked = [a.atoms for a in waiting if not a.labelled and not a.reason]
        foreign = 0
        if done >= self.config.loop.iterations:
            note = "all iterations are done: more of them with loop.iterations"
        elif waiting and not picked:
            note = "its labels are there: it would learn from them"
        elif model is None:
            note = note or "the first model would be trained first"
        left = others(frames, before)
        if model is not None:
            check_pool(self.config, model, left)
        if model is not None and not waiting and done < self.config.loop.iterations:
            choice = Chooser(self.config, cache).choose(
                model, left, before, done + 1, self._candidates.known
            )
            picked, foreign = [left[i] for i in choice.places], choice.not_covered
        stds, novelties = said_of(model, picked)
        return Plan(done + 1, len(left), foreign, picked, stds, novelties, note)

    def _forget_failures(self, journal: Journal, done: int) -> None:
        if done < self.config.loop.iterations:
            journal.forget_failures()
            return
        failed = sum(bool(a.reason) for a in journal.asked())
        if failed:
            warnings.warn(
                f"{failed} structures whose labels failed are not asked for again, as all {done} "
                "iterations are done: raise loop.iterations",
                UserWarning,
                stacklevel=3,
            )

    def _check_cache(self, cache: Path) -> None:
        """Whether the cache of baseline energies, or a copy, can be read."""
        if not cache.exists():
            return
        try:
            LabelCache(cache).close()
        except ModelFileError as e:
            raise type(e)(
                f"{e} ({self.baseline_cache} is a cache: delete it, and its baseline energies are "
                "computed again)"
            ) from e

    def _model_file(self, iteration: int) -> Path:
        return self.directory / f"model-{iteration:03d}.h5"

    def _model(self, journal: Journal, iteration: int) -> KNNModel:
        """Model after an iteration; made (again) where it is not there, or damaged."""
        baseline = self.config.model.baseline
        file = self._model_file(iteration)
        if file.exists():
            try:
                return load_model(file, baseline=baseline)
            except ModelFileVersionError:
                raise
            except ModelFileError as e:
                warnings.warn(f"{e}; it is made again from the labels", UserWarning, stacklevel=3)
        if iteration:
            before = self._model(journal, iteration - 1)
            model = self._learned(journal, iteration, before).model
        elif self.config.model.file is not None:
            model = load_model(self.config.model.file, baseline=baseline)
        else:
            model = train_model(None, [], self.config, self.baseline_cache)
        save_model(model, file)
        return load_model(file, baseline=baseline)

    def _learned(self, journal: Journal, iteration: int, model: KNNModel) -> Learned:
        """What an iteration's labels make of the model before them."""
        asked = [a for a in journal.asked() if a.labelled and a.iteration <= iteration]
        new = [a.atoms for a in asked if a.iteration == iteration]
        if not new:
            return Learned(model, "unchanged", ["no label of the batch succeeded"], [])
        labelled = [a.atoms for a in asked]
        return learn(model, new, labelled, self.config, self.baseline_cache)

    def _batch(self, journal: Journal, iteration: int, model: KNNModel) -> list[Asked]:
        """The choice of an iteration: the one in the journal, or a new one."""
        known = journal.asked(iteration)
        if known:
            return known
        before = [a.atoms for a in journal.asked()]
        left = others(self._candidates.of(iteration, model), before)
        check_pool(self.config, model, left)
        choice = self._chooser.choose(model, left, before, iteration, self._candidates.known)
        journal.add_batch(iteration, [left[i] for i in choice.places])
        return journal.asked(iteration)

    def _end_early(self, journal: Journal, iteration: int, model: KNNModel) -> None:
        candidates = self._candidates.of(iteration, model)
        left = len(others(candidates, [a.atoms for a in journal.asked()]))
        if left:
            why = f"{left} structures of the pool are left, all outside loop.energy_window"
        elif candidates:
            why = f"all {len(candidates)} structures of the pool have been asked for"
        else:
            why = "all structures of the pool are known from the training data or the model"
        warnings.warn(
            f"the loop ends after {iteration - 1} of {self.config.loop.iterations} iterations: "
            f"{why}",
            UserWarning,
            stacklevel=3,
        )

    def _label_first(
        self, journal: Journal, labeler: Labeler, iteration: int, model: KNNModel
    ) -> None:
        """Label one at a time until one is seen to be of the model's level of theory.

        A label far off may be a wrong one, and a failure a hard structure; three of them are not.
        What was labelled before a stop is looked at as if it had been now.
        """
        if any(a.labelled and a.iteration < iteration for a in journal.asked()):
            return
        while True:
            batch = journal.asked(iteration)
            labelled = [a.atoms for a in batch if a.labelled]
            todo = [a for a in batch if not a.labelled and not a.reason]
            if labelled:
                try:
                    check_first_labels(self.config, labeler, journal, model, self.baseline_cache)
                    return
                except DataError:
                    if len(labelled) >= _IN_A_ROW or not todo:
                        raise
            if not todo:
                return
            self._label(journal, labeler, todo[:1])

    def _label(self, journal: Journal, labeler: Labeler, batch: Sequence[Asked]) -> None:
        todo = [a for a in batch if not a.labelled and not a.reason]
        if not todo:
            return
        bar = track(iter(range(len(todo))), total=len(todo), text="labels", show=self.progress)
        next(bar, None)

        def keep(result: LabelResult) -> None:
            journal.add_label(todo[result.index].key, result)
            next(bar, None)

        label_frames(
            labeler,
            [a.atoms for a in todo],
            n_jobs=self.config.loop.jobs,
            time_limit=self.config.labeler.time_limit,
            on_result=keep,
        )
        asked = {a.key: a for a in journal.asked()}
        tried = [asked[a.key] for a in todo]
        succeeded = [i for i, a in enumerate(tried) if a.labelled]
        self._failed_in_a_row = (
            len(tried) - 1 - succeeded[-1] if succeeded else self._failed_in_a_row + len(tried)
        )
        # Whether a label ever succeeded, or may in this batch.
        hope = any(a.labelled or not a.reason for a in asked.values())
        if not succeeded and (not hope or self._failed_in_a_row >= _IN_A_ROW):
            last = tried[-1]
            raise LabelerError(
                f"{self._failed_in_a_row} labels failed in a row; the last: "
                f"{last.atoms.info['name']}: {last.reason}. Once the labeler works, ask "
                "for them again with retry=True (--retry); without it the loop goes on to others"
            )

    def _write_labelled(self, journal: Journal) -> None:
        labelled = [a.atoms for a in journal.asked() if a.labelled]
        if labelled:
            write_frames(self.directory / "labelled.extxyz", labelled)

    def _learn(self, journal: Journal, iteration: int, model: KNNModel) -> KNNModel:
        batch = journal.asked(iteration)
        new = [a.atoms for a in batch if a.labelled]
        report: dict[str, Any] = {
            "iteration": iteration,
            "asked": len(batch),
            "failed": len(batch) - len(new),
            "labels": sum(a.labelled for a in journal.asked()),
            **self._surprise(model, new),
        }
        learned = self._learned(journal, iteration, model)
        model = learned.model
        save_model(model, self._model_file(iteration))
        model = load_model(self._model_file(iteration), baseline=self.config.model.baseline)
        report |= {
            "learned": learned.how,
            "reasons": learned.reasons,
            "changes_energies": learned.changes_energies,
            "left_out": learned.left_out,
            "structures": len(model),
        }
        report |= self._tested(model) | self._pool_state(journal, model, iteration)
        journal.finish(iteration, report)
        self._write_outputs(journal, journal.reports())
        if self.on_iteration is not None:
            self.on_iteration(report)
        return model

    def _surprise(self, model: KNNModel, frames: Sequence[Atoms]) -> dict[str, float | None]:
        """How well the batch was predicted before it was learned from."""
        scores = self._scores(model, frames)
        return {f"batch_{name}": value for name, value in scores.items()}

    def _tested(self, model: KNNModel) -> dict[str, float | None]:
        """Errors on the test set."""
        if not self._test:
            return {}
        scores = self._scores(model, self._test)
        return {f"test_{name}": value for name, value in scores.items()}

    def _scores(self, model: KNNModel, frames: Sequence[Atoms]) -> dict[str, float | None]:
        """Errors in eV, coverage of the 90 % interval, and novelty; None without structures."""
        known = [a for a in frames if covered(model, a)]
        jobs = self.config.loop.jobs
        error, found = errors_of(model, known, self.baseline_cache, jobs)
        if not len(error):
            return {"n": 0, "mae": None, "rmse": None, "coverage": None, "novelty": None}
        half = model.calibration.multiple(0.9) * found.energy_std
        return {
            "n": len(error),
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt(np.mean(error**2))),
            "coverage": float(np.mean(np.abs(error) <= half)),
            "novelty": float(np.mean(found.novelty)),
        }

    def _pool_state(
        self, journal: Journal, model: KNNModel, iteration: int
    ) -> dict[str, float | int | None]:
        """What the model says of the structures that are left."""
        everything = self._candidates.of(iteration, model)
        left = others(everything, [a.atoms for a in journal.asked()])
        known = [a for a in left if covered(model, a)]
        state: dict[str, float | int | None] = {
            "pool": len(left), "pool_not_covered": len(left) - len(known),
            "pool_std": None, "pool_novelty": None,
        }  # fmt: skip
        if known:
            found = model.correct_features(compute_features(model.descriptor, known, n_jobs=1))
            state["pool_std"] = float(np.mean(found.energy_std))
            state["pool_novelty"] = float(np.mean(found.novelty))
        return state

    def _write_outputs(
        self, journal: Journal, reports: Sequence[dict[str, Any]], *, finished: bool = False
    ) -> None:
        """Files that can be made again from the journal at any time."""
        from ase_knncalc.active.report import write_report

        latest = self._model_file(len(reports))
        with replacing(self.directory / "model.h5") as copy:
            shutil.copyfile(latest, copy)
        for old in range(max(0, len(reports) - 1)):
            with suppress(OSError):
                self._model_file(old).unlink()
        # A plot takes half a second, which a loop with a fast oracle should not spend each time.
        now = time.monotonic()
        plot = finished or now - self._plotted > _PLOT_INTERVAL
        if plot:
            self._plotted = now
        write_report(self.directory, reports, plot=plot)


def run_loop(config: LoopConfig, **options: Any) -> list[dict[str, Any]]:
    """Run a loop to its end; options as for :class:`ActiveLoop`."""
    return ActiveLoop(config, **options).run()
