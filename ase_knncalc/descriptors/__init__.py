"""Descriptors: from numbers and positions to arrays.

A descriptor gives one row of features per atom; their sum over atoms is the *global* descriptor of
the structure. The default is FCHL19.
"""

from __future__ import annotations

from ase_knncalc.descriptors.base import Descriptor, parse_elements, require_atoms, require_elements
from ase_knncalc.descriptors.batch import FeatureBatch, featurize
from ase_knncalc.descriptors.fchl19 import FCHL19
from ase_knncalc.descriptors.kinds import DESCRIPTORS, descriptor_from_dict
from ase_knncalc.descriptors.slatm import SLATM

__all__ = [
    "DESCRIPTORS",
    "FCHL19",
    "SLATM",
    "Descriptor",
    "FeatureBatch",
    "descriptor_from_dict",
    "featurize",
    "parse_elements",
    "require_atoms",
    "require_elements",
]
