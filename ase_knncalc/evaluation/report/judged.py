"""Predictions whose truth is known: of test data, or of training structures while left out."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.analysis.membership import new_ones, training_twins
from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import DataError, StructureError
from ase_knncalc.labels.training_data import complete_baseline, compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.trend.base import composition_columns


@dataclass(frozen=True)
class Judged:
    """Errors of m predictions, and what was said of them beforehand.

    Attributes
    ----------
    names, compositions : list of str
    error, std : ndarray, shape (m,)
        Predicted minus reference energy and its calibrated standard deviation, eV.
    half_width : ndarray, shape (m,)
        Of the 90 % interval, eV.
    delta : ndarray, shape (m,)
        Reference minus baseline energy, eV.
    counts : ndarray of int, shape (m, n_elements + 2)
        Atoms of each element, total charge and its magnitude.
    novelty, points : ndarray or None
        Novelty (m,) and places in the metric (m, n_components), of test data only.
    nearest : list of (str, float)
        Nearest training structure and its distance, of test data only.
    frames : list of Atoms or None, length m
        Where they are known: the model keeps no geometries.
    refused : list of str
        What the model does not cover, and why.
    """

    names: list[str]
    compositions: list[str]
    error: FloatArray
    std: FloatArray
    half_width: FloatArray
    delta: FloatArray
    counts: IntArray
    novelty: FloatArray | None = None
    points: FloatArray | None = None
    nearest: list[tuple[str, float]] = field(default_factory=list)
    frames: Sequence[Atoms | None] = ()
    refused: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.error)

    @property
    def n_atoms(self) -> IntArray:
        """Numbers of atoms, shape (m,)."""
        return np.asarray(self.counts[:, :-2].sum(axis=1))

    @property
    def inside(self) -> BoolArray:
        """Whether the reference lies in the 90 % interval, shape (m,)."""
        return np.asarray(np.abs(self.error) <= self.half_width)

    def worst(self, n: int) -> list[int]:
        """The n structures with the largest errors."""
        return [int(i) for i in np.argsort(-np.abs(self.error), kind="stable")[:n]]

    def with_geometries(self, model: KNNModel, frames: Sequence[Atoms]) -> Judged:
        """The same, held-out errors of a model, with the geometries of its structures.

        They are found by name and composition where no two share them, else by their place in the
        metric; what is not found so has none.
        """
        keys = list(zip(self.names, self.compositions, strict=True))
        labels = [(str(a.info["name"]), str(a.info["composition"])) for a in frames]
        here, there = Counter(keys), Counter(labels)
        known = {label: a for label, a in zip(labels, frames, strict=True) if there[label] == 1}
        found = [known.get(key) if here[key] == 1 else None for key in keys]
        shared = [
            a
            for label, a in zip(labels, frames, strict=True)
            if label in here
            and max(here[label], there[label]) > 1
            and set(a.numbers.tolist()) <= set(model.elements)
        ]
        if shared:
            batch = compute_features(model.descriptor, shared, n_jobs=1)
            for atoms, twins in zip(shared, training_twins(model, shared, batch), strict=True):
                for i in twins:
                    found[i] = atoms
        return replace(self, frames=found)


def judge_held_out(model: KNNModel) -> Judged | None:
    """The cross-validated errors that a model file keeps; None in files of old."""
    held = model.held_out
    if held is None:
        return None
    rows = np.flatnonzero(held.fair)
    std = held.stds[rows].astype(np.float64)
    return Judged(
        names=[model.names[i].decode("utf-8") for i in rows],
        compositions=[model.compositions[i].decode("utf-8") for i in rows],
        error=held.errors[rows].astype(np.float64),
        std=std,
        half_width=model.calibration.multiple(0.9) * std,
        delta=held.deltas[rows],
        counts=held.counts[rows],
    )


def judge_data(
    model: KNNModel,
    data: Any,
    *,
    keys: KeyMap | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> Judged:
    """Predict labelled structures.

    Structures that the model does not cover, those whose baseline fails, and those that are in its
    training data, and so are no test of it, are in ``refused``.

    Parameters
    ----------
    model
        With its baseline attached.
    data
        File(s) or frames with reference energies.
    keys, cache, n_jobs, progress
        As for :func:`ase_knncalc.train`.

    Warns
    -----
    UserWarning
        If structures are in the model's training data.

    Raises
    ------
    DataError
        If no structure is left.
    BaselineError
        If baseline energies in the data are not those of the model's baseline.
    """
    dataset = read_dataset(data, keys=keys)
    refused = [f"{o.name}: {o.reason}" for o in dataset.omitted]
    frames = []
    for atoms in dataset:
        # Energies alone are judged: no time is spent on forces of the baseline.
        atoms.arrays.pop("reference_forces", None)
        try:
            model.check(atoms)
        except StructureError as e:
            refused.append(f"{atoms.info['name']}: {e}")
        else:
            frames.append(atoms)
    assert model.baseline is not None
    failures = complete_baseline(
        frames, model.baseline, cache=cache, n_jobs=n_jobs, progress=progress
    )
    refused += [f"{a.info['name']}: {e}" for a, e in zip(frames, failures, strict=True) if e]
    frames = [a for a, e in zip(frames, failures, strict=True) if not e]
    if not frames:
        raise DataError(
            "no structure of the data can be predicted; the first problem is: " + refused[0]
        )
    batch: FeatureBatch = compute_features(
        model.descriptor, frames, n_jobs=n_jobs, progress=progress
    )
    new = new_ones(model, frames, batch)
    if len(new) < len(frames):
        text = (
            f"{len(frames) - len(new)} of {len(frames)} structures of the data are in the model's "
            "training data: their errors say nothing of new structures"
        )
        if not new:
            raise DataError(f"{text}; give others, or none: a report shows errors left out, too")
        warnings.warn(f"{text}, and they are left out", UserWarning, stacklevel=2)
        seen = [a for i, a in enumerate(frames) if i not in set(new)]
        refused += [f"{a.info['name']}: it is in the model's training data" for a in seen]
        frames, batch = [frames[i] for i in new], batch.select(np.array(new))
    found = model.correct_features(batch)
    delta = np.array([a.info["reference_energy"] - a.info["baseline_energy"] for a in frames])
    return Judged(
        names=[str(a.info["name"]) for a in frames],
        compositions=[str(a.info["composition"]) for a in frames],
        error=found.delta - delta,
        std=found.energy_std,
        half_width=model.calibration.multiple(0.9) * found.energy_std,
        delta=delta,
        counts=composition_columns(batch, model.elements).astype(int),
        novelty=found.novelty,
        points=model.metric.place(batch),
        nearest=[(n[0].name, n[0].distance) for n in found.neighbors],
        frames=frames,
        refused=refused,
    )
