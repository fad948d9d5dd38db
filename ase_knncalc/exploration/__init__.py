"""From candidates to what is worth a calculation: relaxed, distinct, with Gibbs energies.

Each step is a function of a list of structures, and takes what the step before it gives.
"""

from __future__ import annotations

from ase_knncalc.exploration.acdc import acdc_text, write_acdc
from ase_knncalc.exploration.campaign import Explored, explore
from ase_knncalc.exploration.chosen import Inputs, lowest_frames, write_inputs
from ase_knncalc.exploration.distinct import distinct_groups, unique_frames
from ase_knncalc.exploration.grid import ExploredGrid, explore_grid
from ase_knncalc.exploration.relaxation import relax_frames
from ase_knncalc.exploration.settings import ExploreSettings, read_settings
from ase_knncalc.exploration.thermo import (
    Conditions,
    Ensemble,
    GibbsTable,
    boltzmann,
    gibbs_table,
    minima_of,
)

__all__ = [
    "Conditions",
    "Ensemble",
    "ExploreSettings",
    "Explored",
    "ExploredGrid",
    "GibbsTable",
    "Inputs",
    "acdc_text",
    "boltzmann",
    "distinct_groups",
    "explore",
    "explore_grid",
    "gibbs_table",
    "lowest_frames",
    "minima_of",
    "read_settings",
    "relax_frames",
    "unique_frames",
    "write_acdc",
    "write_inputs",
]
