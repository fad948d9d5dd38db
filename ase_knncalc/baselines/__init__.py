"""Baseline methods: the cheap energy that the model corrects.

Everything that can serve as ``E_base`` follows one protocol, :class:`Baseline`: GFN1-xTB or
GFN2-xTB from either of two libraries, xTB with parameters of one's own, any ASE calculator, or
nothing. Charge and multiplicity are
always passed explicitly; :func:`ase_knncalc.structure.resolve_charge` finds them.

**Deterministic to the bit.** Each call builds fresh objects (a restart from earlier orbitals
changes the last digits) and runs on one thread (parallel sums depend on the order in which threads
finish), whatever ``OMP_NUM_THREADS`` says. Clusters of this size gain nothing from more; use
processes, one structure each. The one exception is asked for by name: ``following()`` gives a
tblite baseline that starts each SCF from the step before, for dynamics and relaxations.

**Threads.** The xTB baselines may be called from several threads: calls wait for each other,
since the thread limit, and state inside the Fortran libraries, belong to the process.
:class:`ASEBaseline` is as safe as its calculator, usually not at all.
"""

from __future__ import annotations

from ase_knncalc.baselines.ase_calculator import ASEBaseline, ChargeVia
from ase_knncalc.baselines.base import Baseline, GivenBaseline, NoBaseline, SinglePoint
from ase_knncalc.baselines.factory import baseline_difference, baseline_of, make_baseline
from ase_knncalc.baselines.named import NamedBaseline
from ase_knncalc.baselines.parameters import ParameterBaseline
from ase_knncalc.baselines.xtb import LIBRARIES, METHODS, TBLiteBaseline, XTBBaseline

__all__ = [
    "LIBRARIES",
    "METHODS",
    "ASEBaseline",
    "Baseline",
    "ChargeVia",
    "GivenBaseline",
    "NamedBaseline",
    "NoBaseline",
    "ParameterBaseline",
    "SinglePoint",
    "TBLiteBaseline",
    "XTBBaseline",
    "baseline_difference",
    "baseline_of",
    "make_baseline",
]
