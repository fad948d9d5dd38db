"""Descriptors: from numbers and positions to arrays.

A descriptor gives one row of features per atom; their sum over atoms is the *global* descriptor of
the structure. The default is FCHL19.
"""

from __future__ import annotations

from ase_knncalc.descriptors.base import Descriptor, parse_elements, require_atoms, require_elements
from ase_knncalc.descriptors.batch import FeatureBatch, featurize, of_atoms, summed_width
from ase_knncalc.descriptors.compressed import Compressed, compress
from ase_knncalc.descriptors.fchl19 import FCHL19
from ase_knncalc.descriptors.kinds import DESCRIPTORS, descriptor_from_dict
from ase_knncalc.descriptors.moving import Derivatives, MovingRows
from ase_knncalc.descriptors.power_spectrum import PowerSpectrum
from ase_knncalc.descriptors.slatm import SLATM

__all__ = [
    "DESCRIPTORS",
    "FCHL19",
    "SLATM",
    "Compressed",
    "Derivatives",
    "Descriptor",
    "FeatureBatch",
    "MovingRows",
    "PowerSpectrum",
    "compress",
    "descriptor_from_dict",
    "featurize",
    "of_atoms",
    "parse_elements",
    "require_atoms",
    "require_elements",
    "summed_width",
]
