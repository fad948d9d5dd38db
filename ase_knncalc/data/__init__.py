"""Labelled data: reading, checking, writing."""

from __future__ import annotations

from ase_knncalc.data.dataset import (
    LabelledDataset,
    Omission,
    read_dataset,
    read_usable,
    report_omissions,
)
from ase_knncalc.data.frames import iter_frames, write_frames
from ase_knncalc.data.jkqc import read_jkqc
from ase_knncalc.data.keys import KeyMap
from ase_knncalc.data.pairs import PairedFrames, pair_sources, read_pair
from ase_knncalc.data.sources import read_structures
from ase_knncalc.data.units import UnitSuspicion, check_spread, check_units, mixed_units

__all__ = [
    "KeyMap",
    "LabelledDataset",
    "Omission",
    "PairedFrames",
    "UnitSuspicion",
    "check_spread",
    "check_units",
    "iter_frames",
    "mixed_units",
    "pair_sources",
    "read_dataset",
    "read_jkqc",
    "read_pair",
    "read_structures",
    "read_usable",
    "report_omissions",
    "write_frames",
]
