"""How accurate a method is: cross-validation, learning curves, comparisons, the report."""

from __future__ import annotations

from ase_knncalc.evaluation.comparisons import compare, tune
from ase_knncalc.evaluation.cross_validation import SPLITS, cross_validate, evaluate_split, splits
from ase_knncalc.evaluation.curves import learning_curve
from ase_knncalc.evaluation.scores import Held, Scores

__all__ = [
    "SPLITS",
    "Held",
    "Scores",
    "compare",
    "cross_validate",
    "evaluate_split",
    "learning_curve",
    "splits",
    "tune",
]
