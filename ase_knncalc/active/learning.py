"""How a loop learns: append where that is enough, train again where it is not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.active.config import LoopConfig
from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError, StructureError
from ase_knncalc.labels.training_data import complete_baseline, compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.prediction import Predictions
from ase_knncalc.training import append, needs_retraining, train


@dataclass(frozen=True)
class Learned:
    """A model after a batch.

    Attributes
    ----------
    model : KNNModel
    how : str
        ``"appended"`` or ``"trained"``.
    reasons : list of str
        Why it was trained again, or should be.
    left_out : list of str
        Labelled structures of the batch that the model could not use, and why.
    changes_energies : bool
        False where labels changed uncertainty and novelty alone, as the k-NN term is off.
    """

    model: KNNModel
    how: str
    reasons: list[str]
    left_out: list[str]
    changes_energies: bool = True


def learn(
    model: KNNModel,
    batch: Sequence[Atoms],
    labelled: Sequence[Atoms],
    config: LoopConfig,
    cache: Path,
) -> Learned:
    """The model with a labelled batch.

    Parameters
    ----------
    model
        As it was when the batch was chosen.
    batch
        New labelled structures.
    labelled
        All structures labelled in this loop, the batch among them.
    config, cache
        Of the loop; SQLite file of baseline labels.

    Raises
    ------
    SettingsError
        If the batch holds what the model does not cover, and it may not be trained again.
    DataError
        If labels are of another level of theory than the model's, unless ``check_labels`` is off.
    """
    mode = config.loop.retrain
    known = [a.copy() for a in batch if covered(model, a)]
    # Where the model is trained anew, too, for its look at the labels.
    check = config.training.check_labels
    outcome = append(model, known, cache=cache, check_labels=check) if known else None
    if mode == "always":
        return _trained(model, batch, labelled, config, cache, ["retrain = 'always'"])
    foreign = len(batch) - len(known)
    if foreign or outcome is None:
        reasons = [f"{foreign} structures hold elements or states that the model never saw"]
    else:
        advice = needs_retraining(outcome.model, growth=config.loop.growth)
        reasons = advice.reasons
        if not advice.needed or mode == "never" or not config.training.data:
            left_out = [f"{o.name}: {o.reason}" for o in outcome.omitted]
            changes = outcome.changes_energies
            return Learned(outcome.model, "appended", reasons, left_out, changes)
    if mode == "never" or not config.training.data:
        raise SettingsError(
            f"{reasons[0]}: give training.data, so that it can be trained again, and leave "
            "loop.retrain at 'auto'"
        )
    return _trained(model, batch, labelled, config, cache, reasons)


def _trained(
    before: KNNModel,
    batch: Sequence[Atoms],
    labelled: Sequence[Atoms],
    config: LoopConfig,
    cache: Path,
    reasons: list[str],
) -> Learned:
    model = train_model(before, labelled, config, cache)
    names = {str(a.info.get("name", "")) for a in batch}
    omitted = model.info.provenance.omitted
    left_out = [f"{o['name']}: {o['reason']}" for o in omitted if o["name"] in names]
    return Learned(model, "trained", reasons, left_out)


def covered(model: KNNModel, atoms: Atoms) -> bool:
    """Whether a model may be asked about a structure."""
    try:
        model.check(atoms)
    except StructureError:
        return False
    return True


def train_model(
    before: KNNModel | None, labelled: Sequence[Atoms], config: LoopConfig, cache: Path
) -> KNNModel:
    """A model of the original data and all labels of the loop.

    It keeps the baseline and the reference of the one before it, if there is one.
    """
    table = config.training
    additions = [a.copy() for a in labelled]
    if not table.use_forces:
        for atoms in additions:
            atoms.arrays.pop("reference_forces", None)
    reference = config.model.reference or ("" if before is None else before.info.reference)
    data: list[Any] = training_frames(config)
    with warnings.catch_warnings():
        # Frames left out are listed in the model; here the same ones would be told of each time.
        warnings.simplefilter("ignore", UserWarning)
        return train(
            data + additions,
            monomers=training_monomers(config) or None,
            baseline=config.model.baseline if before is None else before.baseline,
            reference=reference or table.reference_key,
            check_labels=table.check_labels,
            settings=table.training_settings(),
            cache=cache,
            n_jobs=config.loop.jobs,
        )


def training_frames(config: LoopConfig) -> list[Atoms]:
    """The original training data under the names that the loop's own labels have."""
    return _canonical(config, "data", config.training.data)


def training_monomers(config: LoopConfig) -> list[Atoms]:
    """Monomers for the zero of binding, likewise."""
    return _canonical(config, "monomers", config.training.monomers)


def _canonical(config: LoopConfig, name: str, paths: Sequence[Path]) -> list[Atoms]:
    if not paths:
        return []
    table = config.training
    try:
        stamps = tuple(path.stat().st_mtime_ns for path in paths)
        found = _read(tuple(paths), stamps, table.keys(), table.use_forces)
    except OSError as e:
        raise DataError(f"training.{name}: cannot read {e.filename}: {e.strerror or e}") from e
    except KNNCalcError as e:
        raise type(e)(
            f"training.{name}: {e} (here: training.reference_key, training.baseline_key)"
        ) from e
    return [a.copy() for a in found]


@lru_cache(maxsize=2)
def _read(
    paths: tuple[Path, ...], stamps: tuple[int, ...], keys: KeyMap, use_forces: bool
) -> list[Atoms]:
    """Files as they are now, read but once: a loop asks for them in each iteration."""
    frames = list(read_dataset(list(paths), keys=keys).frames)
    if not use_forces:
        for atoms in frames:
            atoms.arrays.pop("reference_forces", None)
    return frames


def baseline_energies(
    model: KNNModel, frames: Sequence[Atoms], cache: Path | None, jobs: int
) -> list[float | None]:
    """Baseline energy of each structure in eV, None where the baseline failed."""
    assert model.baseline is not None
    copies = [a.copy() for a in frames]
    for atoms in copies:
        atoms.arrays.pop("reference_forces", None)
    errors = complete_baseline(copies, model.baseline, cache=cache, n_jobs=jobs)
    return [
        None if error else float(a.info["baseline_energy"])
        for a, error in zip(copies, errors, strict=True)
    ]


def errors_of(
    model: KNNModel, frames: Sequence[Atoms], cache: Path | None, jobs: int
) -> tuple[FloatArray, Predictions]:
    """Predicted minus reference energy (eV) of labelled structures, and the corrections behind it.

    Without those whose baseline fails.
    """
    energies = baseline_energies(model, frames, cache, jobs)
    there = [i for i, e in enumerate(energies) if e is not None]
    known = [frames[i] for i in there]
    found = model.correct_features(compute_features(model.descriptor, known, n_jobs=1))
    baseline = np.array([energies[i] for i in there], dtype=np.float64)
    reference = np.array([a.info["reference_energy"] for a in known], dtype=np.float64)
    return baseline + found.delta - reference, found
