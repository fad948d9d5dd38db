"""Structures that a loop chooses from: read, sampled, and without what is known already."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.learning import covered, training_frames
from ase_knncalc.analysis.membership import new_ones
from ase_knncalc.data import read_structures, write_frames
from ase_knncalc.errors import KNNCalcError, SettingsError, StructureError
from ase_knncalc.labels.training_data import compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.sameness import DuplicateFinder
from ase_knncalc.structure import check_structure, composition_label, resolve_charge


class Candidates:
    """The pool of a loop.

    Parameters
    ----------
    config
        Of the loop.
    progress
        Whether sampling shows progress bars.

    Attributes
    ----------
    known : list of Atoms
        Structures of the pool that :meth:`fresh` left out as the model has them.
    """

    def __init__(self, config: LoopConfig, progress: bool = False) -> None:
        self.config = config
        self.progress = progress
        self.known: list[Atoms] = []
        self._frames: dict[int, list[Atoms]] = {}

    def file(self, number: int) -> Path:
        """Where sampled structures are kept, of the first sampling (0) or a later one."""
        return self.config.loop.directory / f"pool-{number:03d}.extxyz"

    def number(self, iteration: int) -> int:
        """Which sampling an iteration chooses from."""
        return iteration - 1 if self.config.pool.refresh else 0

    def of(self, iteration: int, model: KNNModel | None) -> list[Atoms]:
        """Structures of an iteration's pool that :meth:`fresh` leaves; sampled where need be."""
        number = self.number(iteration)
        if number not in self._frames:
            frames = self.from_files()
            if self.config.pool.sample:
                frames += self._sampled(number)
            self._frames = {number: self.fresh(frames, model)}
        return self._frames[number]

    def fresh(self, frames: Sequence[Atoms], model: KNNModel | None) -> list[Atoms]:
        """Those that are not in the training data, or the model without such; each but once.

        A label of what is known teaches nothing.
        """
        new = others(frames, training_frames(self.config))
        if self.config.training.data or model is None:
            return new
        known = [i for i, a in enumerate(new) if covered(model, a)]
        here = [new[i] for i in known]
        kept = new_ones(model, here, compute_features(model.descriptor, here, n_jobs=1))
        gone = set(known) - {known[i] for i in kept}
        self.known = [new[i] for i in sorted(gone)]
        return [a for i, a in enumerate(new) if i not in gone]

    def from_files(self) -> list[Atoms]:
        """Structures of the pool's files.

        Raises
        ------
        SettingsError
            If one is none that could be labelled.
        DataError
            If a file cannot be read.
        """
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

    def _sampled(self, number: int) -> list[Atoms]:
        from ase_knncalc.sampling import parse_ingredients, sample

        file = self.file(number)
        if not file.exists():
            table = self.config.pool
            frames: list[Atoms] = []
            problems: list[str] = []
            for place, texts in enumerate(table.sample):
                settings = table.sampling_settings(
                    self.config.loop.seed, 1000 * number + 100 * place
                )
                try:
                    frames += sample(
                        parse_ingredients(texts),
                        table.n,
                        engine=table.engine,
                        settings=settings,
                        n_jobs=self.config.loop.jobs,
                        progress=self.progress,
                    )
                except SettingsError:
                    raise
                except KNNCalcError as e:  # others may do, and have taken their time
                    problems.append(str(e))
            if not frames:
                raise KNNCalcError(f"pool.sample: {'; '.join(problems)}")
            for problem in problems:
                warnings.warn(f"pool.sample: {problem}", UserWarning, stacklevel=2)
            if table.refresh:  # each sampling counts from zero
                for atoms in frames:
                    atoms.info["name"] = f"{atoms.info['name']}-{file.stem}"
            write_frames(file, frames)
        # As read, so that a loop that goes on sees the same positions to the last bit.
        return read_structures(file)


def others(frames: Sequence[Atoms], known: Sequence[Atoms]) -> list[Atoms]:
    """Frames that are none of the known ones, in whatever orientation and order; each but once."""
    finder = DuplicateFinder.of(known)
    return [a for a in frames if finder.find_or_add(a, *resolve_charge(a)) is None]
