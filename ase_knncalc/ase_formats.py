"""What ASE imports before it reads a file (group ``ase.ioformats``): JKQC databases, as a format.

And the calculator by its name, not yet imported: ``ase run knncalc`` and ``get_calculator_class``
look for a module ``ase.calculators.knncalc`` and know nothing of ASE's own plugins.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from ase.utils.plugins import ExternalIOFormat

if TYPE_CHECKING:
    from ase import Atoms

jkqc = ExternalIOFormat("JKQC database", "+S", module="ase_knncalc.ase_formats", ext="pkl")


def read_jkqc(filename: str, index: slice | int = slice(None)) -> list[Atoms] | Atoms:
    """Structures of a JKQC database, with its energies in eV in ``info``.

    Raises
    ------
    DataError
        If it is none, or a pickle of anything else.
    """
    from ase_knncalc.data.jkqc import read_jkqc as read

    frames: list[Atoms] = read(filename)
    return frames[index]


class _Home(ModuleType):
    """Stands where ASE looks for the calculator."""

    def __getattr__(self, name: str) -> type:
        if name != "Knncalc":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from ase_knncalc.calculator import KNNCalculator

        return KNNCalculator


sys.modules.setdefault("ase.calculators.knncalc", _Home("ase.calculators.knncalc"))
