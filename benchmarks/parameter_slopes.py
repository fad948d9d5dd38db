"""Parameters of GFN1-xTB that are fitted anew, and slopes of energy and forces by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.units import Bohr, Hartree
from joblib import Memory

from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.progress import track
from ase_knncalc._lib.threads import alone_on_one_thread
from ase_knncalc.baselines.parameters import (
    ParameterBaseline,
    Table,
    as_text,
    exported,
    of_elements,
)
from ase_knncalc.errors import BaselineError

# Of differences, in units of change: far above what a self-consistent cycle of ACCURACY leaves.
STEP = 0.25
ACCURACY = 0.05
# As many digits of a parameter are written, and computed with.
DIGITS = 6
# Pairs of elements with a factor of their own in the Hamiltonian; the heavier first, as in tblite.
PAIRS = ("H-H", "C-H", "N-H", "O-H", "S-H", "N-C", "O-C", "S-O", "O-N", "O-O")
HAMILTONIAN = ("hamiltonian", "xtb")
GLOBAL: tuple[tuple[tuple[str, ...], float], ...] = (
    (("charge", "effective", "gexp"), 0.1),
    (("dispersion", "d3", "a1"), 0.05),
    (("dispersion", "d3", "a2"), 0.3),
    (("dispersion", "d3", "s8"), 0.5),
    ((*HAMILTONIAN, "enscale"), 0.01),
    ((*HAMILTONIAN, "kpol"), 0.15),
    ((*HAMILTONIAN, "shell", "ss"), 0.08),
    ((*HAMILTONIAN, "shell", "sp"), 0.08),
    ((*HAMILTONIAN, "shell", "pp"), 0.08),
    (("repulsion", "effective", "kexp"), 0.05),
)
PAIR = 0.03
SCALARS = {"arep": 0.05, "zeff": 0.25, "gam": 0.02, "gam3": 0.03}
SHELLS = {"kcn": 0.02, "levels": 0.4, "lgam": 0.05, "shpoly": 0.03, "slater": 0.03}
# GFN1-xTB gives hydrogen neither third-order terms nor polynomials, and a charge of about 1.
HYDROGEN = {"zeff": 0.1, "gam3": 0.0, "shpoly": 0.0}


@dataclass(frozen=True)
class Parameter:
    """A number in a table of parameters.

    Attributes
    ----------
    path : tuple
        Keys and places that lead to it.
    unit : float
        A change that a fit may think of as one, in the unit of the table.
    """

    path: tuple[str | int, ...]
    unit: float

    @property
    def symbols(self) -> set[str]:
        """Elements that all have to be in a structure for it to matter; none: it always does."""
        if self.path[0] == "element":
            return {str(self.path[1])}
        return set(str(self.path[-1]).split("-")) if "kpair" in self.path else set()


@dataclass(frozen=True)
class Slopes:
    """Energy and forces of a structure, and what a unit of each parameter changes of them.

    Attributes
    ----------
    energy : float
        eV.
    forces : ndarray, shape (3 n_atoms,)
        eV/Å.
    of_energy : ndarray, shape (n_parameters,)
        eV.
    of_forces : ndarray, shape (3 n_atoms, n_parameters)
        eV/Å.
    """

    energy: float
    forces: FloatArray
    of_energy: FloatArray
    of_forces: FloatArray


def starting_table(symbols: Sequence[str]) -> Table:
    """GFN1-xTB of some elements, with a factor for each pair of them that is to be fitted."""
    table = exported("GFN1-xTB")
    pairs = table["hamiltonian"]["xtb"]["kpair"]
    table["hamiltonian"]["xtb"]["kpair"] = dict.fromkeys(PAIRS, 1.0) | pairs
    return of_elements(table, set(symbols))


def parameters_of(table: Table) -> tuple[Parameter, ...]:
    """What is fitted of a table: of all elements, of their pairs, and of each element."""
    found = [Parameter(path, unit) for path, unit in GLOBAL]
    pairs = table["hamiltonian"]["xtb"]["kpair"]
    found += [Parameter((*HAMILTONIAN, "kpair", p), PAIR) for p in PAIRS if p in pairs]
    for symbol in sorted(table["element"], key=lambda s: int(atomic_numbers[s])):
        of = HYDROGEN if symbol == "H" else {}
        shells = range(len(table["element"][symbol]["shells"]))
        paths: list[tuple[tuple[str | int, ...], float]] = [
            *(((name,), of.get(name, unit)) for name, unit in SCALARS.items()),
            *(
                ((name, shell), of.get(name, unit))
                for name, unit in SHELLS.items()
                # The hardness of the first shell is that of the element.
                for shell in shells[name == "lgam" :]
            ),
        ]
        found += [Parameter(("element", symbol, *path), unit) for path, unit in paths if unit]
    return tuple(found)


def values(table: Table, parameters: Sequence[Parameter]) -> FloatArray:
    """Of the parameters in a table, in its units, shape (n_parameters,)."""
    return np.array([_holder(table, p)[p.path[-1]] for p in parameters])


def units_of(parameters: Sequence[Parameter]) -> FloatArray:
    """Of change, shape (n_parameters,)."""
    return np.array([p.unit for p in parameters])


def moved(table: Table, parameters: Sequence[Parameter], changes: FloatArray) -> Table:
    """A table with parameters changed by as many of their units."""
    table = deepcopy(table)
    for parameter, change in zip(parameters, changes, strict=True):
        _holder(table, parameter)[parameter.path[-1]] += float(change) * parameter.unit
    return table


def _holder(table: Table, parameter: Parameter) -> Any:
    holder: Any = table
    for key in parameter.path[:-1]:
        holder = holder[key]
    return holder


def rounded(entry: Any) -> Any:
    """All numbers of a table with as many digits as are written."""
    if isinstance(entry, dict):
        return {key: rounded(value) for key, value in entry.items()}
    if isinstance(entry, list):
        return [rounded(value) for value in entry]
    return float(f"{entry:.{DIGITS}g}") if isinstance(entry, float) else entry


def slopes(
    text: str,
    parameters: Sequence[Parameter],
    numbers: IntArray,
    positions: FloatArray,
    charge: int,
    multiplicity: int,
) -> Slopes | str:
    """Differences over :data:`STEP`; why there are none, where the baseline fails.

    Every calculation starts from the density with the table's own parameters.
    """
    symbols = {chemical_symbols[z] for z in numbers}
    table = of_elements(json.loads(text), symbols)

    def point(table: Table, start: Any = None) -> tuple[Any, FloatArray]:
        baseline = ParameterBaseline(parameters=as_text(table), accuracy=ACCURACY)
        calculator = baseline._calculator(numbers, positions / Bohr, charge, multiplicity - 1)
        result = calculator.singlepoint(start, copy=True)
        force = -Hartree / Bohr * np.ravel(result.get("gradient"))
        return result, np.append(Hartree * float(result.get("energy")), force)

    matter = [i for i, p in enumerate(parameters) if p.symbols <= symbols]
    own = [parameters[i] for i in matter]
    found = np.zeros((len(parameters), 1 + 3 * len(numbers)))
    with alone_on_one_thread("tblite.interface"):
        try:
            start, here = point(table)
            for i, change in zip(matter, STEP * np.eye(len(own)), strict=True):
                found[i] = (point(moved(table, own, change), start)[1] - here) / STEP
        except (BaselineError, RuntimeError) as error:
            return str(error)
    if not np.isfinite(found).all():
        return "energy, forces or slopes that are no numbers"
    return Slopes(float(here[0]), here[1:], found[:, 0], found[:, 1:].T.astype(np.float32))


def all_slopes(
    frames: Sequence[Atoms],
    table: Table,
    parameters: Sequence[Parameter],
    *,
    cache: Path | None,
    n_jobs: int,
    progress: bool = True,
) -> list[Slopes | str]:
    """Of each frame (charge and multiplicity in ``info``); those in the folder are read there."""
    function = Memory(cache, verbose=0).cache(slopes)
    text = as_text(table)
    jobs = (
        (text, parameters, a.numbers, a.positions, int(a.info["charge"]), _multiplicity(a))
        for a in frames
    )
    found = run(function, jobs, total=len(frames), n_jobs=n_jobs)
    shown = track(found, total=len(frames), text="slopes by parameters", show=progress)
    return list(shown)


def force_errors(
    frames: Sequence[Atoms], table: Table, *, n_jobs: int, progress: bool = True
) -> FloatArray:
    """Magnitudes of the errors of all force components of the baseline alone, eV/Å, shape (n,).

    Frames that it fails for have none.
    """
    baseline = ParameterBaseline(parameters=as_text(table))
    jobs = ((baseline, a, int(a.info["charge"]), _multiplicity(a)) for a in frames)
    found = run(_force_errors, jobs, total=len(frames), n_jobs=n_jobs)
    return np.concatenate(
        list(track(found, total=len(frames), text="forces of the baseline", show=progress))
    )


def _force_errors(
    baseline: ParameterBaseline, atoms: Atoms, charge: int, multiplicity: int
) -> FloatArray:
    try:
        _, forces = baseline.energy_and_forces(atoms, charge, multiplicity)
    except BaselineError:
        return np.zeros(0)
    return np.abs(np.ravel(forces - atoms.arrays["reference_forces"]))


def _multiplicity(atoms: Atoms) -> int:
    return int(atoms.info.get("multiplicity", 1))
