"""The one family of exceptions of this package.

Every error that a user can cause, or can mend, is a :class:`KNNCalcError`. Where ASE has an
exception that its workflows catch (``InputError``, ``CalculationFailed``), ours is one too.
A message says what was found, what was expected, and what to do.
"""

from __future__ import annotations

from ase.calculators.calculator import CalculationFailed, InputError


class KNNCalcError(Exception):
    """Base class of all errors raised on purpose by ``ase_knncalc``."""


class SettingsError(KNNCalcError, ValueError):
    """An option has a value, or a combination of values, that makes no sense."""


class StructureError(KNNCalcError, InputError):  # type: ignore[misc]
    """A structure cannot be handled: NaN positions, overlapping atoms, a periodic cell."""


class ChargeError(StructureError):
    """Charge or multiplicity contradict each other, the electron count or the model."""


class UnknownElementError(StructureError):
    """A structure holds an element that the model was not trained on."""


class FormulaError(StructureError):
    """A structure's formula is no combination of the formulas that the model was trained on."""


class NoveltyError(StructureError):
    """A structure is further from the training data than ``on_novelty="raise"`` allows."""


class BaselineError(KNNCalcError, CalculationFailed):  # type: ignore[misc]
    """The baseline method is missing, does not fit the model, or did not converge."""


class LabelerError(KNNCalcError, CalculationFailed):  # type: ignore[misc]
    """A reference calculation failed (no convergence, time limit, crash)."""


class DataError(KNNCalcError, ValueError):
    """Labelled data cannot be used: empty, unreadable, without labels, or in other units."""


class PredictedLabelError(DataError):
    """What stands as a reference energy was predicted by a model of this package."""


class TrainingError(KNNCalcError):
    """A model cannot be trained from what was given."""


class ModelFileError(KNNCalcError, OSError):
    """A model (or cache) file is missing, damaged or not one of ours."""


class ModelFileVersionError(ModelFileError):
    """A model file has a format that this version of the package does not read."""
