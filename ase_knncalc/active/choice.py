"""What a loop asks next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.learning import baseline_energies, covered, training_frames
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.labels.training_data import compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.sampling.selection import (
    Pool,
    farthest_points,
    kernel_rows,
    select,
    survey,
    within_window,
)
from ase_knncalc.structure import composition_label, resolve_charge


@dataclass(frozen=True)
class Choice:
    """Places of the structures to label, in the order of the choice.

    Attributes
    ----------
    places : list of int
    not_covered : int
        How many of all candidates hold elements, charges or multiplicities that the model never
        saw.
    """

    places: list[int]
    not_covered: int


class Chooser:
    """Chooses batches by the rules of a configuration.

    Structures that the model does not cover come first, the most different ones of them: nothing is
    more novel. ``random`` makes no difference, and ``variance`` needs no model to know what is new
    where there are training data to compare with.

    Parameters
    ----------
    config
        Of the loop.
    cache
        SQLite file of baseline labels, for the energy window; None keeps them in memory.
    """

    def __init__(self, config: LoopConfig, cache: Path | None) -> None:
        self.config = config
        self.cache = cache
        self._known: tuple[tuple[int, ...], FeatureBatch] | None = None

    def choose(
        self,
        model: KNNModel,
        frames: Sequence[Atoms],
        labelled: Sequence[Atoms],
        iteration: int,
        known: Sequence[Atoms] = (),
    ) -> Choice:
        """A batch of at most ``loop.batch`` of the frames.

        Parameters
        ----------
        model
            What is known so far.
        frames
            Candidates.
        labelled
            Structures that were chosen before.
        iteration
            Its number decides on ties and on what is random.
        known
            Structures of the pool that the model has already; the energy window counts from them
            and from training data, too.
        """
        loop = self.config.loop
        foreign = [i for i, a in enumerate(frames) if not covered(model, a)]
        inside = self._inside(model, frames, foreign, [*labelled, *known])
        n = min(loop.batch, len(inside))
        if not n:
            return Choice([], len(foreign))
        seed = loop.seed + 7919 * iteration
        if loop.strategy == "random":
            order = np.random.default_rng(seed).permutation(inside)
            return Choice(order[:n].tolist(), len(foreign))
        if loop.strategy == "variance" and self.config.training.data:
            candidates = [frames[i] for i in inside]
            places = self._by_variance(candidates, labelled, n, seed)
            return Choice([inside[i] for i in places], len(foreign))
        first = _most_different([frames[i] for i in foreign], n, self.config)
        chosen = [foreign[i] for i in first]
        rest = sorted(set(inside) - set(foreign))
        if len(chosen) < n and rest:
            pool = survey(
                model,
                compute_features(model.descriptor, [frames[i] for i in rest], n_jobs=1),
                strategy=loop.strategy,
            )
            chosen += [rest[i] for i in select(pool, n - len(chosen), loop.strategy, seed=seed)]
        return Choice(chosen, len(foreign))

    def _inside(
        self,
        model: KNNModel,
        candidates: Sequence[Atoms],
        foreign: Sequence[int],
        others: Sequence[Atoms],
    ) -> list[int]:
        """Candidates within the energy window; what has no energy yet may be anywhere.

        The lowest of a composition may be known already: one of the others, or of the training
        data.
        """
        n = len(candidates)
        window = self.config.loop.energy_window
        if window is None:
            return list(range(n))
        frames = [*candidates, *(a for a in others if covered(model, a))]
        known = sorted(set(range(len(frames))) - set(foreign))
        asked = [frames[i] for i in known]
        if not asked:
            return list(foreign)
        found = baseline_energies(model, asked, self.cache, self.config.loop.jobs)
        there = [i for i, e in enumerate(found) if e is not None]
        if not there:
            return list(foreign)
        asked = [asked[i] for i in there]
        features = compute_features(model.descriptor, asked, n_jobs=1)
        energies = np.array([found[i] for i in there], dtype=np.float64)
        energies = energies + model.correct_features(features).delta
        training = training_frames(self.config)
        trained = [float(a.info["reference_energy"]) for a in training]
        blank = np.zeros((len(asked) + len(training), 1))
        pool = Pool(
            blank[:, 0],
            blank[:, 0],
            blank,
            blank,
            energies=np.concatenate([energies, trained]),
            groups=[composition_label(a) for a in (*asked, *training)],
        )
        inside = (known[there[i]] for i in within_window(pool, window) if i < len(there))
        return sorted([*foreign, *(i for i in inside if i < n)])

    def _by_variance(
        self, frames: Sequence[Atoms], labelled: Sequence[Atoms], n: int, seed: int
    ) -> list[int]:
        """Choice by the kernel of training data, labelled structures and candidates alike."""
        settings = self.config.training.training_settings()
        training = training_frames(self.config)
        numbers = [a.numbers for a in (*training, *labelled, *frames)]
        elements = tuple(np.unique(np.concatenate(numbers)).tolist())
        descriptor = settings.descriptor(elements)
        if self._known is None or self._known[0] != elements:
            self._known = (elements, compute_features(descriptor, training, n_jobs=1))
        known = self._known[1]
        if labelled:
            more = compute_features(descriptor, labelled, n_jobs=1)
            known = FeatureBatch.concatenate([known, more])
        rows = kernel_rows(
            known,
            compute_features(descriptor, frames, n_jobs=1),
            elements,
            settings.sparse,
            seed=self.config.loop.seed,
        )
        blank = np.zeros((len(frames), 1))
        pool = Pool(blank[:, 0], blank[:, 0], blank, blank[:0], rows=rows)
        return [int(i) for i in select(pool, n, "variance", seed=seed)]


def _most_different(frames: Sequence[Atoms], n: int, config: LoopConfig) -> list[int]:
    """Farthest points of the global descriptor, in units of its spread, and the charge."""
    if not frames:
        return []
    elements = np.unique(np.concatenate([a.numbers for a in frames])).tolist()
    descriptor = config.training.training_settings().descriptor(elements)
    summed = compute_features(descriptor, frames, n_jobs=1).summed()
    charges = np.array([[resolve_charge(a)[0]] for a in frames], dtype=np.float64)
    # Charge is no part of the descriptor: a unit of it counts more than all the rest.
    scale = max(float(np.sqrt(summed.var(axis=0).sum())), 1e-12)
    points = np.hstack([summed / scale, 2.0 * charges])
    picked = farthest_points(points, np.zeros((0, points.shape[1])), min(n, len(frames)))
    return [int(i) for i in picked]
