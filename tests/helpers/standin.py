"""A program that stands in for ORCA and others, and an ASE calculator that runs it.

Other processes find the calculator by the name of this module, see ``asking.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ase import units
from ase.calculators.calculator import FileIOCalculator
from ase.io import write

# Reads its input late and stays a while after its output, as long calculations would: whoever
# shares the folder has time to overwrite either. Its energy (Ha) is the sum of distances (Å) from
# the first atom; where that is sulfur it fails, where it is carbon it hangs.
PROGRAM = """#!{python}
import math, sys, time
time.sleep(0.1)
rows = []
for line in open(sys.argv[1]):
    words = line.split()
    if len(words) == 4 and words[0].isalpha():
        rows.append((words[0], *map(float, words[1:])))
if rows[0][0] == "S":
    sys.exit("SCF did not converge")
if rows[0][0] == "C":
    time.sleep(600)
print("Number of atoms   ....  %d" % len(rows))
print("Program Version 5.0.3 -  RELEASE  -")
print("-" * 33 + "\\nCARTESIAN COORDINATES (ANGSTROEM)\\n" + "-" * 33)
for row in rows:
    print("  %-3s %.6f %.6f %.6f" % row)
print("\\n------")
energy = sum(math.dist(row[1:], rows[0][1:]) for row in rows)
print("FINAL SINGLE POINT ENERGY %20.12f" % energy)
print("****ORCA TERMINATED NORMALLY****", flush=True)
time.sleep(0.1)
"""


class Program(FileIOCalculator):
    """Input, output and program have the same names for each structure."""

    implemented_properties = ["energy"]  # noqa: RUF012

    def __init__(self, program: Path, **options: Any) -> None:
        super().__init__(command=f"'{program}' in.xyz > out.txt", label="program", **options)

    def write_input(self, atoms, properties=None, system_changes=None) -> None:  # type: ignore[no-untyped-def]
        super().write_input(atoms, properties, system_changes)
        write(Path(self.directory) / "in.xyz", atoms, format="xyz")

    def read_results(self) -> None:
        text = (Path(self.directory) / "out.txt").read_text()
        energy = float(text.split("FINAL SINGLE POINT ENERGY")[1].split()[0])
        self.results["energy"] = energy * units.Hartree
