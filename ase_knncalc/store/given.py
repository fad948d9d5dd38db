"""The model that a calculator is to use, with its baseline."""

from __future__ import annotations

import os
from typing import Any

from ase_knncalc.baselines import NoBaseline
from ase_knncalc.errors import BaselineError
from ase_knncalc.model import KNNModel
from ase_knncalc.store.model_file import model_with_baseline


def model_for_calculator(
    given: str | os.PathLike[str] | KNNModel, baseline: Any, allow_other: bool
) -> KNNModel:
    """A model that computes energies wherever atoms move to.

    Parameters
    ----------
    given
        Name, file, or the model itself.
    baseline
        ``"auto"``: its own. None: one whose energy is zero.
    allow_other
        Accept a baseline that is not the one the model corrects.

    Raises
    ------
    BaselineError
        If its baseline's energies come with the data alone, or as for
        :meth:`KNNModel.with_baseline`.
    """
    # None is for load_model no baseline at all; here it is the baseline whose energy is zero.
    chosen = NoBaseline() if baseline is None else baseline
    model = model_with_baseline(given, chosen, allow_other)
    if model.baseline is not None and model.baseline.is_given:
        raise BaselineError(
            "the model's baseline='given' computes no energy, so that a calculator has none where "
            "atoms move to. Use model.predict(atoms, baseline_energy=…) or predict_frames; or name "
            "an ASE calculator of the same method, KNNCalculator(…, baseline=calculator, "
            "allow_other_baseline=True)"
        )
    return model
