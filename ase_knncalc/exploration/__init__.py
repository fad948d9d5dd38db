"""From candidates to what is worth a calculation: relaxed, distinct, with Gibbs energies.

Each step is a function of a list of structures, and takes what the step before it gives.
"""

from __future__ import annotations

from ase_knncalc.exploration.distinct import distinct_groups, unique_frames
from ase_knncalc.exploration.relaxation import relax_frames

__all__ = ["distinct_groups", "relax_frames", "unique_frames"]
