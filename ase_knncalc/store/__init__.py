"""Files of this package: containers, model files, and whether they are whole."""

from __future__ import annotations

from ase_knncalc.store.model_file import (
    find_model,
    list_models,
    load_model,
    save_model,
    write_model,
)

__all__ = ["find_model", "list_models", "load_model", "save_model", "write_model"]
