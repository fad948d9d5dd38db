"""ASE calculator: GFN1-xTB plus a correction learned from labelled clusters.

The public names are loaded when they are first used, so that ``import ase_knncalc`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_knncalc._lib.parallel import cluster
    from ase_knncalc.analysis.binding import Binding, binding_energy
    from ase_knncalc.analysis.explanation import Explanation
    from ase_knncalc.analysis.membership import find_in_training
    from ase_knncalc.analysis.ranking import predict_frames
    from ase_knncalc.analysis.results import snapshot
    from ase_knncalc.calculator import KNNCalculator
    from ase_knncalc.data import KeyMap, LabelledDataset, read_dataset
    from ase_knncalc.knn.mlkr import MLKR
    from ase_knncalc.model import KNNModel
    from ase_knncalc.prediction import Neighbor, Prediction, Predictions
    from ase_knncalc.settings import TrainingSettings
    from ase_knncalc.store import clear_cache, list_models, load_model, save_model
    from ase_knncalc.training import train

__version__ = "0.2.0"

_HOMES = {
    "Binding": "analysis.binding",
    "Explanation": "analysis.explanation",
    "KNNCalculator": "calculator",
    "KNNModel": "model",
    "KeyMap": "data",
    "LabelledDataset": "data",
    "MLKR": "knn.mlkr",
    "Neighbor": "prediction",
    "Prediction": "prediction",
    "Predictions": "prediction",
    "TrainingSettings": "settings",
    "binding_energy": "analysis.binding",
    "clear_cache": "store",
    "cluster": "_lib.parallel",
    "find_in_training": "analysis.membership",
    "list_models": "store",
    "load_model": "store",
    "predict_frames": "analysis.ranking",
    "read_dataset": "data",
    "save_model": "store",
    "snapshot": "analysis.results",
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
    "Predictions",
    "TrainingSettings",
    "__version__",
    "binding_energy",
    "clear_cache",
    "cluster",
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
