"""Programs that ask this package for energies: ORCA, i-PI, OpenMM.

Hosts that take an ASE calculator as it is need nothing here, see ``docs/hosts.md``.
"""

from __future__ import annotations

from ase_knncalc.hosts.extopt import answer, read_request
from ase_knncalc.hosts.openmm import openmm_force
from ase_knncalc.hosts.serving import drive, serve

__all__ = ["answer", "drive", "openmm_force", "read_request", "serve"]
