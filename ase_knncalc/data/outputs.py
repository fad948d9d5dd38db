"""Outputs of ORCA and Gaussian, one file or folders of them; folders of structures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms

from ase_knncalc.data.extxyz import iter_extxyz
from ase_knncalc.data.gaussian import is_gaussian, read_gaussian
from ase_knncalc.data.jkqc import read_jkqc
from ase_knncalc.data.orca import is_orca, read_orca
from ase_knncalc.data.paths import ErrorHandler, encoding_of, file_stem, has_suffix, printable
from ase_knncalc.data.results import NoLabelError
from ase_knncalc.errors import DataError

SUFFIXES = (".out", ".log")


# Outputs that are looked at to see whether a folder is one of outputs: it is of one program.
_LOOKED_AT = 20


def output_files(folder: Path) -> list[Path]:
    """Files with structures in a folder and its subfolders, in the order of their names.

    Outputs of ORCA or Gaussian; and where there are none, what programs that search for structures
    leave: CREST's conformers (but not its rotamers and scratch files), one ``.xyz`` a structure of
    ABCluster, xtb and JKCS, JKCS's ``.pkl``.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    outputs = [p for p in files if has_suffix(p, SUFFIXES)]
    structures = (
        [p for p in files if p.name == "crest_conformers.xyz"]
        or [p for p in files if has_suffix(p, (".xyz",)) and not p.name.startswith(_CREST)]
        or [p for p in files if has_suffix(p, (".pkl",))]
    )
    if not structures or any(map(_is_output, outputs[:_LOOKED_AT])):
        return outputs
    return sorted(structures, key=_by_numbers)


# Other files of CREST.
_CREST = ("crest_", "cregen_", "struc.xyz", "coord")


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """ABCluster's structures are 0.xyz to 10.xyz and on."""
    return [(int(t or 0), x) for x, t in re.findall(r"(\D*)(\d*)", str(path))]


def _is_output(file: Path) -> bool:
    text = _text_of(file)
    if is_orca(text) or is_gaussian(text):
        return True
    try:
        _by_ase(file)
    except NoLabelError:
        return False
    return True


def iter_outputs(
    path: Path, frames: slice, on_error: ErrorHandler | None
) -> Iterator[tuple[int, Atoms]]:
    """The structures of each file of :func:`output_files`, with their numbers."""
    files = output_files(path)
    if not files:
        raise DataError(
            f"{path}: the folder holds no output files (*.out, *.log), nor structures (*.xyz, "
            "*.pkl)"
        )
    if not has_suffix(files[0], SUFFIXES):
        yield from list(enumerate(_structures(path, files, on_error)))[frames]
        return
    times = Counter(file_stem(file) for file in files)
    for number, file in list(enumerate(files))[frames]:
        try:
            atoms = read_output(file)
        except DataError as e:
            if on_error is None:
                raise
            on_error(file, e)
            continue
        _name(atoms, path, file, times)
        yield number, atoms


def _structures(folder: Path, files: list[Path], on_error: ErrorHandler | None) -> Iterator[Atoms]:
    times = Counter(file_stem(file) for file in files)
    for file in files:
        try:
            if has_suffix(file, (".pkl",)):
                yield from read_jkqc(file)
                continue
            read = [atoms for _, atoms in iter_extxyz(file, on_error=on_error)]
        except (DataError, OSError) as e:
            if on_error is None:
                raise
            on_error(file, e if isinstance(e, DataError) else DataError(f"{file}: {e.strerror}"))
            continue
        for number, atoms in enumerate(read):
            _name(atoms, folder, file, times, f"-{number}" if len(read) > 1 else "")
            yield atoms


def _name(atoms: Atoms, folder: Path, file: Path, times: Counter[str], end: str = "") -> None:
    """A name and a source, where the file gave none."""
    # One folder for each structure, with files that all have the same name.
    inside = file.relative_to(folder)
    stem = file_stem(file)
    name = stem if times[stem] == 1 else str(inside.parent / stem)
    atoms.info.setdefault("name", printable(name) + end)
    atoms.info.setdefault("source", printable(str(inside)) + end.replace("-", "#"))


def _text_of(file: Path) -> str:
    raw = file.read_bytes()
    return raw.decode(encoding_of(raw[:4]), errors="replace").replace("\r\n", "\n")


def read_output(file: Path) -> Atoms:
    """The structure of the last converged energy of an output, with energy, forces and state.

    Outputs of programs other than ORCA and Gaussian are left to ASE.

    Raises
    ------
    DataError
        There is none, or the file cannot be read; says why.
    """
    text = _text_of(file)
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
