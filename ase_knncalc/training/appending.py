"""Adding labelled structures to a model that is there, without learning it anew.

New structures are projected with the metric as it is, and what the trend says of them is subtracted
from their Δ. The trend has not seen them, so this residual is held out, as those of the training
structures are. Index and residuals grow, and the error at each new structure, predicted before it
was added, is kept: it calibrates the model further, and says when it is time to train again.

What does not change: trend, metric, descriptor, width of the k-NN term, novelty's limits. Where the
k-NN term is off (models that learned from forces, or where cross-validation found it harmful),
energies stay the same, and what is gained are neighbours, novelty and uncertainty.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_knncalc._lib.arguments import checked, file_name
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.constants import MAD
from ase_knncalc._lib.files import only_writer
from ase_knncalc.analysis.membership import training_twins
from ase_knncalc.data import KeyMap, Omission, read_dataset
from ase_knncalc.data.dataset import SAME_ENERGY, place_in_file
from ase_knncalc.data.keys import key_map
from ase_knncalc.data.units import ratio_unit
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import (
    ChargeError,
    DataError,
    FormulaError,
    ModelFileError,
    PredictedLabelError,
    UnknownElementError,
)
from ase_knncalc.info import HeldOutErrors
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.labels.brought import wrong_baselines
from ase_knncalc.labels.training_data import complete_baseline, compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.structure import label_bytes, resolve_charge
from ase_knncalc.trend.base import composition_columns

if TYPE_CHECKING:
    from ase import Atoms

# The first calibration counts as this many errors against those of additions.
_PRIOR = 50
# A normalised error beyond this is a bad label, or so new that the metric must be learned again.
_LARGEST = 6.0
# Beyond this (eV), too, a label is wrong, and what all labels have in common is another level of
# theory: models that leave what they know are wrong by less, or say so.
_WRONG = 1.0
# What is as near (eV) to what the model predicts was predicted by it.
_OWN = 2e-6


@dataclass(frozen=True)
class Appended:
    """Outcome of :func:`append`.

    Attributes
    ----------
    model : KNNModel
        The one with the additions; the one that was given is as it was.
    added : list of str
        Names of the structures that were added.
    omitted : list of Omission
        Frames that were not, and why (already there, no label, baseline failed).
    errors, stds : ndarray, shape (n_added,)
        Predicted minus reference energy before the addition, and its standard deviation, eV.
    changes_energies : bool
        False where the k-NN term is off, so that additions change the uncertainty alone.
    """

    model: KNNModel
    added: list[str]
    omitted: list[Omission]
    errors: FloatArray
    stds: FloatArray
    changes_energies: bool


def append(
    model: KNNModel,
    data: Any,
    *,
    keys: KeyMap | None = None,
    source: str = "",
    cache: str | os.PathLike[str] | None = None,
    check_labels: bool = True,
    n_jobs: int = 1,
    progress: bool = False,
) -> Appended:
    """Add labelled structures to a model.

    A structure that the model has already (same elements and charge at distance zero in the metric)
    is not added again, so that an append that was interrupted can be repeated.

    Parameters
    ----------
    model
        With its baseline attached, unless all frames bring ``baseline_energy`` along.
    data
        File(s) or frames with reference energies, as for :func:`ase_knncalc.train`.
    keys
        Where the frames keep their labels.
    source
        Where the labels come from; kept in the provenance of each addition. By default each
        frame's own ``reference_method`` and ``source``.
    cache
        SQLite file of baseline labels.
    check_labels
        Whether to refuse labels in another unit or of another level of theory, those whose median
        error lies more than 1 eV, and six standard deviations, from zero; and to leave out single
        ones that do.
    n_jobs, progress
        For baseline labels.

    Raises
    ------
    UnknownElementError, ChargeError, FormulaError
        If a structure holds an element, or has a formula, charge or multiplicity, that nothing in
        the training says anything of: train again with these structures.
    DataError
        If no frame has a label, or the labels are in another unit than eV, of another level of
        theory than the model's, or predictions of this package, beyond doubt.
    BaselineError
        If baseline energies of the data are not those of the model's baseline.

    Warns
    -----
    UserWarning
        If the model has some of the structures with another energy.
    """
    checked("source", source, str)
    dataset = read_dataset(data, keys=keys)
    frames, omitted = list(dataset.frames), list(dataset.omitted)
    for atoms in frames:
        _check_covered(model, atoms)
    errors = _complete(model, frames, cache, n_jobs, progress)
    omitted += [_omission(i, frames[i], e, "baseline") for i, e in enumerate(errors) if e]
    frames = [a for a, e in zip(frames, errors, strict=True) if not e]
    if not frames:
        return _nothing(model, omitted)
    batch = compute_features(model.descriptor, frames, n_jobs=1)
    twins = training_twins(model, frames, batch)
    repeated = [_repeated(model, i, frames[i], known) for i, known in enumerate(twins) if known]
    omitted += repeated
    _warn_of_conflicts(repeated)
    fresh = [i for i, known in enumerate(twins) if not known]
    if not fresh:
        return _nothing(model, omitted)
    new = _Additions.of(model, [frames[i] for i in fresh], batch.select(fresh))
    if not key_map(keys).own_predictions:
        _refuse_own(new)
    if check_labels:
        new = _credible(model, new, omitted)
        if not new.frames:
            return _nothing(model, omitted)
    return _extend(model, new, omitted, source)


@dataclass(frozen=True)
class _Additions:
    """Structures that are new to a model, and what it says of them; energies in eV."""

    frames: list[Atoms]
    batch: FeatureBatch
    delta: FloatArray
    errors: FloatArray
    stds: FloatArray
    trend: FloatArray

    @classmethod
    def of(cls, model: KNNModel, frames: list[Atoms], batch: FeatureBatch) -> _Additions:
        delta = np.array([a.info["reference_energy"] - a.info["baseline_energy"] for a in frames])
        found = model.correct_features(batch)
        return cls(frames, batch, delta, found.delta - delta, found.energy_std, found.trend)

    def select(self, places: IntArray) -> _Additions:
        return _Additions(
            [self.frames[i] for i in places],
            self.batch.select(places),
            self.delta[places],
            self.errors[places],
            self.stds[places],
            self.trend[places],
        )


def _check_covered(model: KNNModel, atoms: Atoms) -> None:
    charge, multiplicity = resolve_charge(atoms)
    try:
        model.check(atoms, charge, multiplicity)
    except (UnknownElementError, ChargeError, FormulaError) as e:
        raise type(e)(
            f"{atoms.info['name']} cannot be appended: {e}. What the model covers, and the trend's "
            "offsets for elements and charges, comes from training: train again with such "
            "structures (knncalc train)"
        ) from None


def _refuse_own(new: _Additions) -> None:
    """Refuse labels that are the model's own predictions, written where nothing says whose."""
    same = np.abs(new.errors) < _OWN
    if 2 * same.sum() > len(same):
        first = new.frames[int(np.flatnonzero(same)[0])].info["name"]
        raise PredictedLabelError(
            f"the energies of {int(same.sum())} of {len(same)} structures (the first: {first}) are "
            "what the model itself predicts, and no labels; KeyMap(own_predictions=True), "
            "--own-predictions, takes them all the same"
        )


def _complete(
    model: KNNModel,
    frames: list[Atoms],
    cache: str | os.PathLike[str] | None,
    n_jobs: int,
    progress: bool,
) -> list[str]:
    if model.baseline is not None:
        for atoms in frames:  # additions say nothing of slopes
            atoms.arrays.pop("reference_forces", None)
        return complete_baseline(
            frames, model.baseline, cache=cache, n_jobs=n_jobs, progress=progress
        )
    return [
        ""
        if "baseline_energy" in atoms.info
        else "no baseline energy, and the model has no baseline attached"
        for atoms in frames
    ]


def _nothing(model: KNNModel, omitted: list[Omission]) -> Appended:
    empty = np.zeros(0)
    return Appended(model, [], omitted, empty, empty, not model.knn.settings.off)


def _omission(index: int, atoms: Atoms, reason: str, category: str) -> Omission:
    return Omission(
        index=place_in_file(atoms, index),
        name=str(atoms.info["name"]),
        source=str(atoms.info.get("source", "")),
        reason=reason,
        category=category,
    )


def require_level(model: KNNModel, errors: FloatArray, stds: FloatArray, advice: str) -> None:
    """Check that labels can be of the level of theory that a model was trained on.

    Parameters
    ----------
    model
        Named in the message by its reference.
    errors, stds
        Predicted minus reference energy of each structure and its standard deviation, eV.
    advice
        What to do, for the message.

    Raises
    ------
    DataError
        If the median error lies more than 1 eV, and six median standard deviations, from zero.
    """
    shift, std = float(np.median(errors)), float(np.median(stds))
    if abs(shift) > max(_WRONG, _LARGEST * std):
        raise DataError(
            f"the reference energies of {len(errors)} structures lie {abs(shift):.4g} eV "
            f"{'below' if shift > 0 else 'above'} what the model predicts (median; its standard "
            f"deviation is {std:.2g} eV), as those of another level of theory than "
            f"{model.info.reference!r} do: {advice}"
        )


def _repeated(model: KNNModel, place: int, atoms: Atoms, twins: list[int]) -> Omission:
    """Account of a structure that the model has, maybe with another energy."""
    same = "the model has this structure already"
    if model.held_out is None:
        return _omission(place, atoms, same, "duplicate")
    delta = atoms.info["reference_energy"] - atoms.info["baseline_energy"]
    differences = delta - model.held_out.deltas[twins]
    nearest = int(np.argmin(np.abs(differences)))
    same += f", as {model.names[twins[nearest]].decode('utf-8')}"
    if abs(differences[nearest]) <= SAME_ENERGY:
        return _omission(place, atoms, same, "duplicate")
    difference = f"{differences[nearest]:+.4f} eV different"
    reason = f"{same}, but its reference energy less that of the baseline is {difference}"
    return _omission(place, atoms, reason, "duplicate-conflict")


def _warn_of_conflicts(repeated: list[Omission]) -> None:
    conflicts = [o for o in repeated if o.category == "duplicate-conflict"]
    if conflicts:
        warnings.warn(
            f"labels of {len(conflicts)} structures contradict those the model was made with; the "
            f"first: {conflicts[0].name}: {conflicts[0].reason}",
            UserWarning,
            stacklevel=3,
        )


def _credible(model: KNNModel, new: _Additions, omitted: list[Omission]) -> _Additions:
    """Structures without labels that are wrong beyond doubt, which join ``omitted``."""
    errors, stds = new.errors, new.stds
    reference = np.array([a.info["reference_energy"] for a in new.frames])
    unit = ratio_unit(reference, reference + errors)
    if unit is not None:
        raise DataError(
            f"the reference energies look like {unit}, not eV: they are "
            f"{float(np.median(reference / (reference + errors))):.4g} times what the model "
            f"predicts; say so with KeyMap(energy_unit={unit!r}), or convert them"
        )
    wrong = np.abs(errors) > np.maximum(_WRONG, _LARGEST * stds)
    places = np.flatnonzero(wrong).tolist()
    off = wrong_baselines([new.frames[i] for i in places], model.baseline)
    reasons = {places[i]: reason for i, reason in off.items()}
    require_level(
        model, errors, stds,
        "label them as the model's own data, train a model on them, or, if they are right, give "
        "check_labels=False (--no-check; training.check_labels of a loop)",
    )  # fmt: skip
    omitted += [
        _omission(i, new.frames[i], reasons[i], "baseline")
        if i in reasons
        else _omission(
            i,
            new.frames[i],
            f"its reference energy lies {abs(errors[i]):.3g} eV from what the model predicts, with "
            f"a standard deviation of {stds[i]:.2g} eV: wrong, or to be learned by training again",
            "label",
        )
        for i in places
    ]
    return new.select(np.flatnonzero(~wrong))


def _extend(model: KNNModel, new: _Additions, omitted: list[Omission], source: str) -> Appended:
    frames, batch, delta, errors, stds = new.frames, new.batch, new.delta, new.errors, new.stds
    scale = MAD * float(np.median(np.abs(model.knn.residuals)))
    # A label that is wrong must not decide what its neighbours get; what is new may be far off.
    limit = _LARGEST * np.maximum(scale, stds)
    residuals = np.clip(delta - new.trend, -limit, limit)
    points = model.metric.place(batch)
    knn = KNNTerm(
        NeighborIndex(np.vstack([model.knn.index.points, points.astype(np.float32)])),
        np.concatenate([model.knn.residuals, residuals]),
        model.knn.settings,
    )
    names = [str(a.info["name"]) for a in frames]
    groups = [str(a.info["composition"]) for a in frames]
    inside = np.abs(errors) <= model.calibration.multiple(0.9) * stds
    info = model.info
    past = info.provenance
    first_scale = past.trained_scale or model.calibration.scale
    normalised = errors / stds * (model.calibration.scale / first_scale)
    additions = [
        *past.additions,
        *(
            _record(atoms, float(e), float(s), float(z), bool(b), source)
            for atoms, e, s, z, b in zip(frames, errors, stds, normalised, inside, strict=True)
        ),
    ]
    provenance = replace(
        past.with_sources([str(a.info.get("source") or source) for a in frames]),
        additions=additions,
        trained_scale=first_scale,
        trained_structures=past.trained_structures or info.n_structures,
        compositions=len({*model.compositions.tolist(), *(g.encode("utf-8") for g in groups)}),
    )
    sizes = batch.sizes
    grown = replace(
        model,
        knn=knn,
        names=np.concatenate([model.names, label_bytes(names)]),
        compositions=np.concatenate([model.compositions, label_bytes(groups)]),
        calibration=replace(model.calibration, scale=first_scale * _scale_factor(additions)),
        info=replace(
            info,
            n_structures=info.n_structures + len(frames),
            size_range=[
                min(info.size_range[0], int(sizes.min())),
                max(info.size_range[1], int(sizes.max())),
            ],
            provenance=provenance,
        ),
        held_out=model.held_out
        and model.held_out.join(
            HeldOutErrors(
                errors.astype(np.float32),
                stds.astype(np.float32),
                delta,
                composition_columns(batch, model.elements).astype(np.int16),
                np.ones(len(errors), dtype=bool),
            )
        ),
    )
    return Appended(grown, names, omitted, errors, stds, not model.knn.settings.off)


def _record(
    atoms: Atoms, error: float, std: float, normalised: float, inside: bool, source: str
) -> dict[str, Any]:
    return {
        "name": str(atoms.info["name"]),
        "composition": str(atoms.info["composition"]),
        "charge": int(atoms.info.get("charge", 0)),
        "reference_energy": float(atoms.info["reference_energy"]),
        "baseline_energy": float(atoms.info["baseline_energy"]),
        "error": error,
        "energy_std": std,
        "normalised": normalised,
        "inside_90": inside,
        "method": str(atoms.info.get("reference_method", "")),
        "source": source or str(atoms.info.get("source", "")),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _scale_factor(additions: list[dict[str, Any]]) -> float:
    """Growth of the calibrated standard deviation since training.

    Root mean square of the additions' errors in units of the standard deviation that the first
    calibration gave, which itself counts as ``_PRIOR`` errors of mean square 1. Never below 1:
    additions near the data say nothing of structures far off.
    """
    squares = [min(abs(a["normalised"]), _LARGEST) ** 2 for a in additions]
    return float(max(1.0, (_PRIOR + sum(squares)) / (_PRIOR + len(squares))) ** 0.5)


def append_to_file(path: str | os.PathLike[str], data: Any, **options: Any) -> Appended:
    """Add labelled structures to a model file; atomically, one process at a time.

    A reader, and a process that is killed here, sees the old file or the new one.

    Parameters
    ----------
    path
        Model file; not the name of a shipped model, which stays as it is.
    data, options
        As for :func:`append`; ``baseline`` as for :func:`ase_knncalc.load_model`.

    Raises
    ------
    ModelFileError
        If there is no such file, or it cannot be written.
    """
    from ase_knncalc.store import load_model, write_model

    target = Path(file_name("path", path))
    if not os.path.isfile(target):  # other than that of Path, it takes names of any length
        raise ModelFileError(
            f"{target} is not a model file; to extend a shipped model, copy it first"
        )
    baseline = options.pop("baseline", "auto")
    with only_writer(target):
        outcome = append(load_model(target, baseline=baseline), data, **options)
        if outcome.added:
            write_model(outcome.model, target)
    return outcome
