"""Conformers by CREST, where that program is installed.

References
----------
P. Pracht, F. Bohle, S. Grimme, Phys. Chem. Chem. Phys. 22, 7169 (2020).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from ase_knncalc._lib.arguments import Count, checked
from ase_knncalc.data import read_structures
from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.structure import resolve_charge

PROGRAM = "crest"


def find_crest() -> str | None:
    """Path of the program; None if it is not installed."""
    return shutil.which(PROGRAM)


def crest_conformers(
    start: Atoms, *, cluster: bool, threads: int = 1, options: Sequence[str] = ()
) -> list[Atoms]:
    """Conformers on the surface of GFN1-xTB, lowest first.

    Parameters
    ----------
    start
        Where the search begins; charge and multiplicity as
        :func:`~ase_knncalc.structure.resolve_charge` has them.
    cluster
        Whether it is of several molecules: they are then held together by a wall (``--nci``).
        Protons may move in any case (``--noreftopo``).
    threads
        How many CREST may use.
    options
        More of its options, such as ``("--quick",)``.

    Returns
    -------
    list of Atoms
        With ``charge`` and ``multiplicity``, and ``sampled_by`` CREST, in ``info``.

    Raises
    ------
    SettingsError
        If CREST is not installed.
    KNNCalcError
        If it ends without conformers; with its last words.
    """
    program = find_crest()
    if program is None:
        raise SettingsError(f"there is no program {PROGRAM!r} on the path: install CREST")
    checked("threads", threads, Count)
    charge, multiplicity = resolve_charge(start)
    with tempfile.TemporaryDirectory(prefix="knncalc-crest-") as name:
        folder = Path(name)
        rows = (
            f"{symbol} {x:.10f} {y:.10f} {z:.10f}\n"
            for symbol, (x, y, z) in zip(start.symbols, start.positions.tolist(), strict=True)
        )
        text = f"{len(start)}\n\n{''.join(rows)}"
        (folder / "start.xyz").write_text(text, encoding="ascii")
        command = [
            program, "start.xyz", "--gfn1", "--chrg", str(charge), "--uhf", str(multiplicity - 1),
            "-T", str(threads), "--noreftopo", *(("--nci",) if cluster else ()), *options,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
            )  # fmt: skip
        except OSError as e:
            raise KNNCalcError(f"{program} cannot be started: {e.strerror}") from e
        found = folder / "crest_conformers.xyz"
        if done.returncode or not found.exists():
            said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise KNNCalcError(
                f"{program} ended without conformers (code {done.returncode}): "
                f"{' '.join(said[-2:])[-200:] or 'it said nothing'}"
            )
        frames = read_structures(found)
    return [_of_crest(atoms, charge, multiplicity) for atoms in frames]


def _of_crest(atoms: Atoms, charge: int, multiplicity: int) -> Atoms:
    bare = Atoms(atoms.numbers, atoms.positions)
    bare.info.update(charge=charge, multiplicity=multiplicity, sampled_by=PROGRAM)
    return bare
