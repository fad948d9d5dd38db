"""Structures to label: where candidates come from, and which are chosen."""

from __future__ import annotations

from ase_knncalc.sampling.candidates import sample
from ase_knncalc.sampling.ingredients import parse_ingredients
from ase_knncalc.sampling.selection import select_frames
from ase_knncalc.sampling.settings import SamplingSettings

__all__ = ["SamplingSettings", "parse_ingredients", "sample", "select_frames"]
