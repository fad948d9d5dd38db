"""From labelled structures to a model.

Baseline labels → descriptors → trend → metric → neighbours → calibration, in this order and in one
direction. :mod:`ase_knncalc.labels.training_data` does the first two; :func:`fit_model` the rest,
in memory; :func:`train` all of it, keeping account of every frame that it leaves out.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from ase_knncalc._lib.arguments import checked, file_name, instance, similar
from ase_knncalc._lib.parallel import check_jobs
from ase_knncalc._lib.profiling import stage
from ase_knncalc.analysis.binding import lone_molecules, monomer_records
from ase_knncalc.data import KeyMap, report_omissions
from ase_knncalc.data.properties import add_columns
from ase_knncalc.errors import SettingsError
from ase_knncalc.heads.targets import PropertyTarget, property_targets
from ase_knncalc.labels.suspects import find_suspects, leave_out, recheck_baselines
from ase_knncalc.labels.training_data import Prepared, prepare
from ase_knncalc.model import KNNModel
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training.fit import Origin, fit_model
from ase_knncalc.training.heads import fit_heads, with_heads


def train(
    data: Any,
    *,
    monomers: Any = None,
    baseline: Any = "auto",
    reference: str = "",
    keys: KeyMap | None = None,
    minima: bool = False,
    frequencies: str | os.PathLike[str] | None = None,
    properties: Iterable[str | PropertyTarget] = (),
    property_table: str | os.PathLike[str] | None = None,
    check_labels: bool = True,
    settings: TrainingSettings | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
    scratch: str | os.PathLike[str] | None = None,
    **options: Any,
) -> KNNModel:
    """Train a model on labelled structures.

    Parameters
    ----------
    data
        File(s), or ``Atoms`` with labels in ``info`` (see :class:`KeyMap`).
    monomers
        File(s) or frames of the monomers: the zero of binding energies. They get a higher weight
        in the trend and are kept in the model.
    baseline
        As for :func:`make_baseline`; ``"none"`` learns the reference energies directly,
        ``"given"`` takes the baseline's energies from the frames alone. Energies that the frames
        hold under ``keys.baseline_energy`` are not computed again.
    reference
        Name of the high level, e.g. ``"ωB97X-D/6-31++G(d,p)"``.
    keys
        Where the frames keep their labels.
    minima
        All frames without reference forces are minima of the reference method: their reference
        forces are zero, and the sparse trend learns from that, but for those with an imaginary
        frequency and those that a fit without their composition calls no minima
        (``model.info.provenance.trend["not_minima"]`` names these).
    frequencies
        Table of harmonic frequencies of the reference beside the data
        (:func:`~ase_knncalc.data.properties.add_frequencies`); frames may have them in
        ``info["frequencies_cm1"]`` as well. ``settings.sparse.curvature_frames`` says of how many
        minima they become curvatures to learn.
    properties, property_table
        Further properties to learn, and a table of their labels, see
        :func:`ase_knncalc.training.add_properties`.
    check_labels
        Leave out structures whose labels are wrong beyond doubt
        (:func:`ase_knncalc.labels.suspects.find_suspects`).
    settings
        How the model is made; ``options`` are fields of :class:`TrainingSettings`, for short, and
        go before those of ``settings``.
    cache
        SQLite file of baseline labels: an interrupted run goes on where it was.
    n_jobs
        Processes for labels, descriptors and metrics of folds (−1: all cores). Inside
        :func:`ase_knncalc._lib.parallel.cluster` they are the workers of a Dask cluster.
    progress
        Whether to show progress bars.
    scratch
        Folder for tables that are too large for memory, as for a hundred thousand structures; by
        default that for temporary files.

    Returns
    -------
    KNNModel
        Frames that were left out are listed in ``model.info.provenance.omitted``.

    Raises
    ------
    DataError
        If nothing usable is left, or units are mixed.
    TrainingError, SettingsError
        If there are too few structures, or settings make no sense.

    Warns
    -----
    UserWarning
        Once, if frames were left out.
    """
    known = [f.name for f in fields(TrainingSettings)]
    for name in options:
        if name not in known:
            raise SettingsError(f"train has no argument {name!r}{similar(name, known)}")
    chosen = TrainingSettings() if settings is None else settings
    settings = replace(instance("settings", chosen, TrainingSettings), **options)
    checked("reference", reference, str)
    checked("minima", minima, bool)
    checked("check_labels", check_labels, bool)
    check_jobs(n_jobs)
    if frequencies is not None:
        file_name("frequencies", frequencies)
    if scratch is not None:
        file_name("scratch", scratch)
    targets = property_targets(properties)
    if targets and settings.trend != "sparse":
        raise SettingsError(f"properties need trend='sparse', got {settings.trend!r}")
    prepared = prepare(
        data,
        settings=settings,
        monomers=monomers,
        baseline=baseline,
        keys=keys,
        minima=minima,
        frequencies=frequencies,
        cache=cache,
        n_jobs=n_jobs,
        progress=progress,
        scratch=scratch,
    )
    if check_labels:
        with stage("check of labels"):
            suspects = find_suspects(prepared.data, prepared.frames, seed=settings.seed)
            prepared = leave_out(prepared, recheck_baselines(prepared, suspects, refuse=True))
    origin = _origin(prepared, reference)
    fitted = fit_model(prepared.data, settings, origin=origin, n_jobs=n_jobs, progress=progress)
    model = fitted.model
    if targets:
        if property_table is not None:
            columns = [c for t in targets for c in t.columns]
            add_columns(prepared.frames, property_table, columns)
        batch = prepared.data.batch
        heads = fit_heads(model, prepared.frames, batch, targets, n_jobs=n_jobs, progress=progress)
        model = with_heads(model, heads)
    if prepared.omitted:
        total = len(prepared.frames) + len(prepared.omitted)
        warnings.warn(report_omissions(prepared.omitted, total, limit=1), UserWarning, stacklevel=2)
    return model


def _origin(prepared: Prepared, reference: str) -> Origin:
    frames = prepared.frames
    clusters = len(frames) - prepared.n_monomers
    states = {(int(a.info["charge"]), int(a.info["multiplicity"])) for a in frames}
    return Origin(
        baseline=prepared.baseline,
        reference=reference,
        monomers={**lone_molecules(frames[:clusters]), **monomer_records(frames[clusters:])},
        states=[list(state) for state in sorted(states)],
        sources=[str(a.info.get("source") or "") for a in frames],
        citations=sorted({str(a.info["citation"]) for a in frames if a.info.get("citation")}),
        omitted=prepared.omitted,
    )
