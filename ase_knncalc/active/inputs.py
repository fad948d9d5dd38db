"""What a loop finds out before it pays for a label: whether it could learn from it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.journal import Journal, structure_key
from ase_knncalc.active.learning import (
    baseline_energies,
    covered,
    errors_of,
    training_frames,
    training_monomers,
)
from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.errors import KNNCalcError, SettingsError, StructureError
from ase_knncalc.labelers import Labeler, LookupLabeler, label_frames
from ase_knncalc.labels.training_data import require_none
from ase_knncalc.model import KNNModel
from ase_knncalc.sameness import DuplicateFinder
from ase_knncalc.structure import resolve_charge
from ase_knncalc.training import append
from ase_knncalc.training.appending import require_level


def read_test(config: LoopConfig) -> list[Atoms]:
    """The labelled structures that the curve of errors is of."""
    table = config.test
    if not table.files:
        return []
    keys = KeyMap(reference_energy=table.reference_key, baseline_energy=table.baseline_key)
    try:
        return list(read_dataset(table.files, keys=keys).frames)
    except KNNCalcError as e:
        raise type(e)(f"test.files: {e} (here: test.reference_key, test.baseline_key)") from e


def check_inputs(
    config: LoopConfig, model: KNNModel, test: Sequence[Atoms], cache: Path | None
) -> None:
    """Check that labels can be learned from, and errors be told, with what there is.

    Raises
    ------
    SettingsError
        If the model's baseline cannot be computed, or the training data are fewer than the
        neighbours that training would ask for.
    KNNCalcError
        If training data or monomers cannot be read, or they or the test data bring baseline
        energies along that are not the model's, or are of another level of theory.

    Warns
    -----
    UserWarning
        If labels would leave all energies as they are.
    """
    assert model.baseline is not None
    learns = config.training.data and config.loop.retrain != "never"
    if model.knn.settings.off and not learns:
        wanted = "leave loop.retrain at 'auto'" if config.training.data else "give training.data"
        warnings.warn(
            "model: its k-NN term is off, so that labels change uncertainty and novelty, but no "
            f"energy: {wanted}, to train again with them",
            UserWarning,
            stacklevel=3,
        )
    if model.baseline.is_given:
        raise SettingsError(
            "model: its baseline energies come with the data (baseline 'given'), and a loop must "
            "compute them for the structures it chooses: start from a model whose baseline can be "
            "computed, or make one with training.data and model.baseline"
        )
    data = training_frames(config)
    k = config.training.training_settings().k
    if data and k > len(data):
        raise SettingsError(f"training.settings.k: {k} neighbours, but {len(data)} training frames")
    monomers = training_monomers(config)
    tables = (("training.data", data), ("training.monomers", monomers), ("test.files", test))
    for table, frames in tables:
        try:
            _check_frames(config, model, frames, cache, learned=table != "test.files")
        except KNNCalcError as e:
            raise type(e)(f"{table}: {e}") from e


def check_ingredients(config: LoopConfig, model: KNNModel) -> None:
    """:func:`check_pool` of clusters that have not been sampled yet, which may take long."""
    from ase_knncalc.sampling import parse_ingredients
    from ase_knncalc.sampling.molecules import charge_and_multiplicity

    frames = []
    for texts in config.pool.sample:
        cluster, ingredients = Atoms(), parse_ingredients(texts)
        for ingredient in ingredients:
            for _ in range(ingredient.count):
                molecule = ingredient.molecule.copy()
                molecule.positions += [20.0 * len(cluster), 0.0, 0.0]
                cluster += molecule
        cluster.info["name"] = " ".join(texts)
        cluster.info["charge"], cluster.info["multiplicity"] = charge_and_multiplicity(ingredients)
        frames.append(cluster)
    check_pool(config, model, frames)


# Structures of a file whose labels are compared with the model.
_COMPARED = 20


def _check_frames(
    config: LoopConfig, model: KNNModel, frames: Sequence[Atoms], cache: Path | None, learned: bool
) -> None:
    assert model.baseline is not None
    if learned and model.baseline.is_none:
        require_none(frames)
    jobs = config.loop.jobs
    baseline_energies(model, [a for a in frames if "baseline_energy" in a.info], None, jobs)
    if not config.training.check_labels or not frames:
        return
    spread = np.unique(np.linspace(0, len(frames) - 1, 3 * _COMPARED).astype(int))
    known = [frames[i] for i in spread if covered(model, frames[i])]
    some = known[:: max(1, len(known) // _COMPARED)]
    errors, found = errors_of(model, some, cache, jobs)
    if not len(errors):
        return
    require_level(
        model,
        errors,
        found.energy_std,
        "give labels of one level and in eV, or, if they are right, training.check_labels = false",
    )


# Programs and grids differ by less (eV), and other levels of theory by more.
_SAME_LEVEL = 0.05
# Training structures that are tried until one is labelled.
_TRIED = 3


def check_labeler(config: LoopConfig, labeler: Labeler, journal: Journal) -> None:
    """Have the smallest training structure labelled, and compare; once in a loop.

    Labels of another level of theory would be learned as if they were right where they hold new
    elements or charges, for which the model has no energies to compare with. Where it fails, the
    next is tried; what failed is kept in the journal and not tried again.

    Raises
    ------
    SettingsError
        If the label is not the one of the training data.

    Warns
    -----
    UserWarning
        If structures could not be labelled, with the reasons.
    """
    frames = [*training_frames(config), *training_monomers(config)]
    compared = journal.fact("level") == labeler.method
    if not frames or not config.training.check_labels or compared:
        return
    known = json.loads(journal.fact("level failures") or "{}")
    failures: dict[str, str] = known.setdefault(labeler.method, {})
    smallest = {structure_key(a): a for a in sorted(frames, key=len)}
    tried = list(smallest)[:_TRIED]
    for key in tried:
        if key in failures:
            continue
        atoms = smallest[key]
        bare = Atoms(atoms.numbers, atoms.positions)
        bare.info = {"name": atoms.info["name"]}
        bare.info["charge"], bare.info["multiplicity"] = resolve_charge(atoms)
        labelled, failed = label_frames(labeler, [bare], time_limit=config.labeler.time_limit)
        if labelled:
            _require_same(labelled[0], atoms)
            journal.set_fact("level", labeler.method)
            break
        if isinstance(labeler, LookupLabeler):  # a table need not hold it, and costs nothing
            continue
        failures[key] = f"{atoms.info['name']}: {failed[0].reason}"
        journal.set_fact("level failures", json.dumps(known))
    reasons = [failures[key] for key in tried if key in failures]
    if not reasons:
        return
    compared = journal.fact("level") == labeler.method
    warnings.warn(
        f"labeler: training structures without a label of its own ({'; '.join(reasons)}): "
        + (
            "its level of theory was compared with the training data by the next"
            if compared
            else "its level of theory is not compared with that of the training data "
            "(--retry tries again, training.check_labels = false leaves it out)"
        ),
        UserWarning,
        stacklevel=3,
    )


def _require_same(labelled: Atoms, atoms: Atoms) -> None:
    found, wanted = (float(a.info["reference_energy"]) for a in (labelled, atoms))
    if not abs(found - wanted) <= _SAME_LEVEL:
        raise SettingsError(
            f"labeler: it gives {found:.4f} eV for {atoms.info['name']}, training "
            f"data have {wanted:.4f} eV: give the level of theory of the training data, or, if "
            "both are right, training.check_labels = false"
        )


def check_first_labels(
    config: LoopConfig, labeler: Labeler, journal: Journal, model: KNNModel, cache: Path
) -> None:
    """Check that labels are of the model's level of theory, where no training data said so.

    Raises
    ------
    DataError
        If they are not, as :func:`ase_knncalc.training.append` tells.
    """
    if not config.training.check_labels or journal.fact("level") == labeler.method:
        return
    labelled = [a.atoms for a in journal.asked() if a.labelled]
    known = [atoms for atoms in labelled if covered(model, atoms)]
    if known:
        append(model, known, cache=cache)


def check_held_out(config: LoopConfig, test: Sequence[Atoms], pool: Sequence[Atoms]) -> None:
    """Warn of test structures that are learned from: their errors say nothing of others."""
    for table, frames in (("training.data", training_frames(config)), ("the pool", pool)):
        finder = DuplicateFinder.of(frames)
        twice = sum(bool(finder.find_all(a, *resolve_charge(a))) for a in test)
        if twice:
            warnings.warn(
                f"test.files: {twice} of {len(test)} structures are in {table}, too: once "
                "the model has learned from them, their errors say nothing of new structures",
                UserWarning,
                stacklevel=3,
            )


def check_pool(config: LoopConfig, model: KNNModel, frames: Sequence[Atoms]) -> None:
    """Check that whatever is chosen of the pool can be learned from.

    Raises
    ------
    SettingsError
        If the model does not cover some of it, and may not be trained anew.
    """
    if config.training.data and config.loop.retrain != "never":
        return
    reasons: dict[str, str] = {}
    for atoms in frames:
        try:
            model.check(atoms)
        except StructureError as e:
            reasons[str(atoms.info["name"])] = str(e)
    if not reasons:
        return
    name, reason = next(iter(reasons.items()))
    wanted = "leave loop.retrain at 'auto'" if config.training.data else "give training.data"
    raise SettingsError(
        f"pool: {len(reasons)} of {len(frames)} structures could be learned only by training anew "
        f"({name}: {reason}): {wanted}, or take these structures out"
    )
