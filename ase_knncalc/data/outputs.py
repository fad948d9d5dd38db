"""Outputs of ORCA and Gaussian, one file or folders of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms

from ase_knncalc.data.gaussian import is_gaussian, read_gaussian
from ase_knncalc.data.orca import is_orca, read_orca
from ase_knncalc.data.paths import ErrorHandler, encoding_of, file_stem, has_suffix, printable
from ase_knncalc.data.results import NoLabelError
from ase_knncalc.errors import DataError

SUFFIXES = (".out", ".log")


def output_files(folder: Path) -> list[Path]:
    """Outputs of ORCA or Gaussian in a folder and its subfolders, in the order of their names."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and has_suffix(p, SUFFIXES))


def iter_outputs(
    path: Path, frames: slice, on_error: ErrorHandler | None
) -> Iterator[tuple[int, Atoms]]:
    """The structure of each output in a folder, with its number."""
    files = output_files(path)
    if not files:
        raise DataError(f"{path}: the folder holds no output files (*.out, *.log)")
    times = Counter(file_stem(file) for file in files)
    for number, file in list(enumerate(files))[frames]:
        try:
            atoms = read_output(file)
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


def read_output(file: Path) -> Atoms:
    """The structure of the last converged energy of an output, with energy, forces and state.

    Outputs of programs other than ORCA and Gaussian are left to ASE.

    Raises
    ------
    DataError
        There is none, or the file cannot be read; says why.
    """
    raw = file.read_bytes()
    text = raw.decode(encoding_of(raw[:4]), errors="replace").replace("\r\n", "\n")
    read = read_orca if is_orca(text) else read_gaussian if is_gaussian(text) else None
    try:
        return _by_ase(file) if read is None else read(text).atoms()
    except NoLabelError as e:
        raise DataError(f"{file}: cannot be read as an ORCA or Gaussian output: {e}") from e


def _by_ase(file: Path) -> Atoms:
    from ase.io import read

    try:
        return read(str(file), index=-1, do_not_split_by_at_sign=True)
    except Exception as e:  # see iter_frames
        raise NoLabelError(f"ASE cannot read it either ({str(e) or type(e).__name__})") from e
