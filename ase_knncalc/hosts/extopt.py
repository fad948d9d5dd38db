"""ORCA's external optimizer, ``! ExtOpt``: its request in a file, energy and gradient in another.

ORCA writes ``<job>_EXT.extinp.tmp`` and ``<job>_EXT.xyz`` and reads ``<job>_EXT.engrad``. Beside
that, a line of JSON for each request goes into ``<job>_EXT.knncalc.jsonl``: what an energy of this
package holds more than ORCA has a place for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import read
from ase.units import Bohr, Hartree

from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.calculator import KNNCalculator
from ase_knncalc.errors import DataError

_SUFFIX = ".extinp.tmp"


@dataclass(frozen=True)
class Request:
    """What ORCA asks for.

    Attributes
    ----------
    atoms : ase.Atoms
        Charge and multiplicity are in its ``info``.
    gradient : bool
        Whether a gradient is wanted.
    stem : Path
        Of the files of the answer: ``<job>_EXT``.
    """

    atoms: Atoms
    gradient: bool
    stem: Path


def read_request(path: str | Path) -> Request:
    """Read a request of ORCA.

    Five lines: the xyz file, charge, multiplicity, number of cores, whether the gradient is
    wanted; what follows ``#`` is a comment.

    Raises
    ------
    DataError
        If the file is not such a request, or it asks for point charges.
    """
    path = Path(path)
    if not path.name.endswith(_SUFFIX):
        raise DataError(f"{path}: expected a request of ORCA, <job>_EXT{_SUFFIX}")
    try:
        words = [line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
        xyz, charge, multiplicity, _, gradient, *more = [word for word in words if word]
        atoms = read(path.parent / xyz, format="xyz")
        atoms.info = {"charge": int(charge), "multiplicity": int(multiplicity)}
        wanted = bool(int(gradient))
    except (OSError, ValueError, IndexError) as e:
        raise DataError(
            f"{path} is no request of ORCA's ExtOpt ({e}); expected five lines: xyz file, charge, "
            "multiplicity, cores, gradient"
        ) from e
    if more:
        raise DataError(
            f"{path} asks for point charges ({more[0]}), of which the model knows nothing; leave "
            "them out"
        )
    return Request(atoms, wanted, path.with_name(path.name.removesuffix(_SUFFIX)))


def answer(path: str | Path, calculator: KNNCalculator) -> dict[str, Any]:
    """Answer a request of ORCA: write ``.engrad``, and a line of ``.knncalc.jsonl``.

    Parameters
    ----------
    path
        The request, ``<job>_EXT.extinp.tmp``.
    calculator
        Its ``on_novelty="raise"`` and thresholds are what ends ORCA's run.

    Returns
    -------
    dict
        ``energy``, ``energy_std``, ``baseline_energy`` (eV), ``novelty`` and ``nearest``, the
        names of the nearest training structures: what the line holds.

    Raises
    ------
    DataError
        As for :func:`read_request`; NoveltyError, BaselineError and others as for
        :meth:`KNNCalculator.calculate`: nothing is written then.
    """
    request = read_request(path)
    atoms = request.atoms
    forces = calculator.get_property("forces", atoms) if request.gradient else None
    energy = float(calculator.get_property("energy", atoms))
    results = calculator.results
    found = {
        "energy": energy,
        **{k: float(results[k]) for k in ("energy_std", "baseline_energy", "novelty")},
        "nearest": [neighbor.name for neighbor in results["neighbors"][:3]],
    }
    stem = request.stem
    text = _engrad(len(atoms), energy, forces)
    with atomic_write(stem.with_name(stem.name + ".engrad"), DataError) as engrad:
        engrad.write(text.encode())
    with stem.with_name(stem.name + ".knncalc.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    return found


def _engrad(n_atoms: int, energy: float, forces: FloatArray | None) -> str:
    """Text of an ``.engrad`` file: Hartree, and Hartree/Bohr one number a line."""
    parts = [("Number of atoms", [str(n_atoms)]), ("Energy, Eh", [f"{energy / Hartree:.12f}"])]
    if forces is not None:
        gradient = (-Bohr / Hartree * forces).ravel()
        parts.append(("Gradient, Eh/bohr", [f"{value:.12f}" for value in gradient]))
    return "".join(f"#\n# {head}\n#\n" + "\n".join(rows) + "\n" for head, rows in parts)
