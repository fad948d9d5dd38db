"""Outputs of Gaussian: the last converged energy, with the geometry and the state it belongs to.

An output holds jobs (``--Link1--``, or the steps of one route), each with a line of termination at
its end. What is meant is the last; where it did not end well, an energy before it may be of another
level of theory, so that the file has no label. Within the job, an energy belongs to the orientation
printed before it; geometries that are printed once more have none.
"""

from __future__ import annotations

import re

import numpy as np

from ase_knncalc.data.results import Calculation, NoLabelError

_END = re.compile(r"^ ?(Normal|Error) termination\b.*$", re.MULTILINE)
_STATE = re.compile(r"^\s*Charge\s*=\s*(-?\d+)\s+Multiplicity\s*=\s*(\d+)(.*)$", re.MULTILINE)
_NUMBER = r"(-?\d*\.\d+(?:[DdEe][+-]?\d+)?)"
# What matters, in the order of the text.
_EVENTS = re.compile(
    r"^[ \t]*(?P<frame>Input|Standard|Z-Matrix) orientation:"
    rf"|^[ \t]*SCF Done:\s+E\((?P<method>[^)]*)\)\s*=\s*(?P<scf>{_NUMBER})"
    rf"|\bE2\([^)]*\)\s*=\s*{_NUMBER}\s+E\([^)]*\)\s*=\s*(?P<hybrid>{_NUMBER})"
    rf"|\b(?:EUMP2|UMP4\(SDTQ\)|UMP4\(SDQ\)|QCISD\(T\)|CCSD\(T\))\s*=\s*(?P<post>{_NUMBER})"
    r"|(?P<failed>Convergence criterion not met|Convergence failure)"
    r"|(?P<forces>Forces \(Hartrees/Bohr\))",
    re.MULTILINE,
)
_ATOM = re.compile(rf"^\s*\d+\s+(-?\d+)\s+-?\d+\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$")
_FORCE = re.compile(rf"^\s*\d+\s+(-?\d+)\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$")
_DOUBLE_HYBRID = re.compile(r"2-?PLYP|PBE0DH|PBEQIDH|DSD|B2K|wB2", re.IGNORECASE)
_CORRELATED = re.compile(r"^ ?#.*\b(?:R|U|RO)?(?:MP[2-5]|CCSD|QCISD|CISD|CCD|BD)\b", re.I | re.M)
# Layers, excited states and composite methods: the energy of the SCF is not theirs.
_OTHER_ENERGY = re.compile(
    r"\bONIOM\b|E\(TD-HF/TD-DFT\)|\b(?:G[1-4](?:MP2)?|CBS-\w+|W1\w*) Energy=", re.MULTILINE
)


def is_gaussian(text: str) -> bool:
    """Whether a text is an output of Gaussian."""
    return bool(re.search(r"Entering Gaussian System|^ Gaussian\(R\)|Gaussian, Inc\.", text, re.M))


def read_gaussian(text: str) -> Calculation:
    """The calculation that an output is of.

    Raises
    ------
    NoLabelError
        If it has none that converged; says why.
    """
    job = _last_job(text)
    other = _OTHER_ENERGY.search(job)
    if other:
        raise NoLabelError(f"its energy is put together from several ({other[0].strip()})")
    calculation = _calculation(job)
    calculation.charge, calculation.multiplicity = _state(job)
    return calculation


def _last_job(text: str) -> str:
    ends = list(_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    begun = "Proceeding to internal job step" in rest or is_gaussian(rest)
    if not ends or begun or _EVENTS.search(rest):
        raise NoLabelError("its last job did not finish: there is no line of normal termination")
    if ends[-1][1] == "Error":
        why = "the SCF did not converge" if "Convergence failure" in text else ends[-1][0].strip()
        if "Number of steps exceeded" in text:
            why = "the optimisation stopped before it converged"
        raise NoLabelError(f"its last job failed: {why}")
    # Error links print several lines of termination; a job begins behind those before it.
    return text[ends[-2].end() if len(ends) > 1 else 0 : ends[-1].end()]


def _state(job: str) -> tuple[int, int]:
    """Charge and multiplicity of the whole; fragments have lines of their own."""
    found = [m for m in _STATE.finditer(job) if "fragment" not in m[3]]
    states = {(int(m[1]), int(m[2])) for m in found}
    if len(states) != 1:
        raise NoLabelError(f"it says {len(states)} different charges and multiplicities")
    return next(iter(states))


def _calculation(job: str) -> Calculation:
    counterpoise = "ounterpoise" in job
    if job.count("Counterpoise corrected energy") > 1 or job.count("Counterpoise: corrected") > 1:
        raise NoLabelError("it is an optimisation with counterpoise correction")
    positions: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # since the last energy
    last: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    found: Calculation | None = None
    method, converged, orientation = "", True, ""
    for event in _EVENTS.finditer(job):
        if event["frame"]:
            positions[event["frame"]] = _table(job, event.end(), _ATOM)
        elif event["failed"]:
            converged = False
        elif event["scf"]:
            if not converged:
                found, converged = None, True
                continue
            if counterpoise and found is not None:
                break  # the energies that follow are those of fragments
            last, positions = positions or last, {}
            orientation = next((k for k in ("Input", "Z-Matrix", "Standard") if k in last), "")
            if not orientation:
                raise NoLabelError("there is no geometry before its energy")
            method = event["method"]
            found = Calculation(*last[orientation], energy=_real(event["scf"]))
        elif found is not None and (event["post"] or event["hybrid"]):
            found.energy, found.complete = _real(event["post"] or event["hybrid"]), True
        elif event["forces"] and found is not None:
            numbers, forces = _table(job, event.end(), _FORCE)
            # They are in the orientation of the input.
            if np.array_equal(numbers, found.numbers) and (
                orientation != "Standard" or re.search(r"nosymm", job, re.IGNORECASE)
            ):
                found.forces = forces
    if found is None:
        raise NoLabelError("it holds no SCF that converged")
    correlated = _DOUBLE_HYBRID.search(method) or _CORRELATED.search(job)
    if correlated and not found.complete:
        raise NoLabelError(f"the second part of its energy, beyond E({method}), is missing")
    return found


def _table(text: str, start: int, row: re.Pattern[str]) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and three columns of the table that begins after ``start``."""
    numbers, values, rules = [], [], 0
    for line in text[start : start + 200 * 2000].splitlines()[1:]:
        match = row.match(line)
        if match:
            numbers.append(int(match[1]))
            values.append([_real(match[i]) for i in (2, 3, 4)])
        elif line.strip().startswith("---"):
            rules += 1
            if numbers:
                break
        elif numbers or rules > 1:
            break
    return np.array(numbers, dtype=int), np.array(values, dtype=float).reshape(-1, 3)


def _real(text: str) -> float:
    return float(text.replace("D", "E").replace("d", "e"))
