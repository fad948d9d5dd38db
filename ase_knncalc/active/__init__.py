"""Active learning: a loop that chooses structures, has them labelled, and learns.

>>> from ase_knncalc.active import read_config, run_loop
>>> reports = run_loop(read_config("config.toml"), progress=True)        # doctest: +SKIP
"""

from __future__ import annotations

from ase_knncalc.active.config import LoopConfig, read_config
from ase_knncalc.active.journal import Journal
from ase_knncalc.active.loop import ActiveLoop, run_loop
from ase_knncalc.active.plan import Plan

__all__ = ["ActiveLoop", "Journal", "LoopConfig", "Plan", "read_config", "run_loop"]
