"""Outputs of ORCA: the energy of the last job, with the geometry and the state it belongs to.

Jobs of one input (``$new_job``) stand one after the other, and the line of normal termination at
the end of all. Energy, geometry, gradient and charge are taken from one job, the last.
"""

from __future__ import annotations

import re

import numpy as np
from ase.data import atomic_numbers

from ase_knncalc.data.results import Calculation, NoLabelError

_JOB = re.compile(r"^\$+\s*JOB NUMBER\s+\d+.*$", re.MULTILINE)
_NUMBER = r"(-?\d+\.\d+(?:[eE][+-]?\d+)?)"
_ENERGY = re.compile(rf"^FINAL SINGLE POINT ENERGY(?:\s*\([^)]*\))?\s+{_NUMBER}(.*)$", re.MULTILINE)
_GEOMETRY = re.compile(r"^CARTESIAN COORDINATES \(ANGSTROEM\)\s*$", re.MULTILINE)
_GRADIENT = re.compile(r"^CARTESIAN GRADIENT\b.*$", re.MULTILINE)
_ATOM = re.compile(rf"^\s*([A-Z][a-z]?)(\s*:)?\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$")
_ROW = re.compile(rf"^\s*\d+\s+[A-Z][a-z]?\s*:\s*{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$")
_CHARGE = re.compile(r"^\s*Total Charge\s+Charge\s+\.{3,}\s+(-?\d+)", re.MULTILINE)
_MULTIPLICITY = re.compile(r"^\s*Multiplicity\s+Mult\s+\.{3,}\s+(\d+)", re.MULTILINE)
_UNCONVERGED = re.compile(r"SCF NOT CONVERGED|The SCF is not converged|not fully converged", re.I)
_STOPPED = re.compile(r"optimization did not converge|OPTIMIZATION HAS NOT CONVERGED", re.I)


def is_orca(text: str) -> bool:
    """Whether a text is an output of ORCA."""
    return bool(re.search(r"\* O {3}R {3}C {3}A \*", text))


def read_orca(text: str) -> Calculation:
    """The calculation that an output is of.

    Raises
    ------
    NoLabelError
        If it has none that converged; says why.
    """
    if "ORCA TERMINATED NORMALLY" not in text:
        raise NoLabelError("it did not finish: there is no line of normal termination")
    starts = [m.end() for m in _JOB.finditer(text)]
    job = text[starts[-1] :] if starts else text
    energies = list(_ENERGY.finditer(job))
    if not energies:
        raise NoLabelError("its last job has no final energy")
    energy = energies[-1]
    before = job[: energy.start()]
    since = before[energies[-2].end() :] if len(energies) > 1 else before
    if _UNCONVERGED.search(since) or _UNCONVERGED.search(energy[2]):
        raise NoLabelError("the SCF of its last energy did not converge")
    if _STOPPED.search(job):
        raise NoLabelError("the optimisation stopped before it converged")
    geometries = list(_GEOMETRY.finditer(before))
    if not geometries:
        raise NoLabelError("there is no geometry before its last energy")
    rows = _rows(before[geometries[-1].end() :], _ATOM)
    if any(row[2] for row in rows):
        raise NoLabelError("its geometry holds ghost atoms")
    numbers = np.array([atomic_numbers.get(row[1], 0) for row in rows], dtype=int)
    positions = np.array([[float(row[i]) for i in (3, 4, 5)] for row in rows]).reshape(-1, 3)
    found = Calculation(numbers, positions, float(energy[1]))
    found.charge = _only(_CHARGE, job, "charges")
    found.multiplicity = _only(_MULTIPLICITY, job, "multiplicities")
    behind = job[energy.end() :]
    gradient = _GRADIENT.search(behind)
    if gradient:
        slopes = _rows(behind[gradient.end() :], _ROW)
        if len(slopes) == len(numbers):
            found.forces = -np.array([[float(row[i]) for i in (1, 2, 3)] for row in slopes])
    return found


def _rows(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """Rows of the table at the beginning of a text."""
    rows: list[re.Match[str]] = []
    for line in text.splitlines()[1:]:
        match = pattern.match(line)
        if match:
            rows.append(match)
        elif rows or line.strip(" -"):
            break
    return rows


def _only(pattern: re.Pattern[str], job: str, what: str) -> int | None:
    values = {int(value) for value in pattern.findall(job)}
    if len(values) > 1:
        raise NoLabelError(f"it says {len(values)} different {what}")
    return next(iter(values), None)
