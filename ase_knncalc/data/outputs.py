"""Outputs of ORCA and Gaussian, one file or folders of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms

from ase_knncalc.data.paths import ErrorHandler, file_stem, has_suffix, printable
from ase_knncalc.errors import DataError

SUFFIXES = (".out", ".log")

# ORCA prints "Total Charge  Charge .... -1" and "Multiplicity  Mult .... 1", Gaussian
# "Charge = -1 Multiplicity = 1". ASE reads neither, and an anion read as neutral would be a
# wrong label without a sign of it.
_ORCA_CHARGE = re.compile(r"^\s*Total Charge\s+Charge\s+\.{3,}\s+(-?\d+)", re.MULTILINE)
_ORCA_MULTIPLICITY = re.compile(r"^\s*Multiplicity\s+Mult\s+\.{3,}\s+(\d+)", re.MULTILINE)
_GAUSSIAN_CHARGE = re.compile(r"^\s*Charge\s*=\s*(-?\d+)\s+Multiplicity\s*=\s*(\d+)", re.MULTILINE)


def output_files(folder: Path) -> list[Path]:
    """Outputs of ORCA or Gaussian in a folder and its subfolders, in the order of their names."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and has_suffix(p, SUFFIXES))


def iter_outputs(
    path: Path, frames: slice, on_error: ErrorHandler | None
) -> Iterator[tuple[int, Atoms]]:
    """The last structure of each output in a folder, with its number."""
    files = output_files(path)
    if not files:
        raise DataError(f"{path}: the folder holds no output files (*.out, *.log)")
    times = Counter(file_stem(file) for file in files)
    for number, file in list(enumerate(files))[frames]:
        try:
            atoms = _read_output(file)
            # One folder for each structure, with files that all have the same name.
            inside = file.relative_to(path)
            stem = file_stem(file)
            name = stem if times[stem] == 1 else str(inside.parent / stem)
            atoms.info.setdefault("name", printable(name))
            atoms.info.setdefault("source", printable(str(inside)))
        except DataError as e:
            if on_error is None:
                raise
            on_error(file, e)
            continue
        yield number, atoms


def _read_output(file: Path) -> Atoms:
    from ase.io import read

    try:
        atoms = read(str(file), index=-1, do_not_split_by_at_sign=True)
    except Exception as e:  # see iter_frames
        detail = str(e) or type(e).__name__
        raise DataError(f"{file}: cannot be read as an ORCA or Gaussian output: {detail}") from e
    add_charge(atoms, file)
    return atoms


def add_charge(atoms: Atoms, file: Path) -> None:
    """Take charge and multiplicity, which ASE leaves in the text of an output."""
    text = file.read_text(encoding="utf-8", errors="replace")
    charges = _ORCA_CHARGE.findall(text)
    multiplicities = _ORCA_MULTIPLICITY.findall(text)
    if not charges:
        found = _GAUSSIAN_CHARGE.findall(text)
        charges = [charge for charge, _ in found]
        multiplicities = [multiplicity for _, multiplicity in found]
    if charges:
        atoms.info.setdefault("charge", int(charges[-1]))
    if multiplicities:
        atoms.info.setdefault("multiplicity", int(multiplicities[-1]))
