"""What ASE's plugin system (group ``ase.plugins``) finds: the calculator, not yet imported.

The system is experimental and moves within ASE; where it is not, or is another, there is nothing
to list, and ``get_calculator_class("knncalc")`` works all the same after ``import
ase_knncalc.calculator``.
"""

from __future__ import annotations

from typing import Any

__ase_plugins__: set[Any] = set()

try:
    from ase._4.plugins.plugin import CalculatorPlugin

    __ase_plugins__ = {
        CalculatorPlugin(
            "knncalc",
            citation="arXiv:2509.11728",
            implementation="ase_knncalc.calculator.KNNCalculator",
        )
    }
except (ImportError, TypeError):
    pass
