"""ASE calculator: GFN1-xTB plus a correction learned from labelled clusters.

The public names are loaded when they are first used, so that ``import ase_knncalc`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_knncalc.binding import Binding, binding_energy
    from ase_knncalc.calculator import KNNCalculator
    from ase_knncalc.data import KeyMap, LabelledDataset, read_dataset
    from ase_knncalc.explanation import Explanation
    from ase_knncalc.membership import find_in_training
    from ase_knncalc.metric import MLKR
    from ase_knncalc.model import KNNModel
    from ase_knncalc.prediction import Neighbor, Prediction
    from ase_knncalc.ranking import predict_frames
    from ase_knncalc.results import snapshot
    from ase_knncalc.settings import TrainingSettings
    from ase_knncalc.store import list_models, load_model, save_model
    from ase_knncalc.training import train

__version__ = "0.1.0"

_HOMES = {
    "Binding": "binding",
    "Explanation": "explanation",
    "KNNCalculator": "calculator",
    "KNNModel": "model",
    "KeyMap": "data",
    "LabelledDataset": "data",
    "MLKR": "metric",
    "Neighbor": "prediction",
    "Prediction": "prediction",
    "TrainingSettings": "settings",
    "binding_energy": "binding",
    "find_in_training": "membership",
    "list_models": "store",
    "load_model": "store",
    "predict_frames": "ranking",
    "read_dataset": "data",
    "save_model": "store",
    "snapshot": "results",
    "train": "training",
}

__all__ = [
    "MLKR",
    "Binding",
    "Explanation",
    "KNNCalculator",
    "KNNModel",
    "KeyMap",
    "LabelledDataset",
    "Neighbor",
    "Prediction",
    "TrainingSettings",
    "__version__",
    "binding_energy",
    "find_in_training",
    "list_models",
    "load_model",
    "predict_frames",
    "read_dataset",
    "save_model",
    "snapshot",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ase_knncalc.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ase_knncalc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
