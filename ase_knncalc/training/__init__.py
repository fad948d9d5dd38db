"""From labels to a model, and from a model to one that knows more."""

from __future__ import annotations

from ase_knncalc.training.appending import Appended, append, append_to_file
from ase_knncalc.training.fit import FittedModel, fit_model
from ase_knncalc.training.head_fit import HeadSettings
from ase_knncalc.training.heads import add_properties
from ase_knncalc.training.retraining import RetrainingAdvice, needs_retraining
from ase_knncalc.training.run import train

__all__ = [
    "Appended",
    "FittedModel",
    "HeadSettings",
    "RetrainingAdvice",
    "add_properties",
    "append",
    "append_to_file",
    "fit_model",
    "needs_retraining",
    "train",
]
