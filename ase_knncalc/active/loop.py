"""The loop: choose, label, learn; it goes on where it was killed.

Working directory::

    journal.db          choices, labels and reports (:mod:`ase_knncalc.active.journal`)
    model-003.h5        model after iteration 3 (the latest two are kept); model-000.h5 is the first
    model.h5            the latest
    pool-000.extxyz     sampled structures, where there are any
    baseline.h5         baseline energies that were paid for
    labelled.extxyz     all labels so far
    report.csv, report.png

A label counts as bought when the labeler returns it, and is on disk before anything else happens.
What a kill costs is the calculation that was under way.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc.active.choice import Chooser
from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.directory import begun, check_method, take_up
from ase_knncalc.active.inputs import check_inputs, check_pool, read_test
from ase_knncalc.active.journal import Asked, Journal, structure_key
from ase_knncalc.active.labelling import make_labeler
from ase_knncalc.active.learning import Learned, baseline_energies, covered, learn, train_model
from ase_knncalc.data import read_structures, write_frames
from ase_knncalc.errors import DataError, LabelerError, SettingsError, StructureError
from ase_knncalc.files import replacing
from ase_knncalc.labelers import Labeler, LabelResult, label_frames
from ase_knncalc.model import KNNModel
from ase_knncalc.preparation import compute_features
from ase_knncalc.progress import track
from ase_knncalc.store import load_model, save_model
from ase_knncalc.structure import check_structure, composition_label, resolve_charge

FloatArray = np.ndarray

_PLOT_INTERVAL = 5.0  # seconds


@dataclass(frozen=True)
class Plan:
    """What a loop would do next; from :meth:`ActiveLoop.plan`.

    Attributes
    ----------
    iteration : int
    pool : int
        Structures that could be chosen.
    not_covered : int
        Those among them with elements or charges that the model never saw.
    chosen : list of Atoms
    energy_std, novelty : list of float or None
        Of the chosen ones; None where the model does not cover them.
    note : str
        What the plan does not know yet.
    """

    iteration: int
    pool: int
    not_covered: int
    chosen: list[Atoms]
    energy_std: list[float | None]
    novelty: list[float | None]
    note: str = ""


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
    on_iteration
        Called with the report of each iteration as it is finished.
    """

    def __init__(
        self,
        config: LoopConfig,
        *,
        labeler: Labeler | None = None,
        progress: bool = False,
        on_iteration: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.config = config
        self.directory = config.loop.directory
        self.progress = progress
        self.on_iteration = on_iteration
        self._labeler = labeler
        self._pools: dict[int, list[Atoms]] = {}
        self._test: list[Atoms] = []
        self._plotted = time.monotonic()
        self._chooser = Chooser(config, self.baseline_cache)

    @property
    def baseline_cache(self) -> Path:
        """Baseline energies that were paid for."""
        return self.directory / "baseline.h5"

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
            labeler = self._labeler or make_labeler(self.config.labeler)
            self._test = read_test(self.config)
            take_up(self.config, journal)
            check_method(journal, labeler)
            done = len(journal.reports())
            model = self._model(done)
            check_inputs(self.config, model, self._test)
            for iteration in range(done + 1, self.config.loop.iterations + 1):
                batch = self._batch(journal, iteration, model)
                if not batch:
                    break  # the pool is used up
                self._label(journal, labeler, batch)
                self._write_labelled(journal)
                model = self._learn(journal, iteration, model)
            reports = journal.reports()
            self._write_outputs(journal, reports, finished=True)
        return reports

    def plan(self) -> Plan:
        """What the next iteration would ask; nothing is labelled, trained or written."""
        journal_file = self.directory / "journal.db"
        asked: list[Asked] = []
        done = 0
        if os.path.exists(journal_file):
            with Journal(journal_file) as journal:
                here = begun(self.config, journal)
                if here:
                    asked, done = journal.asked(), len(journal.reports())
        else:
            here = begun(self.config, None)
        file = self._model_file(done)
        if here and file.exists():
            model = load_model(file, baseline=self.config.model.baseline)
        elif self.config.model.file is not None:
            model = load_model(self.config.model.file, baseline=self.config.model.baseline)
        else:
            model = None
        if self._labeler is None:
            make_labeler(self.config.labeler)
        test = read_test(self.config)
        if model is not None:
            check_inputs(self.config, model, test)
        number = done if self.config.pool.refresh else 0
        note = ""
        if self.config.pool.sample and not (here and self._pool_file(number).exists()):
            frames = self._pool_files()
            wanted = self.config.pool.n * len(self.config.pool.sample)
            note = f"up to {wanted} structures would be sampled first"
        else:
            frames = self._pool(done + 1)
        known = {a.key for a in asked}
        left = [a for a in frames if structure_key(a) not in known]
        picked = [a.atoms for a in asked if a.iteration == done + 1]
        if model is not None:
            check_pool(self.config, model, left)
        foreign = 0
        if model is None:
            note = note or "the first model would be trained first"
        elif not picked:
            cache = self.baseline_cache if self.directory.is_dir() else None
            chooser = Chooser(self.config, cache)
            choice = chooser.choose(model, left, [a.atoms for a in asked], done + 1)
            picked, foreign = [left[i] for i in choice.places], choice.not_covered
        stds, novelties = _said_of(model, picked)
        return Plan(done + 1, len(left), foreign, picked, stds, novelties, note)

    def _model_file(self, iteration: int) -> Path:
        return self.directory / f"model-{iteration:03d}.h5"

    def _model(self, iteration: int) -> KNNModel:
        """Model after an iteration; the first one is made if it is not there."""
        baseline = self.config.model.baseline
        file = self._model_file(iteration)
        if file.exists():
            return load_model(file, baseline=baseline)
        if iteration:
            # The file is written before the iteration counts as finished.
            raise DataError(
                f"{file} is missing: put it back, or give another loop.directory to start anew"
            )
        if self.config.model.file is not None:
            model = load_model(self.config.model.file, baseline=baseline)
        else:
            model = train_model(None, [], self.config, self.baseline_cache)
        save_model(model, file)
        return load_model(file, baseline=baseline)

    def _pool_file(self, iteration: int) -> Path:
        return self.directory / f"pool-{iteration:03d}.extxyz"

    def _pool_files(self) -> list[Atoms]:
        if not self.config.pool.files:
            return []
        frames = []
        for atoms in read_structures(self.config.pool.files):
            copy = Atoms(atoms.numbers, atoms.positions)
            copy.info = {"name": str(atoms.info["name"]), "composition": composition_label(atoms)}
            try:
                check_structure(atoms)
                copy.info["charge"], copy.info["multiplicity"] = resolve_charge(atoms)
            except StructureError as e:
                raise SettingsError(
                    f"pool.files: {copy.info['name']} of {atoms.info['source']}: {e}"
                ) from e
            frames.append(copy)
        return frames

    def _pool(self, iteration: int) -> list[Atoms]:
        """Structures to choose from, those chosen before among them."""
        refresh = iteration - 1 if self.config.pool.refresh else 0
        if refresh not in self._pools:
            frames = self._pool_files()
            if self.config.pool.sample:
                frames += self._sampled(refresh)
            self._pools = {refresh: frames}
        return self._pools[refresh]

    def _sampled(self, number: int) -> list[Atoms]:
        from ase_knncalc.molecules import parse_ingredients
        from ase_knncalc.sampling import sample

        file = self._pool_file(number)
        if not file.exists():
            table = self.config.pool
            frames: list[Atoms] = []
            for place, texts in enumerate(table.sample):
                settings = table.sampling_settings(
                    self.config.loop.seed + 1000 * number + 100 * place
                )
                frames += sample(
                    parse_ingredients(texts),
                    table.n,
                    engine=table.engine,
                    settings=settings,
                    n_jobs=self.config.loop.jobs,
                    progress=self.progress,
                )
            write_frames(file, frames)
        # As read, so that a loop that goes on sees the same positions to the last bit.
        return read_structures(file)

    def _batch(self, journal: Journal, iteration: int, model: KNNModel) -> list[Asked]:
        """The choice of an iteration: the one in the journal, or a new one."""
        known = journal.asked(iteration)
        if known:
            return known
        before = journal.asked()
        keys = {a.key for a in before}
        left = [a for a in self._pool(iteration) if structure_key(a) not in keys]
        check_pool(self.config, model, left)
        choice = self._chooser.choose(model, left, [a.atoms for a in before], iteration)
        journal.add_batch(iteration, [left[i] for i in choice.places])
        return journal.asked(iteration)

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
        asked = journal.asked()
        if not any(a.labelled for a in asked):
            raise LabelerError(
                f"no label succeeded, of {len(asked)} that were asked for; the first: "
                f"{asked[0].atoms.info['name']}: {asked[0].reason}. With another [labeler] the "
                "loop begins anew; with this one it goes on to other structures"
            )

    def _write_labelled(self, journal: Journal) -> None:
        labelled = [a.atoms for a in journal.asked() if a.labelled]
        if labelled:
            write_frames(self.directory / "labelled.extxyz", labelled)

    def _learn(self, journal: Journal, iteration: int, model: KNNModel) -> KNNModel:
        batch = journal.asked(iteration)
        new = [a.atoms for a in batch if a.labelled]
        everything = [a.atoms for a in journal.asked() if a.labelled]
        report: dict[str, Any] = {
            "iteration": iteration,
            "asked": len(batch),
            "failed": len(batch) - len(new),
            "labels": len(everything),
            **self._surprise(model, new),
        }
        learned = Learned(model, "unchanged", ["no label of the batch succeeded"], [])
        if new:
            learned = learn(model, new, everything, self.config, self.baseline_cache)
        model = learned.model
        save_model(model, self._model_file(iteration))
        model = load_model(self._model_file(iteration), baseline=self.config.model.baseline)
        report |= {
            "learned": learned.how,
            "reasons": learned.reasons,
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
        known = [a for a in frames if covered(model, a)]
        energies = baseline_energies(model, known, self.baseline_cache, self.config.loop.jobs)
        pairs = [(a, e) for a, e in zip(known, energies, strict=True) if e is not None]
        scores = _scores(model, [a for a, _ in pairs], [e for _, e in pairs])
        return {f"batch_{name}": value for name, value in scores.items()}

    def _tested(self, model: KNNModel) -> dict[str, float | None]:
        """Errors on the test set."""
        if not self._test:
            return {}
        frames = [a for a in self._test if covered(model, a)]
        energies = baseline_energies(model, frames, self.baseline_cache, self.config.loop.jobs)
        pairs = [(a, e) for a, e in zip(frames, energies, strict=True) if e is not None]
        scores = _scores(model, [a for a, _ in pairs], [e for _, e in pairs])
        return {f"test_{name}": value for name, value in scores.items()}

    def _pool_state(
        self, journal: Journal, model: KNNModel, iteration: int
    ) -> dict[str, float | int | None]:
        """What the model says of the structures that are left."""
        keys = {a.key for a in journal.asked()}
        left = [a for a in self._pool(iteration) if structure_key(a) not in keys]
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


def _said_of(
    model: KNNModel | None, frames: Sequence[Atoms]
) -> tuple[list[float | None], list[float | None]]:
    stds: list[float | None] = []
    novelties: list[float | None] = []
    for atoms in frames:
        if model is None or not covered(model, atoms):
            stds.append(None)
            novelties.append(None)
            continue
        found = model.correct(atoms.numbers, atoms.positions, resolve_charge(atoms)[0])
        stds.append(float(found.energy_std))
        novelties.append(float(found.novelty))
    return stds, novelties


def _scores(
    model: KNNModel, frames: Sequence[Atoms], baseline: Sequence[float]
) -> dict[str, float | None]:
    """Errors in eV, coverage of the 90 % interval, and novelty; None without structures."""
    if not frames:
        return {"n": 0, "mae": None, "rmse": None, "coverage": None, "novelty": None}
    found = model.correct_features(compute_features(model.descriptor, frames, n_jobs=1))
    truth = np.array([a.info["reference_energy"] for a in frames])
    error = np.asarray(baseline) + found.delta - truth
    half = model.calibration.multiple(0.9) * found.energy_std
    return {
        "n": len(frames),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "coverage": float(np.mean(np.abs(error) <= half)),
        "novelty": float(np.mean(found.novelty)),
    }


def run_loop(config: LoopConfig, **options: Any) -> list[dict[str, Any]]:
    """Run a loop to its end; options as for :class:`ActiveLoop`."""
    return ActiveLoop(config, **options).run()
