"""What a loop finds out before it pays for a label: whether it could learn from it."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.learning import baseline_energies, training_frames
from ase_knncalc.data import KeyMap, read_dataset
from ase_knncalc.errors import KNNCalcError, SettingsError, StructureError
from ase_knncalc.model import KNNModel
from ase_knncalc.preparation import require_none


def read_test(config: LoopConfig) -> list[Atoms]:
    """The labelled structures that the curve of errors is of."""
    table = config.test
    if not table.files:
        return []
    keys = KeyMap(reference_energy=table.reference_key, baseline_energy=table.baseline_key)
    return list(read_dataset(table.files, keys=keys).frames)


def check_inputs(config: LoopConfig, model: KNNModel, test: Sequence[Atoms]) -> None:
    """Check that labels can be learned from, and errors be told, with what there is.

    Raises
    ------
    SettingsError
        If the model's baseline cannot be computed, or the training data are fewer than the
        neighbours that training would ask for.
    KNNCalcError
        If training data cannot be read, or they or the test data bring baseline energies along
        that are not the model's.
    """
    assert model.baseline is not None
    if model.baseline.library == "given":
        raise SettingsError(
            "model: its baseline energies come with the data (baseline 'given'), and a loop must "
            "compute them for the structures it chooses: start from a model whose baseline can be "
            "computed, or make one with training.data and model.baseline"
        )
    data = training_frames(config)
    k = config.training.training_settings().k
    if data and k > len(data):
        raise SettingsError(f"training.settings.k: {k} neighbours, but {len(data)} training frames")
    for table, frames in (("training.data", data), ("test.files", test)):
        brought = [a for a in frames if "baseline_energy" in a.info]
        try:
            if frames is data and model.baseline.library == "none":
                require_none(data)
            baseline_energies(model, brought, None, config.loop.jobs)
        except KNNCalcError as e:
            raise type(e)(f"{table}: {e}") from e


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
