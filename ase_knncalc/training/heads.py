"""Properties beside the energy: heads for a model that is there.

The energy stays as it is. All heads take their columns from the trend's inducing environments; each
is a ridge regression of all its outputs at once, with a penalty chosen on compositions that were
left out, and errors of left-out structures calibrate what it says of its own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import instance
from ase_knncalc._lib.profiling import stage
from ase_knncalc.baselines import baseline_of
from ase_knncalc.data import KeyMap, Omission, read_dataset, report_omissions
from ase_knncalc.data.dataset import place_in_file
from ase_knncalc.data.properties import add_columns
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import DataError, SettingsError, StructureError
from ase_knncalc.heads.dipole import DEBYE
from ase_knncalc.heads.head import Head, Heads
from ase_knncalc.heads.targets import PropertyTarget, property_targets
from ase_knncalc.heads.thermal import thermal_targets
from ase_knncalc.labels.training_data import compute_features
from ase_knncalc.model import KNNModel
from ase_knncalc.training.dipoles import BROUGHT, baseline_dipoles
from ase_knncalc.training.head_fit import (
    Described,
    HeadSettings,
    Labels,
    fit_head,
    head_columns,
)
from ase_knncalc.trend.sparse import SparseTrend

_FEWEST = 20


def add_properties(
    model: KNNModel,
    data: Any,
    properties: Iterable[str | PropertyTarget],
    *,
    table: str | os.PathLike[str] | None = None,
    keys: KeyMap | None = None,
    settings: HeadSettings | None = None,
    n_jobs: int = -1,
    progress: bool = False,
    scratch: str | os.PathLike[str] | None = None,
) -> KNNModel:
    """The model with further properties; what it says of energies stays the same.

    Parameters
    ----------
    model
        With a sparse trend.
    data
        File(s), or ``Atoms``, with labels in ``info``; minima, where the property is one of minima.
    properties
        What to learn, see :func:`~ase_knncalc.heads.targets.property_targets`. A head of a name
        that the model has already takes the place of the old one.
    table
        Table (csv) beside the data with a column ``name`` and those of the labels.
    keys
        Where frames have energies (for levels of theory), composition, charge and multiplicity.
    settings
        How heads are made.
    n_jobs, progress, scratch
        As for :func:`ase_knncalc.train`.

    Raises
    ------
    SettingsError
        If a property cannot be read, or the model has no sparse trend.
    DataError
        If there are no labels of a property, or too few.

    Warns
    -----
    UserWarning
        Once, if frames were left out.
    """
    targets = property_targets(properties)
    trend_of(model)
    dataset = read_dataset(data, keys=keys, require_reference=False)
    frames, omitted = covered(model, dataset.frames)
    if table is not None:
        add_columns(frames, table, [c for t in targets for c in t.columns])
    with stage("descriptors"):
        batch = compute_features(
            model.descriptor, frames, n_jobs=n_jobs, progress=progress, scratch=scratch
        )
    heads = fit_heads(model, frames, batch, targets, settings, n_jobs=n_jobs, progress=progress)
    omitted = [*dataset.omitted, *omitted]
    if omitted:
        text = report_omissions(omitted, len(frames) + len(omitted), limit=1)
        warnings.warn(text, UserWarning, stacklevel=2)
    return with_heads(model, heads)


def trend_of(model: KNNModel) -> SparseTrend:
    """The trend whose environments heads share.

    Raises
    ------
    SettingsError
        If it has none.
    """
    instance("model", model, KNNModel)
    if not isinstance(model.trend, SparseTrend):
        raise SettingsError(
            f"properties need the environments of a sparse trend, and the model's is "
            f"{model.trend.kind!r}: train with trend='sparse'"
        )
    return model.trend


def with_heads(model: KNNModel, heads: Sequence[Head]) -> KNNModel:
    """The model with these heads, in the place of those of the same name."""
    old = [] if model.heads is None else list(model.heads)
    kept = {head.name: head for head in [*old, *heads]}
    return replace(model, heads=Heads.on(trend_of(model).environments, list(kept.values())))


def covered(model: KNNModel, frames: Sequence[Atoms]) -> tuple[list[Atoms], list[Omission]]:
    """Frames that the model covers, and why it does not cover the others."""
    kept, omitted = [], []
    for i, atoms in enumerate(frames):
        try:
            model.check(atoms)
        except StructureError as e:
            name, source = str(atoms.info["name"]), str(atoms.info.get("source", ""))
            omitted.append(Omission(place_in_file(atoms, i), name, source, str(e), "not-covered"))
        else:
            kept.append(atoms)
    if not kept:
        raise DataError(
            "the model covers none of the structures"
            + (f": {omitted[0].reason}" if omitted else "")
        )
    return kept, omitted


def labels_of(frames: Sequence[Atoms], target: PropertyTarget) -> Labels:
    """Labels of frames; those with an imaginary mode have no thermochemistry.

    Raises
    ------
    DataError
        If there are fewer than twenty, or an entry is no number.
    """
    rows, values, sets = [], [], []
    for i, atoms in enumerate(frames):
        value = atoms.info.get(target.key)
        if value is None or (target.kind == "level" and "reference_energy" not in atoms.info):
            continue
        try:
            number = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            number = np.array([np.nan])
        if not np.all(np.isfinite(number)) or (target.kind != "thermochemistry" and number.ndim):
            raise DataError(
                f"{atoms.info['name']}: the label {target.key!r} of {target.name!r} is {value!r}"
            )
        if target.kind == "thermochemistry" and (not number.size or number.min() < 0):
            continue
        if target.kind == "level":
            number = number - atoms.info["reference_energy"]
        rows.append(i)
        values.append(number)
        sets.append(str(atoms.info.get(target.sets, "")) if target.sets else "")
    if len(rows) < _FEWEST:
        raise DataError(
            f"the property {target.name!r} needs at least {_FEWEST} structures with labels, and "
            f"{len(rows)} have {target.key!r}"
        )
    if target.kind == "thermochemistry":
        made = thermal_targets([np.ravel(v) for v in values])
    else:
        made = np.array(values, dtype=np.float64)[:, None]
        made *= DEBYE if target.kind == "dipole" else 1.0
    return Labels(np.array(rows, dtype=np.intp), made, sets if target.sets else [])


def fit_heads(
    model: KNNModel,
    frames: Sequence[Atoms],
    batch: FeatureBatch,
    targets: Sequence[PropertyTarget],
    settings: HeadSettings | None = None,
    *,
    n_jobs: int = -1,
    progress: bool = False,
) -> list[Head]:
    """Heads for described structures; arguments as for :func:`add_properties`."""
    settings = settings or HeadSettings()
    # What is wrong with labels is told before any work.
    labels = [labels_of(frames, target) for target in targets]
    labels = [
        _with_base(model, frames, own, settings, n_jobs=n_jobs, progress=progress)
        if target.kind == "dipole"
        else own
        for target, own in zip(targets, labels, strict=True)
    ]
    described = describe(model, frames, batch, settings)
    heads = []
    for target, own in zip(targets, labels, strict=True):
        with stage(f"properties: {target.name}"):
            heads.append(fit_head(target, own, described, settings).head)
    return heads


def describe(
    model: KNNModel, frames: Sequence[Atoms], batch: FeatureBatch, settings: HeadSettings
) -> Described:
    """Frames with the columns that heads share; ``batch`` is of them."""
    whole = trend_of(model).environments
    environments = whole.first(np.minimum(whole.counts, settings.environments))
    with stage("properties: kernels with the environments"):
        columns = head_columns(environments, batch, settings.variance_environments)
    return Described(frames, batch, environments, columns, model.descriptor)


def _with_base(
    model: KNNModel, frames: Sequence[Atoms], labels: Labels, settings: HeadSettings, **options: Any
) -> Labels:
    """Labels of dipoles with the baseline's: brought along, or computed for a sample."""
    brought = np.array([BROUGHT in frames[i].info for i in labels.rows])
    order = np.random.default_rng(settings.seed).permutation(len(labels.rows))
    # Those that are there already, and of the others as many as are wanted.
    order = order[np.argsort(~brought[order], kind="stable")]
    chosen = np.sort(order[: max(settings.dipoles, int(brought.sum()))])
    baseline = model.baseline
    if baseline is None:
        baseline = baseline_of(model.info.baseline)
    with stage("dipoles of the baseline"):
        base = baseline_dipoles([frames[i] for i in labels.rows[chosen]], baseline, **options)
    known = np.isfinite(base).all(axis=1)
    return Labels(labels.rows[chosen][known], labels.values[chosen][known], [], base[known])
