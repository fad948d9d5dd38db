"""Properties beside the energy, and what is learned of them."""

from __future__ import annotations

from ase_knncalc.heads.head import Head, Heads
from ase_knncalc.heads.prediction import Gas, properties_of, require_heads
from ase_knncalc.heads.result import PropertyPrediction, Quantity, Thermal
from ase_knncalc.heads.targets import PropertyTarget

__all__ = [
    "Gas",
    "Head",
    "Heads",
    "PropertyPrediction",
    "PropertyTarget",
    "Quantity",
    "Thermal",
    "properties_of",
    "require_heads",
]
