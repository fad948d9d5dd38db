"""Files of this package: containers, model files, and whether they are whole."""

from __future__ import annotations

from ase_knncalc.store.loaded import clear_cache
from ase_knncalc.store.model_file import (
    find_model,
    list_models,
    load_model,
    model_with_baseline,
    save_model,
    write_model,
)

__all__ = [
    "clear_cache",
    "find_model",
    "list_models",
    "load_model",
    "model_with_baseline",
    "save_model",
    "write_model",
]
